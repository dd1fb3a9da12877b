"""Convolutions on the cube: plain, grouped, long sums in several passes; integers with requantization, floats with bias.

INT8: conv.normal (int32) -> add bias -> requantize per channel -> relu where the clamp of the result type does not do it.
Float: conv.normal with an f32 bias, f32 partial sums when the sum is cut, relu by max and min.
BM1684X code generation notes, 2 and 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from bmflow.codegen.assembler import Arith, Assembler
from bmflow.codegen.coefficients import TABLE_WORDS, Blob, pack_blob, pack_filter, requant_rows
from bmflow.codegen.emit_window import Chunk, Geometry, Part, Unit, WindowLayer, choose_plan
from bmflow.codegen.layer import Build, refuse, zero_point
from bmflow.codegen.operand import Constant, Local, Shape, aligned, aligned_bytes, compact, round_up
from bmflow.codegen.tiling import Axis, Span, spans
from bmflow.dialects.tpu.compute import TpuConv2DOp
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.types import DType, dtype_of, is_none, shape_of
from bmflow.ir.values import SSAValue
from bmflow.numerics.rounding import Rounding
from bmflow.target import Memory


def window_geometry(op: TpuConv2DOp) -> Geometry:
    """Sizes of a convolution; the padding value is the input's zero point."""
    n, ic, ih, iw = shape4(op.input)
    _, oc, oh, ow = shape4(op.output)
    kernel, stride, pads, dilation = (op.ints(name) for name in ("kernel_shape", "strides", "pads", "dilations"))
    return Geometry(
        (n, ic, ih, iw), (n, oc, oh, ow), dtype_of(op.input), dtype_of(op.output),
        Axis(ih, kernel[0], stride[0], pads[0], dilation[0], oh), Axis(iw, kernel[1], stride[1], pads[1], dilation[1], ow),
        zero_point(op.input),
    )  # fmt: skip


def shape4(value: SSAValue) -> Shape:
    """Shape of a (n, c, h, w) value; lower ranks get ones at the end."""
    n, c, h, w = (*shape_of(value), 1, 1, 1)[:4]
    return n, c, h, w


