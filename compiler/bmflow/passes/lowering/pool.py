"""MaxPool and AvgPool (quantization notes, 7.4 and 7.6)."""

from __future__ import annotations

from bmflow.dialects.top.pool import TopAvgPoolOp, TopMaxPoolOp
from bmflow.dialects.tpu.compute import TpuPool2DOp
from bmflow.ir.attributes import PoolMode, Python, enum_attribute, si32
from bmflow.ir.layer import LayerOp
from bmflow.ir.types import Quantization, shape_of
from bmflow.ir.values import SSAValue
from bmflow.numerics.fixed_point import scale_and_shift
from bmflow.passes.lowering.base import FLOATS, INT8, Analysis, Lowering
from bmflow.passes.lowering.writer import Writer, kept_attributes, quantized, uniform


class _LowerPool(Lowering):
    def check(self, op: LayerOp, analysis: Analysis) -> str:
        """See `Lowering.check`."""
        if len(shape_of(op.operands[0])) == 4 and len(op.ints("kernel_shape")) == 2:
            return ""
        return f"a pool over {len(op.ints('kernel_shape'))} dimensions is not supported, only over h and w"


class LowerMaxPool(_LowerPool):
    """MaxPool(x) -> Pool2D(x, Max); integers keep the type of x."""

    pattern = TopMaxPoolOp
    computes = FLOATS | {INT8: INT8}

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        x = writer.operand(op, op.operands[0], compute)
        element = uniform(quantized(x)) if compute == INT8 else writer.element(op, compute)
        return writer.emit(op, TpuPool2DOp, [x], element, _attributes(op, "Max", compute == INT8))


class _LowerAvgPool(_LowerPool):
    pattern = TopAvgPoolOp

    def check(self, op: LayerOp, analysis: Analysis) -> str:
        """See `Lowering.check`."""
        if op["count_include_pad"] and _pads(op) != op.ints("pads"):
            return "its windows reach beyond the padding, which cannot be counted as part of them"
        return super().check(op, analysis)


class LowerAvgPoolInt8(_LowerAvgPool):
    """AvgPool(x) -> Pool2D(x, Avg, multiplier, rshift), with zero points Pool2D(x, Avg, scale, offset)."""

    computes = {INT8: INT8}

    def check(self, op: LayerOp, analysis: Analysis) -> str:
        """See `Lowering.check`."""
        if op["is_adaptive"]:
            return "an adaptive pool has windows of several sizes"
        if any(_pads(op)) and not op["count_include_pad"]:
            return "its windows at the border count fewer values than the others"
        if analysis.options.asymmetric and not _covers(op):
            return "its windows do not cover the whole input"
        return super().check(op, analysis)

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        x = writer.operand(op, op.operands[0], INT8)
        rescale = _rescaling(op, quantized(x), writer.analysis.quantization(op.layer_name))
        return writer.emit(op, TpuPool2DOp, [x], writer.element(op, INT8), _attributes(op, "Avg", True) | rescale)


class LowerAvgPoolFloat(_LowerAvgPool):
    """AvgPool(x) -> Pool2D(x, Avg), in F32 for F16."""

    computes = FLOATS | {"F16": "F32", INT8: "F32"}
    note = "averages of F16 values are computed in F32"

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        x = writer.operand(op, op.operands[0], compute)
        return writer.emit(op, TpuPool2DOp, [x], writer.element(op, compute), _attributes(op, "Avg", False))


def _rescaling(op: LayerOp, source: Quantization, to: Quantization) -> dict[str, Python]:
    kernel_h, kernel_w = op.ints("kernel_shape")
    ratio = source.scale / to.scale
    if source.zero_point or to.zero_point:
        return {"scale": source.scale / (kernel_h * kernel_w * to.scale), "offset": to.zero_point - source.zero_point * ratio}
    point = scale_and_shift(source.scale / (to.scale * kernel_h * kernel_w), 8)
    return {"multiplier": si32(point.multiplier), "rshift": si32(point.rshift)}


def _attributes(op: LayerOp, mode: str, integers: bool) -> dict[str, Python]:
    attributes: dict[str, Python] = kept_attributes(op, integers) | {"pads": _pads(op), "pool_mode": enum_attribute(PoolMode, mode)}
    if op["ceil_mode"]:
        attributes["ceil_mode"] = False
    return attributes


def _pads(op: LayerOp) -> list[int]:
    """pads with those at the bottom and right enlarged to the last window, where ceil_mode adds one."""
    top, left, bottom, right = op.ints("pads")
    if not op["ceil_mode"]:
        return [top, left, bottom, right]
    (ih, iw), (oh, ow) = shape_of(op.operands[0])[2:], shape_of(op.results[0])[2:]
    kernel, stride = op.ints("kernel_shape"), op.ints("strides")
    return [
        top, left, max(bottom, (oh - 1) * stride[0] + kernel[0] - ih - top), max(right, (ow - 1) * stride[1] + kernel[1] - iw - left)
    ]  # fmt: skip


def _covers(op: LayerOp) -> bool:
    """Whether the windows reach the end of the padded input."""
    top, left, bottom, right = _pads(op)
    ih, iw = shape_of(op.operands[0])[2:]
    sizes = zip((ih + top + bottom, iw + left + right), op.ints("kernel_shape"), op.ints("strides"), strict=True)
    return all((size - kernel) % stride == 0 for size, kernel, stride in sizes)


LOWERINGS = (LowerMaxPool(), LowerAvgPoolInt8(), LowerAvgPoolFloat())
