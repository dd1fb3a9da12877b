"""Depthwise convolutions: every output channel sees one input channel, in the same lane.

INT8: pord.depthwise (int32, bias inside) -> requantize per channel. Float: in f32 where a bias would lose digits in the operand
type, since the instruction takes its bias in that type (BM1684X instruction notes, 3.1 and 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from bmflow.codegen.assembler import Arith, Assembler
from bmflow.codegen.coefficients import TABLE_WORDS, Blob, pack_blob, pack_rows, requant_rows
from bmflow.codegen.emit_conv import emit_relu, emit_requant, requantization, window_geometry
from bmflow.codegen.emit_window import Chunk, Part, Unit, WindowLayer, choose_plan
from bmflow.codegen.layer import Build, refuse, zero_point
from bmflow.codegen.operand import Local, Shape, aligned, aligned_bytes, compact, round_up
from bmflow.codegen.tiling import Span, spans
from bmflow.dialects.tpu.compute import TpuConv2DOp
from bmflow.ir.layer import layer_name
from bmflow.ir.types import DType, dtype_of, is_none, shape_of
from bmflow.numerics.formats import to_bf16, to_f16


def is_depthwise(op: TpuConv2DOp) -> bool:
    """Whether every group has one input channel (any number of output channels)."""
    return op["group"] == shape_of(op.input)[1] and shape_of(op.filter)[1] == 1


class DepthwiseLayer(WindowLayer):
    """A depthwise convolution; `multiple` outputs per input become that many convolutions with interleaved results."""

    def __init__(self, build: Build, op: TpuConv2DOp) -> None:
        super().__init__(build, op.input, op.output, window_geometry(op))
        self.op = op
        self.weights = build.weight(op.filter)
        self.bias = None if is_none(op.bias) else build.weight(op.bias).reshape(-1)
        self.integer = not self.geometry.x_dtype.is_float
        self.widen = needs_f32(self.geometry.x_dtype, self.bias)
        plan = choose_plan(self, [self._units(rows) for rows in self._row_options()], self._chunk_options())
        if plan is None:
            raise refuse(op, f"with a {self.weights.shape} filter does not fit local memory in any tiling")
        self.plan = plan
        for unit, chunk in product(plan.units, plan.chunks):
            self.blobs[unit, chunk] = self._blob(unit, chunk)

    def _row_options(self) -> list[int]:
        rows = -(-self.geometry.x_shape[1] // self.memory.lanes)
        return sorted({-(-rows // parts) for parts in range(1, rows + 1)}, reverse=True)

    def _units(self, rows: int) -> list[Unit]:
        channels = self.geometry.x_shape[1]
        multiple = self.weights.shape[0] // channels
        return [
            Unit(part, Span(part.first * multiple + j, part.count), multiple)
            for part, j in product(spans(channels, rows * self.memory.lanes), range(multiple))
        ]  # fmt: skip

    def _chunk_options(self) -> Iterator[list[Chunk]]:
        kh = self.weights.shape[2]
        channels = Span(0, self.geometry.x_shape[1])
        yield [Chunk(channels, Span(0, kh))]
        if kh > 1 and (self.integer or self.compute_dtype is DType.F32):
            yield [Chunk(channels, row) for row in spans(kh, 1)]

    @property
    def compute_dtype(self) -> DType:
        """Type of the filter and, for floats, of everything the instruction touches."""
        if self.integer:
            return dtype_of(self.op.filter)
        return DType.F32 if self.widen else self.geometry.x_dtype

    def coefficient_bytes(self, unit: Unit, chunk: Chunk) -> int:
        """Bytes per lane of `[requant rows][bias][filter]`."""
        rows = -(-unit.y.count // self.memory.lanes)
        head = (rows - 1) * self.memory.eu_bytes + 4 * TABLE_WORDS + 4 * rows if self.integer else 4 * rows
        taps = chunk.taps.count * self.weights.shape[3]
        return round_up(head + rows * taps * self.compute_dtype.itemsize, 4) + 4

    def compute_cycles(self, positions: int, unit: Unit, chunk: Chunk) -> float:
        """One vector of outputs a cycle and tap, and the passes over 32-bit sums."""
        vectors = -(-unit.y.count // self.memory.lanes) * positions / self.memory.eu_bytes
        taps = chunk.taps.count * self.weights.shape[3]
        passes = (1 if self.integer else 2 if self.widen else 0) * DType.I32.itemsize
        return vectors * (taps * self.compute_dtype.itemsize + passes)

    def _blob(self, unit: Unit, chunk: Chunk) -> Blob:
        channels = slice(unit.y.first, unit.y.first + unit.y.count * unit.y_step, unit.y_step)
        part = self.weights[channels, 0, chunk.taps.first : chunk.taps.end].reshape(unit.y.count, -1)
        final = chunk == self.plan.chunks[-1]
        table = requant_rows(*requantization(self.op, channels), zero_point(self.op.output)) if self.integer and final else None
        return pack_blob(
            self.build.image, self.memory, layer_name(self.op.filter), pack_rows(part, self.compute_dtype, self.memory.lanes),
            bias=self.bias[channels] if self.bias is not None and final else None,
            bias_dtype=DType.I32 if self.integer else self.compute_dtype, table=table, filter_align=4,
        )  # fmt: skip

    def scratch_bytes(self, x: Shape, y: Shape, chunks: int) -> list[int]:
        """Sum (int32, or f32 where floats are widened), one more for partial sums, and the widened input."""
        wide = DType.I32 if self.integer else DType.F32
        sums = 1 + (chunks > 1) if self.integer or self.widen else chunks > 1
        return [aligned_bytes(self.memory, y, wide)] * sums + [aligned_bytes(self.memory, x, wide)] * self.widen

    def compute(self, asm: Assembler, part: Part) -> None:
        """Emit one pass; the first writes the sum, the others add to it."""
        blob = part.blob
        assert blob is not None
        wide = DType.I32 if self.integer else DType.F32
        sums = [aligned(self.memory, address, part.y.shape, wide) for address in part.scratch]
        total = sums[0] if self.integer or self.widen else part.y
        target = total if part.first else sums[1] if self.integer or self.widen else sums[0]
        channels = part.unit.y.count
        filters = compact(self.memory, part.coefficients + blob.filter_at, (1, channels, *part.kernel), self.compute_dtype)
        bias = None
        if blob.bias_at is not None:
            bias_dtype = DType.I32 if self.integer else self.compute_dtype
            bias = compact(self.memory, part.coefficients + blob.bias_at, (1, channels, 1, 1), bias_dtype)
        asm.depthwise(
            target, self._input(asm, part), filters, kernel=part.kernel, stride=part.stride, pads=part.pads,
            dilation=part.dilation, bias=bias, pad_value=self.geometry.pad_value,
        )  # fmt: skip
        if target is not total:
            asm.arith(Arith.ADDS if self.integer else Arith.ADD, total, total, target)
        if part.last:
            self._finish(asm, part, total)

    def _input(self, asm: Assembler, part: Part) -> Local:
        if not self.widen:
            return part.x
        wide = aligned(self.memory, part.scratch[-1], part.x.shape, DType.F32)
        asm.arith(Arith.CAST, wide, part.x)
        return wide

    def _finish(self, asm: Assembler, part: Part, total: Local) -> None:
        if self.integer:
            emit_requant(asm, self.memory, self.op, part, total, None)
            return
        if self.widen:
            asm.arith(Arith.CAST, part.y, total)
        emit_relu(asm, self.op, part.y)


def needs_f32(dtype: DType, bias: np.ndarray | None) -> bool:
    """Whether a 16-bit depthwise convolution must be computed in f32 because its bias is no number of the 16-bit type."""
    if dtype not in (DType.F16, DType.BF16) or bias is None:
        return False
    narrow = to_f16(bias) if dtype is DType.F16 else to_bf16(bias)
    return not np.array_equal(narrow, bias)