class ConvLayer(WindowLayer):
    """A convolution whose output channels are split over lanes and whose input channels are reduced inside the cube."""

    def __init__(self, build: Build, op: TpuConv2DOp) -> None:
        super().__init__(build, op.input, op.output, window_geometry(op))
        self.op = op
        self.weights = build.weight(op.filter)
        self.bias = None if is_none(op.bias) else build.weight(op.bias).reshape(-1)
        self.filter_dtype = dtype_of(op.filter)
        self.integer = not self.filter_dtype.is_float
        self.parallel = build.target.ic_parallel[self.filter_dtype.value]
        self.group = int(op["group"])  # pyright: ignore[reportArgumentType]
        plan = choose_plan(self, [self._units(rows) for rows in self._row_options()], self._chunk_options())
        if plan is None:
            raise refuse(op, f"with a {self.weights.shape} filter does not fit local memory in any tiling")
        self.plan = plan
        for unit, chunk in product(plan.units, plan.chunks):
            self.blobs[unit, chunk] = self._blob(unit, chunk)

    def _row_options(self) -> list[int]:
        """Channel rows a unit may have; an f32 filter has one unless its rows are whole vectors anyway."""
        oc, ic, kh, kw = self.weights.shape
        rows = -(-(oc // self.group) // self.memory.lanes)
        whole = self.parallel > 1 or ic * kh * kw * self.filter_dtype.itemsize % self.memory.eu_bytes == 0
        return sorted({-(-rows // parts) for parts in range(1, rows + 1)}, reverse=True) if whole else [1]

    def _units(self, rows: int) -> list[Unit]:
        oc, ic = self.weights.shape[0] // self.group, self.weights.shape[1]
        return [
            Unit(Span(g * ic, ic), Span(g * oc + part.first, part.count))
            for g, part in product(range(self.group), spans(oc, rows * self.memory.lanes))
        ]  # fmt: skip

    def _chunk_options(self) -> Iterator[list[Chunk]]:
        """The whole sum, then ever more pieces: over input channels, then also over kernel rows.

        A dilation too long for the command is taken apart row by row only along h; along w single columns are loaded.
        """
        _, ic, kh, _ = self.weights.shape
        size = ic
        while True:
            yield [Chunk(part, Span(0, kh)) for part in spans(ic, size)]
            if size <= self.parallel:
                break
            size = round_up(-(-size // 2), self.parallel)
        yield [Chunk(part, row) for part, row in product(spans(ic, size), spans(kh, 1))]

    def coefficient_bytes(self, unit: Unit, chunk: Chunk) -> int:
        """Bytes per lane of `[requant rows][bias][filter]`."""
        rows = -(-unit.y.count // self.memory.lanes)
        head = (rows - 1) * self.memory.eu_bytes + 4 * TABLE_WORDS + 4 * rows if self.integer else 4 * rows
        groups = -(-chunk.channels.count // self.parallel)
        row = groups * self.parallel * chunk.taps.count * self.weights.shape[3] * self.filter_dtype.itemsize
        return round_up(head, self.memory.eu_bytes) + round_up(rows * row, 4)

    def compute_cycles(self, positions: int, unit: Unit, chunk: Chunk) -> float:
        """The cube handles `parallel` channels at four positions a cycle in every lane; each 32-bit pass over the result adds to it."""
        rows = -(-unit.y.count // self.memory.lanes)
        cube = rows * -(-chunk.channels.count // self.parallel) * chunk.taps.count * self.weights.shape[3] * -(-positions // 4)
        passes = 2 if self.integer else 0
        return cube / self.build.rates.conv_efficiency + passes * rows * positions * DType.I32.itemsize / self.memory.eu_bytes

    def _blob(self, unit: Unit, chunk: Chunk) -> Blob:
        channels = slice(unit.y.first, unit.y.end)
        part = self.weights[channels, chunk.channels.first : chunk.channels.end, chunk.taps.first : chunk.taps.end]
        packed = pack_filter(part, self.filter_dtype, self.parallel, self.memory.lanes)
        final = chunk == self.plan.chunks[-1]
        table = requant_rows(*requantization(self.op, channels), zero_point(self.op.output)) if self.integer and final else None
        return pack_blob(
            self.build.image, self.memory, layer_name(self.op.filter), packed,
            bias=self.bias[channels] if self.bias is not None and final else None,
            bias_dtype=DType.I32 if self.integer else DType.F32, table=table, filter_align=self.memory.eu_bytes,
        )  # fmt: skip

    def scratch_bytes(self, x: Shape, y: Shape, chunks: int) -> list[int]:
        """The 32-bit sum, unless the result itself can hold it."""
        return [aligned_bytes(self.memory, y, self._sum_dtype)] if self.integer or chunks > 1 else []

    @property
    def _sum_dtype(self) -> DType:
        return DType.I32 if self.integer else DType.F32

    def compute(self, asm: Assembler, part: Part) -> None:
        """Emit one pass of the sum, and after the last one what turns it into the result."""
        total = aligned(self.memory, part.scratch[0], part.y.shape, self._sum_dtype) if part.scratch else part.y
        blob = part.blob
        assert blob is not None
        oc = part.unit.y.count
        kernel = (part.chunk.channels.count, part.kernel[0] * part.kernel[1])
        filters = Local(part.coefficients + blob.filter_at, (1, oc, *kernel), self.filter_dtype, (0, 0, 0, 1))
        bias = None
        if blob.bias_at is not None:
            bias = compact(self.memory, part.coefficients + blob.bias_at, (1, oc, 1, 1), DType.I32 if self.integer else DType.F32)
        asm.conv(
            total, part.x, filters, kernel=part.kernel, stride=part.stride, pads=part.pads, dilation=part.dilation,
            bias=None if self.integer else bias, pad_value=self.geometry.pad_value, res_add=not part.first,
        )  # fmt: skip
        if not part.last:
            return
        if self.integer:
            emit_requant(asm, self.memory, self.op, part, total, bias)
            return
        if total is not part.y:
            asm.arith(Arith.COPY if part.y.dtype is total.dtype else Arith.CAST, part.y, total)
        emit_relu(asm, self.op, part.y)


def requantization(op: TpuConv2DOp, channels: slice) -> tuple[list[int], list[int]]:
    """Multipliers and right shifts of some output channels; a list of one stands for all channels."""
    oc = shape_of(op.output)[1]
    multipliers, rshifts = op.ints("multiplier"), op.ints("rshift")
    return (multipliers if len(multipliers) > 1 else multipliers * oc)[channels], (rshifts if len(rshifts) > 1 else rshifts * oc)[channels]


def emit_requant(asm: Assembler, memory: Memory, op: TpuConv2DOp, part: Part, total: Local, bias: Local | None) -> None:
    """int32 sum -> result: bias, requantization half up, and relu where the zero point is not the smallest value."""
    blob = part.blob
    assert blob is not None
    assert blob.table_at is not None
    if bias is not None:
        asm.arith(Arith.ADDS, total, replace(bias, shape=total.shape, strides=(0, 1, 0, 0)), total)
    table = aligned(memory, part.coefficients + blob.table_at, (1, part.unit.y.count, 1, TABLE_WORDS), DType.I32)
    asm.requant(part.y, total, table, rounding=Rounding.HALF_UP)
    emit_relu(asm, op, part.y, zero_point(op.output))


def emit_relu(asm: Assembler, op: LayerOp, y: Local, zero: int = 0) -> None:
    """Clamp `y` in place as the op's do_relu and relu_limit say; integers only where their type does not clamp already."""
    if not op["do_relu"]:
        return
    if y.dtype.is_float or zero > y.dtype.limits[0]:
        asm.arith(Arith.MAX, y, y, Constant(zero, y.dtype))
    limit = float(op["relu_limit"])  # pyright: ignore[reportArgumentType]
    if y.dtype.is_float and limit > 0:
        asm.arith(Arith.MIN, y, y, Constant(limit, y.dtype))
