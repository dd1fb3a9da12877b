"""Ops that move values: they keep the scale of their input; Concat brings its inputs to one scale (quantization notes, 7.4 and 7.6)."""

from __future__ import annotations

from typing import ClassVar

from bmflow.dialects.top.shape import TopConcatOp, TopDepth2SpaceOp, TopPermuteOp, TopReshapeOp, TopSliceOp, TopUpsampleOp
from bmflow.dialects.tpu.convert import TpuMulShiftOp, TpuRequantIntOp
from bmflow.dialects.tpu.shape import TpuConcatOp, TpuDepth2SpaceOp, TpuPermuteOp, TpuReshapeOp, TpuSliceOp, TpuUpsampleOp
from bmflow.ir.attributes import Python, RequantMode, enum_attribute, si32
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.types import Quantization, element_of, is_none, shape_of, tensor_type
from bmflow.ir.values import SSAValue
from bmflow.numerics.fixed_point import scale_and_shift_positive
from bmflow.passes.lowering.base import AS_INPUT, FLOATS, INT8, Analysis, Lowering
from bmflow.passes.lowering.combine import fits_8_bits
from bmflow.passes.lowering.writer import Writer, insert_behind, kept_attributes, quantized, uniform
from bmflow.passes.memory.lifetimes import is_activation


class LowerReshape(Lowering):
    """Reshape(x) -> Reshape(x), in the type of x whatever is asked for."""

    pattern = TopReshapeOp
    computes = dict.fromkeys((*FLOATS, INT8), AS_INPUT)
    note = "a Reshape changes no value"

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        return writer.emit(op, TpuReshapeOp, [op.operands[0]], element_of(op.operands[0]), kept_attributes(op))


class _LowerCopy(Lowering):
    """Op(x) -> Op(x, none...); integers keep the type of x."""

    computes = FLOATS | {INT8: INT8}
    kind: ClassVar[type[LayerOp]]
    absent: ClassVar[int] = 0

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        x = writer.operand(op, op.operands[0], compute)
        element = uniform(quantized(x)) if compute == INT8 else writer.element(op, compute)
        return writer.emit(op, self.kind, [x, *[writer.none] * self.absent], element, kept_attributes(op, compute == INT8))


class LowerPermute(_LowerCopy):
    """Permute(x, order) -> Permute(x, none, order)."""

    pattern = TopPermuteOp
    kind = TpuPermuteOp
    absent = 1


class LowerSlice(_LowerCopy):
    """Slice(x) -> Slice(x) with constant bounds."""

    pattern = TopSliceOp
    kind = TpuSliceOp
    absent = 4

    def check(self, op: LayerOp, analysis: Analysis) -> str:
        """See `Lowering.check`."""
        return "" if all(is_none(value) for value in op.operands[1:]) else "its bounds are computed by the network"


class LowerDepth2Space(_LowerCopy):
    """Depth2Space(x) -> Depth2Space(x)."""

    pattern = TopDepth2SpaceOp
    kind = TpuDepth2SpaceOp


class LowerUpsample(_LowerCopy):
    """Upsample(x) -> Upsample(x, none)."""

    pattern = TopUpsampleOp
    kind = TpuUpsampleOp
    absent = 1


class LowerConcatInt8(Lowering):
    """Concat(x_i) -> Concat(x_i or MulShift(x_i)); RequantInt instead of MulShift where there are zero points."""

    pattern = TopConcatOp
    computes = {INT8: INT8}

    def check(self, op: LayerOp, analysis: Analysis) -> str:
        """See `Lowering.check`."""
        if not all(is_activation(value) for value in op.operands):
            return "it joins a constant"
        if op.layer_name not in analysis.ranges:
            return ""
        to = analysis.quantization(op.layer_name)
        names = [layer_name(value) for value in op.operands if layer_name(value) in analysis.ranges]
        return next((reason for name in names if (reason := fits_8_bits(analysis.quantization(name).scale / to.scale))), "")

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        to = writer.analysis.quantization(op.layer_name)
        operands = [writer.operand(op, value, INT8) for value in op.operands]
        done: dict[SSAValue, SSAValue] = {x: x if quantized(x) == to else _rescale(op, x, to) for x in dict.fromkeys(operands)}
        attributes = kept_attributes(op, quantized_form=True) | _axis(op)
        return writer.emit(op, TpuConcatOp, [done[x] for x in operands], uniform(to), attributes)


class LowerConcatFloat(Lowering):
    """Concat(x_i) -> Concat(x_i) in a float type."""

    pattern = TopConcatOp
    computes = FLOATS | {INT8: "F16"}

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        operands = [writer.operand(op, value, compute) for value in op.operands]
        return writer.emit(op, TpuConcatOp, operands, writer.element(op, compute), kept_attributes(op) | _axis(op))


def _rescale(op: LayerOp, x: SSAValue, to: Quantization) -> SSAValue:
    """Bring an integer to another scale, right behind the op that makes it."""
    source, name = quantized(x), f"{layer_name(x)}_to_{op.layer_name}"
    point = scale_and_shift_positive(source.scale / to.scale, 8)
    attributes: dict[str, Python] = {"multiplier": si32(point.multiplier), "rshift": si32(point.rshift)}
    result = tensor_type(shape_of(x), uniform(to))
    if source.zero_point or to.zero_point:
        mode = {"quant_mode": enum_attribute(RequantMode, "MultiplierShift")}
        rescale: LayerOp = TpuRequantIntOp.make(name, [x], result, attributes | mode)
    else:
        rescale = TpuMulShiftOp.make(name, [x], result, attributes)
    return insert_behind(x, rescale)


def _axis(op: LayerOp) -> dict[str, Python]:
    axis = op["axis"]
    assert isinstance(axis, int)
    return {"axis": si32(axis)}


LOWERINGS = (LowerReshape(), LowerPermute(), LowerSlice(), LowerDepth2Space(), LowerUpsample(), LowerConcatInt8(), LowerConcatFloat())
