"""Matrix products tile by tile: integers with requantization, floats with one rounding; long sums in several passes.

INT8: mm2 (int32) -> add bias -> requantize -> relu where the clamp of the result type does not do it. Float: mm2 with an f32 result,
add bias, relu, one rounding; where nothing follows the sum, mm2 rounds it itself. BM1684X code generation notes, 2 and 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from bmflow.codegen.assembler import Arith, Assembler
from bmflow.codegen.coefficients import storage_bits
from bmflow.codegen.elementwise.narrow import emit_scaled
from bmflow.codegen.emit_conv import emit_relu
from bmflow.codegen.layer import Build, Layer, Tensor, refuse, zero_point
from bmflow.codegen.lmem import Slots, place_groups
from bmflow.codegen.matrices import Costing, Tiled, matrices_of, sum_pieces, tilings
from bmflow.codegen.operand import Ddr, Local, Shape, aligned, aligned_bytes
from bmflow.codegen.pipeline import Step, emit_pipelined
from bmflow.codegen.tiling import Span, spans
from bmflow.dialects.tpu.matmul import TpuMatMulOp
from bmflow.ir.layer import layer_name
from bmflow.ir.types import DType, dtype_of, is_none, shape_of
from bmflow.numerics.rounding import Rounding
from bmflow.passes.memory.lifetimes import is_activation


@dataclass(frozen=True)
class Plan:
    """A tiling and the addresses of its buffers; `scratch`: type and address by name."""

    tiled: Tiled
    left_at: list[int]
    right_at: list[int]
    bias_at: list[int]
    y_at: list[int]
    scratch: dict[str, tuple[DType, int]]


class MatMulLayer(Layer):
    """Matrix product of two activations, or of an activation and a constant on either side."""

    def __init__(self, build: Build, op: TpuMatMulOp) -> None:
        self.build, self.op, self.memory = build, op, build.memory
        self.x_dtype, self.right_dtype, self.y_dtype = (dtype_of(value) for value in (op.input, op.right, op.output))
        self.integer = not self.x_dtype.is_float
        self.sum_dtype = DType.I32 if self.integer else DType.F32
        self.transposed = bool(op["right_transpose"])
        self._check()
        self.matrices = matrices_of(shape_of(op.input), shape_of(op.right), shape_of(op.output), self.transposed)
        self.bias = self._bias()
        for value in (op.input, op.right):
            build.reserve(value)
        self.plan = self._choose()

    def _check(self) -> None:
        """Refuse what the op can say and no front end makes."""
        op = self.op
        odd = [name for name in ("left_transpose", "output_transpose", "hdim_is_batch") if op[name]]
        if odd or not op["keep_dims"]:
            raise refuse(op, f"with {odd[0] if odd else 'dropped dimensions'}")
        kinds = self.x_dtype, self.right_dtype, self.y_dtype
        if len({dtype.is_float for dtype in kinds}) > 1:
            raise refuse(op, f"of {', '.join(dtype.value for dtype in kinds)}, integers and floats at once")
        if zero_point(op.right) or (zero_point(op.input) and is_activation(op.right)):
            raise refuse(op, "with a zero point that no bias accounts for")
        if self.integer and len(op.ints("multipliers")) != 1:
            raise refuse(op, "with a requantization for every column")
        if self.integer and self.y_dtype.itemsize > 1 and zero_point(op.output):
            raise refuse(op, f"into {self.y_dtype.value} with a zero point")

    def _bias(self) -> Tensor | None:
        """The bias in DDR, a row of the sum's type."""
        if is_none(self.op.bias):
            return None
        row = storage_bits(self.build.weight(self.op.bias).reshape(-1), self.sum_dtype)
        return Tensor(self.build.image.add(layer_name(self.op.bias), row.tobytes()), (self.matrices.n,), self.sum_dtype)

    def _choose(self) -> Plan:
        """The quickest plan, by estimate, with as few pieces of the sum as possible.

        Raises:
            CompileError: not even the smallest tile fits.
        """
        costing = Costing(
            self.memory, self.build.rates, self.x_dtype, self.right_dtype, self.sum_dtype, self.y_dtype, self.bias is not None
        )
        for k, separate_banks in product(sum_pieces(self.matrices.k), (True, False)):
            every = [Tiled(self.matrices, tiling) for tiling in tilings(self.matrices, k)]
            plans = [plan for tiled in every if (plan := self._try(tiled, separate_banks)) is not None]
            if plans:
                return min(plans, key=lambda plan: plan.tiled.cycles(costing))
        raise refuse(self.op, f"of {shape_of(self.op.input)} and {shape_of(self.op.right)} does not fit local memory in any tiling")

    def _try(self, tiled: Tiled, separate_banks: bool) -> Plan | None:
        """Place the buffers; None when local memory is too small."""
        memory, scratch = self.memory, self._scratch(tiled)
        left, right, y = tiled.shapes(self.transposed)
        left_loads, right_loads = tiled.loads
        bias: Shape = (1, memory.lanes, 1, y[3])
        groups = [
            [aligned_bytes(memory, left, self.x_dtype)] * min(2, left_loads),
            [aligned_bytes(memory, right, self.right_dtype)] * min(2, right_loads),
            [aligned_bytes(memory, bias, self.sum_dtype)] * (min(2, len(tiled.columns)) if self.bias else 0),
            [aligned_bytes(memory, y, self.y_dtype)] * min(2, tiled.batches * len(tiled.rows) * len(tiled.columns)),
            [aligned_bytes(memory, y, dtype) for dtype in scratch.values()],
        ]  # fmt: skip
        placed = place_groups(memory, groups, separate_banks)
        if placed is None:
            return None
        left_at, right_at, bias_at, y_at, scratch_at = placed
        named = {name: (dtype, at) for (name, dtype), at in zip(scratch.items(), scratch_at, strict=True)}
        return Plan(tiled, left_at, right_at, bias_at, y_at, named)

    def _scratch(self, tiled: Tiled) -> dict[str, DType]:
        """Buffers of the result's shape: the sum where the result cannot hold it, a further piece of it, i16 in front of a zero point."""
        cut = tiled.tiling.k < self.matrices.k
        buffers: dict[str, DType] = {}
        if not self._sums_in_result(cut):
            buffers["total"] = self.sum_dtype
        if cut and (self.integer or self.transposed):
            buffers["piece"] = self.sum_dtype
        if self.integer and zero_point(self.op.output):
            buffers["spare"] = DType.I16
        return buffers

    def _sums_in_result(self, cut: bool) -> bool:
        """Whether the product is written into the result: f32, or a float that mm2 rounds because nothing is added any more."""
        return self.y_dtype is DType.F32 or (self.y_dtype is self.x_dtype and not self.integer and self.bias is None and not cut)

    def emit(self, asm: Assembler) -> None:
        """Emit all tiles, loads and stores overlapped with arithmetic."""
        plan, op = self.plan, self.op
        tensors = [self.build.tensor(value) for value in (op.input, op.right, op.output)]
        slots = [Slots(addresses) for addresses in (plan.left_at, plan.right_at, plan.bias_at, plan.y_at)]
        emit_pipelined([_MatMulStep(self, asm, tensors, slots, part) for part in self._parts()])

    def _parts(self) -> Iterator[Part]:
        matrices, tiled = self.matrices, self.plan.tiled
        if tiled.tiling.right_stays:
            tiles = [(row, column) for column, row in product(tiled.columns, tiled.rows)]
        else:
            tiles = list(product(tiled.rows, tiled.columns))
        batches = spans(matrices.count, tiled.tiling.count)
        for start, batch, (row, column), summands in product(matrices.starts, batches, tiles, tiled.summands):
            yield Part(start, batch, row, column, summands)


