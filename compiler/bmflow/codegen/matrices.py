"""How matrix products are taken apart: batches into runs of equal steps, runs into tiles, and what a tiling costs by estimate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from bmflow.codegen.moves import MAX_SIZE
from bmflow.codegen.operand import Shape, round_up
from bmflow.codegen.tiling import Span, spans
from bmflow.codegen.views import merged
from bmflow.ir.types import DType
from bmflow.target import Memory, Rates

GRAIN = 64
"""Tiles are multiples of this many rows and columns: the lanes, and a whole vector of bytes."""
PARTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 256, 512, 1024)
"""Numbers of pieces that rows and columns are cut into, as a trial."""
CUBE_POSITIONS = 4
"""Columns of the result per cube step for 8- and 16-bit operands (BM1684X performance notes, 2)."""
REQUANT_PASSES = 3
"""Passes over the sum that the estimate counts for a requantization."""


@dataclass(frozen=True)
class Matrices:
    """Products (m, k) @ (k, n): for each of `starts` (element offsets of left, right, result) `count` of them, `steps` elements apart.

    A step of 0: all of them share the operand.
    """

    m: int
    k: int
    n: int
    count: int
    steps: tuple[int, int, int]
    starts: tuple[tuple[int, int, int], ...]

    def shares(self, side: int) -> bool:
        """Whether all products have the same left (0) or right (1) operand."""
        return self.steps[side] == 0 and len({start[side] for start in self.starts}) == 1


def matrices_of(left: Sequence[int], right: Sequence[int], result: Sequence[int], right_transpose: bool) -> Matrices:
    """Take the batch dimensions apart; those at the end that share the right operand become rows of one matrix."""
    m, k = left[-2:]
    n = result[-1]
    assert tuple(right[-2:]) == ((n, k) if right_transpose else (k, n))
    sizes, matrix_strides = merged([left[:-2], right[:-2], result[:-2]], result[:-2])
    strides = [[step * size for step in steps] for steps, size in zip(matrix_strides, (m * k, k * n, m * n), strict=True)]
    if sizes and strides[0][-1] and not strides[1][-1]:
        m *= sizes.pop()
        strides = [steps[:-1] for steps in strides]
    count = sizes.pop() if sizes else 1
    left_step, right_step, step = (steps.pop() if steps else 0 for steps in strides)
    starts: list[tuple[int, int, int]] = []
    for index in product(*(range(size) for size in sizes)):
        first, second, third = (sum(i * s for i, s in zip(index, steps, strict=True)) for steps in strides)
        starts.append((first, second, third))
    return Matrices(m, k, n, count, (left_step, right_step, step), tuple(starts))


@dataclass(frozen=True)
class Tiling:
    """Products, rows, columns and summands of one step; `right_stays`: rows change faster than columns."""

    count: int
    m: int
    n: int
    k: int
    right_stays: bool = True


def tilings(matrices: Matrices, k: int) -> Iterator[Tiling]:
    """Ways to cut, with sums in pieces of `k`: several whole products at once, then parts of one."""
    if k == matrices.k and max(matrices.m, matrices.n) <= MAX_SIZE:
        count = min(matrices.count, MAX_SIZE)
        while count > 1:
            yield Tiling(count, matrices.m, matrices.n, k)
            count = -(-count // 2)
    for m, n in product(_pieces(matrices.m), _pieces(matrices.n)):
        yield Tiling(1, m, n, k)
        if m < matrices.m and n < matrices.n:
            yield Tiling(1, m, n, k, right_stays=False)


def sum_pieces(k: int) -> Iterator[int]:
    """Lengths of the pieces of a sum, from the whole sum down to one vector."""
    piece = min(k, MAX_SIZE)
    while piece > GRAIN:
        yield piece
        piece = round_up(-(-piece // 2), GRAIN)
    yield piece


def _pieces(total: int) -> list[int]:
    """Sizes of tiles, multiples of GRAIN but for the whole, largest first."""
    cut = {min(round_up(-(-total // parts), GRAIN), total) for parts in (*PARTS, total)}
    return sorted((size for size in cut if size <= MAX_SIZE), reverse=True)


@dataclass(frozen=True)
class Costing:
    """What the estimate of a layer needs beside its sizes: types of left, right, sum and result."""

    memory: Memory
    rates: Rates
    left: DType
    right: DType
    sum: DType
    result: DType
    has_bias: bool


@dataclass(frozen=True)
class Tiled:
    """Products under a tiling."""

    matrices: Matrices
    tiling: Tiling

    @property
    def rows(self) -> list[Span]:
        """Pieces of m."""
        return spans(self.matrices.m, self.tiling.m)

    @property
    def columns(self) -> list[Span]:
        """Pieces of n."""
        return spans(self.matrices.n, self.tiling.n)

    @property
    def summands(self) -> list[Span]:
        """Pieces of k."""
        return spans(self.matrices.k, self.tiling.k)

    @property
    def batches(self) -> int:
        """Groups of products that are taken at once."""
        return len(self.matrices.starts) * -(-self.matrices.count // self.tiling.count)

    @property
    def loads(self) -> tuple[int, int]:
        """How often a tile of the left and of the right operand is loaded."""
        rows, columns = len(self.rows), len(self.columns)
        if self.tiling.k < self.matrices.k:
            every = self.batches * rows * columns * len(self.summands)
            return every, every
        stays = self.tiling.right_stays
        left = (1 if self.matrices.shares(0) and rows == 1 else self.batches) * rows * (columns if stays and rows > 1 else 1)
        right = (1 if self.matrices.shares(1) and columns == 1 else self.batches) * columns * (1 if stays or columns == 1 else rows)
        return left, right

    def shapes(self, right_transpose: bool) -> tuple[Shape, Shape, Shape]:
        """Largest tiles of left, right and result; an operand that all products of a step share is there once."""
        tiling = self.tiling
        left, right = (tiling.count if step else 1 for step in self.matrices.steps[:2])
        stored = (tiling.n, tiling.k) if right_transpose else (tiling.k, tiling.n)
        return (left, tiling.m, 1, tiling.k), (right, stored[0], 1, stored[1]), (tiling.count, tiling.m, 1, tiling.n)

    def cycles(self, costing: Costing) -> float:
        """Estimate: the busier engine all the time, the other one as long as nothing overlaps with it."""
        steps = self.batches * len(self.rows) * len(self.columns) * len(self.summands)
        gdma, tiu = self._gdma(costing), self._tiu(costing, steps)
        return max(gdma, tiu) + min(gdma, tiu) / steps

    def _gdma(self, costing: Costing) -> float:
        matrices, rates, stores = self.matrices, costing.rates, self.batches * len(self.rows) * len(self.columns)
        left, right, _ = self.shapes(False)
        left_loads, right_loads = self.loads
        bias_loads = (1 if len(self.columns) == 1 else right_loads) if costing.has_bias else 0
        moved = left_loads * prod(left) * costing.left.itemsize + right_loads * prod(right) * costing.right.itemsize
        moved += bias_loads * self.tiling.n * costing.sum.itemsize
        moved += len(matrices.starts) * matrices.count * matrices.m * matrices.n * costing.result.itemsize
        commands = left_loads + right_loads + bias_loads + stores
        return moved * rates.freq_hz / rates.ddr_bytes_per_second + commands * rates.gdma_start_cycles

    def _tiu(self, costing: Costing, steps: int) -> float:
        matrices, memory, rates = self.matrices, costing.memory, costing.rates
        lane_rows = len(matrices.starts) * matrices.count * sum(-(-span.count // memory.lanes) for span in self.rows)
        positions = CUBE_POSITIONS if costing.left.itemsize < DType.F32.itemsize else 1
        vectors = sum(-(-span.count * costing.left.itemsize // memory.eu_bytes) for span in self.summands)
        cube = lane_rows * vectors * sum(-(-span.count // positions) for span in self.columns)
        passes = (1 if costing.has_bias else 0) + (1 if costing.sum.is_float else REQUANT_PASSES)
        vector = passes * lane_rows * matrices.n * costing.sum.itemsize / memory.eu_bytes
        return cube / rates.conv_efficiency + vector + steps * (self.tiling.count + passes) * rates.tiu_start_cycles
