"""Sums and maxima over the h axis of an f32 tile.

A pool over (n, c, h, 1) makes one element per lane and h cycles. Where the tile is one column and long enough it is read as rows of one
vector, filled up with what does not matter: one pool down the columns, one along the row that is left.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from bmflow.codegen.assembler import Arith, Assembler
from bmflow.codegen.operand import Constant, Local, aligned, round_up
from bmflow.ir.types import DType

WORTH_FOLDING = 4
"""Vectors from which on two short pools are quicker than a long one."""


def row_of(asm: Assembler, buffer: Local, tile: Local) -> Local:
    """One value for each column of a tile, (n, c, 1, w) f32, at the start of a buffer of the tile's shape."""
    n, c, _, w = tile.shape
    return aligned(asm.memory, buffer.address, (n, c, 1, w), DType.F32, buffer.lane)


def along_h(row: Local, tile: Local) -> Local:
    """The row as an operand of the tile's shape."""
    return replace(row, shape=tile.shape, strides=(row.strides[0], row.strides[1], 0, 1))


def emit_mean(asm: Assembler, row: Local, x: Local, divisor: float) -> None:
    """row = sum of x over h / divisor; x, EU-aligned f32, is kept but for what fills its last vectors, as is the buffer behind `row`."""
    x, row_of_vectors = _folded(asm, row, x, 0.0)
    if row_of_vectors is not None:
        asm.avg_pool(row_of_vectors, x, kernel=(x.shape[2], 1), stride=(1, 1), pads=(0, 0, 0, 0), scale=1.0)
        x = row_of_vectors
    asm.avg_pool(row, x, kernel=_whole(row, x), stride=(1, 1), pads=(0, 0, 0, 0), scale=1.0 / divisor)


def emit_maximum(asm: Assembler, row: Local, x: Local) -> None:
    """row = largest x over h, as `emit_mean`."""
    x, row_of_vectors = _folded(asm, row, x, -inf)
    if row_of_vectors is not None:
        asm.max_pool(row_of_vectors, x, kernel=(x.shape[2], 1), stride=(1, 1), pads=(0, 0, 0, 0), pad_value=0.0)
        x = row_of_vectors
    asm.max_pool(row, x, kernel=_whole(row, x), stride=(1, 1), pads=(0, 0, 0, 0), pad_value=0.0)


def _whole(row: Local, x: Local) -> tuple[int, int]:
    """A window over all that a row's element is made from."""
    return x.shape[2], x.shape[3] if row.shape[3] == 1 else 1


def _folded(asm: Assembler, row: Local, x: Local, neutral: float) -> tuple[Local, Local | None]:
    """The tile as rows of one vector, filled up, and a place for one such row behind `row`; the tile itself where that is not worth it."""
    (n, c, h, w), vector = x.shape, asm.memory.eu_bytes // x.dtype.itemsize
    if w > 1 or h < WORTH_FOLDING * vector:
        return x, None
    full = round_up(h, vector)
    if full > h:
        rest = replace(x.at(h * x.dtype.itemsize), shape=(n, c, full - h, 1), strides=(*x.strides[:2], 1, 1))
        asm.arith(Arith.COPY, rest, Constant(neutral, x.dtype))
    size = n * row.strides[0] * row.dtype.itemsize
    place = aligned(asm.memory, row.address + size, (n, c, 1, vector), DType.F32, row.lane)
    return aligned(asm.memory, x.address, (n, c, full // vector, vector), x.dtype, x.lane), place
