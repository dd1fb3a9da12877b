"""Max and average pools; pictures and channels are one axis here, since a pool treats every channel alike.

Average INT8: depthwise convolution with the constant weight 1 into int32, then one requantization. Average float: sum times
1 / count in one instruction, tiles cut so that the count is the same all over each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

from bmflow.codegen.assembler import Arith, Assembler
from bmflow.codegen.emit_conv import emit_relu, shape4
from bmflow.codegen.emit_window import Chunk, Geometry, Part, Unit, WindowLayer, choose_plan
from bmflow.codegen.exact_requant import ExactRequant, Requant, find_exact
from bmflow.codegen.layer import Build, refuse, zero_point
from bmflow.codegen.operand import Constant, Local, Shape, aligned, aligned_bytes
from bmflow.codegen.tiling import Axis, Span, spans
from bmflow.dialects.tpu.compute import TpuPool2DOp
from bmflow.ir.types import DType, dtype_of
from bmflow.numerics.rounding import Rounding


def pool_geometry(op: TpuPool2DOp, pad_value: float) -> Geometry:
    """Sizes of a pool, pictures folded into channels."""
    n, c, ih, iw = shape4(op.input)
    _, _, oh, ow = shape4(op.output)
    kernel, stride, pads = (op.ints(name) for name in ("kernel_shape", "strides", "pads"))
    h, w = (Axis(size, k, s, pad, 1, out) for size, k, s, pad, out in zip((ih, iw), kernel, stride, pads, (oh, ow), strict=False))
    return Geometry((1, n * c, ih, iw), (1, n * c, oh, ow), dtype_of(op.input), dtype_of(op.output), h, w, pad_value)


class PoolLayer(WindowLayer):
    """What all pools share: units of whole channel rows, chunks of kernel rows, no coefficients."""

    def __init__(self, build: Build, op: TpuPool2DOp, pad_value: float) -> None:
        super().__init__(build, op.input, op.output, pool_geometry(op, pad_value))
        self.op = op

    def choose(self, kinds: tuple[Callable[[int], int], Callable[[int], int]]) -> None:
        """Choose the plan.

        Raises:
            CompileError: one output with its window does not fit.
        """
        channels, lanes = self.geometry.x_shape[1], self.memory.lanes
        rows = -(-channels // lanes)
        sizes = sorted({-(-rows // parts) for parts in range(1, rows + 1)}, reverse=True)
        units = [[Unit(part, part) for part in spans(channels, size * lanes)] for size in sizes]
        plan = choose_plan(self, units, self._chunk_options(), kinds)
        if plan is None:
            raise refuse(self.op, f"with kernel {self.op.ints('kernel_shape')} does not fit local memory in any tiling")
        self.plan = plan

    def _chunk_options(self) -> Iterator[list[Chunk]]:
        channels, size = Span(0, self.geometry.x_shape[1]), self.geometry.h.kernel
        while size > 1:
            yield [Chunk(channels, taps) for taps in spans(self.geometry.h.kernel, size)]
            size = -(-size // 2)
        yield [Chunk(channels, taps) for taps in spans(self.geometry.h.kernel, 1)]

    def compute_cycles(self, positions: int, unit: Unit, chunk: Chunk) -> float:
        """One vector of outputs a cycle and tap."""
        vectors = -(-unit.y.count // self.memory.lanes) * positions * self.geometry.x_dtype.itemsize / self.memory.eu_bytes
        return vectors * chunk.taps.count * self.geometry.w.kernel

    def coefficient_bytes(self, unit: Unit, chunk: Chunk) -> int:
        """Pools have no coefficients."""
        return 0


class MaxPoolLayer(PoolLayer):
    """Largest value of each window; the padding is the smallest number of the type."""

    def __init__(self, build: Build, op: TpuPool2DOp) -> None:
        dtype = dtype_of(op.input)
        super().__init__(build, op, -inf if dtype.is_float else dtype.limits[0])
        self.choose((_same, _same))

    def scratch_bytes(self, x: Shape, y: Shape, chunks: int) -> list[int]:
        """One more result for the maximum of a further chunk."""
        return [aligned_bytes(self.memory, y, self.geometry.y_dtype)] if chunks > 1 else []

    def compute(self, asm: Assembler, part: Part) -> None:
        """Emit the maximum of one chunk, and join it to that of the chunks before."""
        target = part.y if part.first else aligned(self.memory, part.scratch[0], part.y.shape, part.y.dtype)
        asm.max_pool(target, part.x, kernel=part.kernel, stride=part.stride, pads=part.pads, pad_value=self.geometry.pad_value)
        if not part.first:
            asm.arith(Arith.MAX, part.y, part.y, target)
        if part.last:
            emit_relu(asm, self.op, part.y, zero_point(self.op.output))


class AveragePoolInt8Layer(PoolLayer):
    """y = requantized sum; asymmetric pools carry a real scale and offset, turned into integers that give the same for every sum."""

    def __init__(self, build: Build, op: TpuPool2DOp) -> None:
        super().__init__(build, op, zero_point(op.input))
        self.form = self._form()
        self.choose((_same, _same))

    def _form(self) -> ExactRequant:
        op, taps = self.op, self.geometry.h.kernel * self.geometry.w.kernel
        scale, offset = float(op["scale"]), float(op["offset"])  # pyright: ignore[reportArgumentType]
        if scale == 0.0:
            multiplier, rshift = int(op["multiplier"]), int(op["rshift"])  # pyright: ignore[reportArgumentType]
            return ExactRequant(Requant(0, multiplier, rshift, 0, Rounding.HALF_UP))
        low, high = self.geometry.x_dtype.limits
        form = find_exact(scale, offset, zero_point(op.output), (taps * low, taps * high), self.geometry.y_dtype.limits)
        if form is None:
            raise refuse(
                op, f"with scale {scale} and offset {offset} has no exact integer form; give it a float type in the quantize table"
            )
        return form

    def scratch_bytes(self, x: Shape, y: Shape, chunks: int) -> list[int]:
        """The int32 sum, one more for further chunks, and the second result of a two-sided requantization."""
        sums = [aligned_bytes(self.memory, y, DType.I32)] * (2 if chunks > 1 else 1)
        return sums + ([aligned_bytes(self.memory, y, self.geometry.y_dtype)] if self.form.negative else [])

    def compute(self, asm: Assembler, part: Part) -> None:
        """Emit the sum of one chunk; after the last one requantize."""
        total = aligned(self.memory, part.scratch[0], part.y.shape, DType.I32)
        target = total if part.first else aligned(self.memory, part.scratch[1], part.y.shape, DType.I32)
        asm.depthwise(
            target, part.x, Constant(1, DType.I8), kernel=part.kernel, stride=part.stride, pads=part.pads,
            pad_value=self.geometry.pad_value,
        )  # fmt: skip
        if not part.first:
            asm.arith(Arith.ADDS, total, total, target)
        if part.last:
            self._requantize(asm, part, total)

    def _requantize(self, asm: Assembler, part: Part, total: Local) -> None:
        positive, negative = self.form.positive, self.form.negative
        if positive.add:
            asm.arith(Arith.ADDS, total, total, Constant(positive.add, DType.I32))
        _requant(asm, part.y, total, positive)
        if negative is not None:
            other = aligned(self.memory, part.scratch[-1], part.y.shape, part.y.dtype)
            _requant(asm, other, total, negative)
            asm.arith(Arith.MAX, part.y, part.y, Constant(0, part.y.dtype))
            asm.arith(Arith.MIN, other, other, Constant(0, part.y.dtype))
            asm.arith(Arith.ADDS, part.y, part.y, other)
        emit_relu(asm, self.op, part.y, zero_point(self.op.output))


def _requant(asm: Assembler, y: Local, total: Local, form: Requant) -> None:
    asm.requant_const(y, total, form.multiplier, form.rshift, form.zero_point, rounding=form.rounding)


class AveragePoolFloatLayer(PoolLayer):
    """Mean over the window, or over its part inside the picture; cut sums are kept in f32 and rounded once."""

    def __init__(self, build: Build, op: TpuPool2DOp) -> None:
        super().__init__(build, op, 0.0)
        h, w = self.geometry.h, self.geometry.w
        self.whole = bool(op["count_include_pad"])
        self.choose((_same, _same) if self.whole else (h.covered, w.covered))

    def scratch_bytes(self, x: Shape, y: Shape, chunks: int) -> list[int]:
        """Two f32 sums, and the input in f32 where it is not, when the window is cut."""
        if chunks == 1:
            return []
        widened = [] if self.geometry.x_dtype is DType.F32 else [aligned_bytes(self.memory, x, DType.F32)]
        return [aligned_bytes(self.memory, y, DType.F32)] * 2 + widened

    def compute(self, asm: Assembler, part: Part) -> None:
        """Emit sum / count, in one piece or chunk by chunk."""
        h, w = self.geometry.h, self.geometry.w
        count = h.kernel * w.kernel if self.whole else h.covered(part.tile.h.first) * w.covered(part.tile.w.first)
        scale = 1.0 / max(count, 1)
        if not part.scratch:
            asm.avg_pool(part.y, part.x, kernel=part.kernel, stride=part.stride, pads=part.pads, scale=scale)
        else:
            self._add_chunk(asm, part, scale)
        if part.last:
            emit_relu(asm, self.op, part.y)

    def _add_chunk(self, asm: Assembler, part: Part, scale: float) -> None:
        total, target = (aligned(self.memory, address, part.y.shape, DType.F32) for address in part.scratch[:2])
        x = part.x
        if x.dtype is not DType.F32:
            x = aligned(self.memory, part.scratch[2], part.x.shape, DType.F32)
            asm.arith(Arith.CAST, x, part.x)
        out = total if part.first else target
        asm.avg_pool(out, x, kernel=part.kernel, stride=part.stride, pads=part.pads, scale=scale)
        if not part.first:
            asm.arith(Arith.ADD, total, total, target)
        if part.last:
            asm.arith(Arith.COPY if part.y.dtype is DType.F32 else Arith.CAST, part.y, total)


def plan_pool(build: Build, op: TpuPool2DOp) -> PoolLayer:
    """The layer for a pool's mode and type."""
    if op["pool_mode"] == "Max":
        return MaxPoolLayer(build, op)
    return AveragePoolFloatLayer(build, op) if dtype_of(op.input).is_float else AveragePoolInt8Layer(build, op)


def _same(_: int) -> int:
    return 0