@dataclass(frozen=True)
class Part:
    """A piece of the sums of one tile, of the products `batch` of the run that starts at the element offsets `start`."""

    start: tuple[int, int, int]
    batch: Span
    m: Span
    n: Span
    k: Span


class _MatMulStep(Step):
    """One piece of the sum of one tile."""

    def __init__(self, layer: MatMulLayer, asm: Assembler, tensors: Sequence[Tensor], slots: Sequence[Slots], part: Part) -> None:
        self._layer, self._asm, self._slots, self._part = layer, asm, slots, part
        matrices = layer.matrices
        right, width = ((part.n, part.k), matrices.k) if layer.transposed else ((part.k, part.n), matrices.n)
        self._left_view = self._view(tensors, 0, (part.m, part.k), matrices.k)
        self._right_view = self._view(tensors, 1, right, width)
        self._y_view = self._view(tensors, 2, (part.m, part.n), matrices.n)
        self._left: Local
        self._right: Local
        self._bias: Local | None = None
        self._y: Local

    def _view(self, tensors: Sequence[Tensor], side: int, tile: tuple[Span, Span], width: int) -> Ddr:
        """Rows and columns of the matrices of the step; of one where all share it."""
        start, step, batch = self._part.start[side], self._layer.matrices.steps[side], self._part.batch
        rows, columns = tile
        shape: Shape = (batch.count if step else 1, rows.count, 1, columns.count)
        return tensors[side].view(shape, (step or 1, width, width, 1), start + batch.first * step + rows.first * width + columns.first)

    def load(self) -> None:
        layer, part = self._layer, self._part
        left_slots, right_slots, bias_slots, y_slots = self._slots
        self._left = self._load(left_slots, self._left_view)
        self._right = self._load(right_slots, self._right_view)
        if layer.bias is not None:
            self._bias = self._load_bias(bias_slots, layer.bias)
        address, _ = y_slots.take((part.start, part.batch, part.m, part.n))
        self._y = aligned(layer.memory, address, self._y_view.shape, layer.y_dtype)

    def _load(self, slots: Slots, view: Ddr) -> Local:
        address, fresh = slots.take(view)
        local = aligned(self._layer.memory, address, view.shape, view.dtype)
        if fresh:
            self._asm.dma(local, view)
        return local

    def _load_bias(self, slots: Slots, bias: Tensor) -> Local:
        """The row of the tile's columns, the same in every lane."""
        n, memory = self._part.n, self._layer.memory
        address, fresh = slots.take(n)
        local = aligned(memory, address, (1, memory.lanes, 1, n.count), bias.dtype)
        if fresh:
            self._asm.dma_broadcast(local, bias.view((1, 1, 1, n.count), (n.count, n.count, n.count, 1), n.first))
        return local

    def compute(self) -> None:
        """Emit one pass of the sum, and after the last one what turns it into the result."""
        layer, asm = self._layer, self._asm
        total = self._buffer("total") or self._y
        self._multiply(total)
        if self._part.k.end < layer.matrices.k:
            return
        if self._bias is not None:
            row = replace(self._bias, shape=total.shape, strides=(0, 0, 0, 1))
            asm.arith(Arith.ADDS if layer.integer else Arith.ADD, total, total, row)
        if layer.integer:
            self._requantize(total)
            return
        emit_relu(asm, layer.op, total)
        if total is not self._y:
            asm.arith(Arith.CAST, self._y, total)

    def _buffer(self, name: str) -> Local | None:
        found = self._layer.plan.scratch.get(name)
        return aligned(self._layer.memory, found[1], self._y.shape, found[0]) if found else None

    def _multiply(self, total: Local) -> None:
        """The products of the step into `total`, or added to what it holds: by mm2 itself for floats, else by way of a second buffer."""
        layer, asm, first = self._layer, self._asm, self._part.k.first == 0
        piece = None if first else self._buffer("piece")
        target = piece or total
        for i in range(self._part.batch.count):
            left, right, out = (_matrix(local, i) for local in (self._left, self._right, target))
            asm.matmul(out, left, right, right_transpose=layer.transposed, res_add=not first and piece is None)
        if piece is not None:
            asm.arith(Arith.ADDS if layer.integer else Arith.ADD, total, total, piece)

    def _requantize(self, total: Local) -> None:
        op = self._layer.op
        [multiplier], [rshift], zero = op.ints("multipliers"), op.ints("rshifts"), zero_point(op.output)
        emit_scaled(self._asm, self._y, total, multiplier, rshift, zero, Rounding.HALF_UP, self._buffer("spare"))
        emit_relu(self._asm, op, self._y, zero)

    def store(self) -> None:
        if self._part.k.end == self._layer.matrices.k:
            self._asm.dma(self._y_view, self._y)


def _matrix(local: Local, index: int) -> Local:
    """One matrix of several; the same for every index where there is only one."""
    number = index if local.shape[0] > 1 else 0
    return replace(local.at(number * local.strides[0] * local.dtype.itemsize), shape=(1, *local.shape[1:]))
