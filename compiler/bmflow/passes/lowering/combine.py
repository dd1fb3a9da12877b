"""Add and Mul: each operand with its own scale, multipliers of 7 bits (quantization notes, 7.4); BatchNorm as a Mul and an Add."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from bmflow.dialects.top.conv import TopBatchNormOp
from bmflow.dialects.top.elementwise import TopAddOp, TopMulOp
from bmflow.dialects.tpu.compute import TpuAddOp, TpuMulOp
from bmflow.errors import NumericRangeError
from bmflow.ir.attributes import Python, si32
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.types import DType, Quantization, shape_of
from bmflow.ir.values import SSAValue
from bmflow.numerics.fixed_point import FixedPoint, scale_and_shift, scale_and_shift_positive
from bmflow.numerics.rounding import Rounding, round_real
from bmflow.passes.fusion.linear import batch_norm_coefficients
from bmflow.passes.lowering.base import FLOATS, INT8, Analysis, Lowering
from bmflow.passes.lowering.propagate import coefficients
from bmflow.passes.lowering.writer import STORED_AS, Writer, kept_attributes, quantized
from bmflow.passes.memory.lifetimes import is_activation


def constant_quantization(values: np.ndarray) -> Quantization:
    """Type and scale of a constant operand: signed where a number is negative; the largest magnitude is the largest integer."""
    dtype = DType.I8 if bool((values < 0).any()) else DType.U8
    return Quantization(dtype, float(np.abs(values).max()) / dtype.limits[1] or 1.0)


def fits_8_bits(scale: float) -> str:
    """Say why a scale has no 8-bit multiplier with a right shift; empty when it has."""
    try:
        scale_and_shift_positive(scale, 8)
    except NumericRangeError:
        return f"one step of an input is {scale:.4g} steps of the result, more than an 8-bit multiplier holds"
    return ""


class LowerAddInt8(Lowering):
    """Add(x_i, coeff) -> Add(x_i, multipliers, rshifts); every term is rounded by itself."""

    pattern = TopAddOp
    computes = {INT8: INT8}

    def check(self, op: LayerOp, analysis: Analysis) -> str:
        """See `Lowering.check`."""
        if min(coefficients(op)) <= 0:
            return "it subtracts, which its integer form cannot"
        if op.layer_name not in analysis.ranges:
            return ""
        sources = [_source(value, analysis) for value in op.operands]
        to = analysis.quantization(op.layer_name)
        scales = zip(coefficients(op), sources, strict=True)
        return next((reason for c, source in scales if source and (reason := fits_8_bits(c * source.scale / to.scale))), "")

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        operands, sources = _integers(op, writer)
        to = writer.analysis.quantization(op.layer_name)
        points = [scale_and_shift_positive(c * source.scale / to.scale, 8) for c, source in zip(coefficients(op), sources, strict=True)]
        attributes: dict[str, Python] = kept_attributes(op, quantized_form=True) | _lists(points)
        attributes.pop("coeff", None)  # part of the multipliers now
        return writer.emit(op, TpuAddOp, operands, writer.element(op, INT8), attributes)


class LowerMulInt8(Lowering):
    """Mul(x_i) -> Mul(x_i, multiplier, rshift); where there are two, the first operand has the sign of the result if one has."""

    pattern = TopMulOp
    computes = {INT8: INT8}

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        operands, sources = _integers(op, writer)
        to = writer.analysis.quantization(op.layer_name)
        if len(operands) == 2 and sources[0].dtype is not to.dtype and sources[1].dtype is to.dtype:
            operands = operands[::-1]
        point = scale_and_shift(prod(source.scale for source in sources) / to.scale, 8)
        attributes = kept_attributes(op, quantized_form=True) | {"multiplier": si32(point.multiplier), "rshift": si32(point.rshift)}
        return writer.emit(op, TpuMulOp, operands, writer.element(op, INT8), attributes)


class _LowerFloat(Lowering):
    kind: type[LayerOp]
    computes = FLOATS | {INT8: "F16"}

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        operands = [writer.operand(op, value, compute) for value in op.operands]
        return writer.emit(op, self.kind, operands, writer.element(op, compute), kept_attributes(op))


class LowerAddFloat(_LowerFloat):
    """Add -> Add in a float type."""

    pattern = TopAddOp
    kind = TpuAddOp


class LowerMulFloat(_LowerFloat):
    """Mul -> Mul in a float type."""

    pattern = TopMulOp
    kind = TpuMulOp


class LowerBatchNorm(Lowering):
    """BatchNorm(x) -> Add(Mul(x, s), t) in F32; what follows a convolution or has four dimensions has become a convolution before."""

    pattern = TopBatchNormOp
    computes = dict.fromkeys((*FLOATS, INT8), "F32")
    note = "a normalization by itself is computed in F32"

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        assert isinstance(op, TopBatchNormOp)
        shape = (1, -1, *[1] * (len(shape_of(op.input)) - 2))
        scale, shift = (array.astype(np.float32).reshape(shape) for array in batch_norm_coefficients(op, writer.module))
        scale_value = writer.constant(op, f"{op.layer_name}_scale_f32", scale, DType.F32)
        shift_value = writer.constant(op, f"{op.layer_name}_shift_f32", shift, DType.F32)
        scaled = writer.free_name(f"{op.layer_name}_scaled")
        x = writer.emit(op, TpuMulOp, [writer.operand(op, op.input, compute), scale_value], DType.F32, name=scaled)
        relu = {name: op[name] for name in ("do_relu", "relu_limit")}
        return writer.emit(op, TpuAddOp, [x, shift_value], writer.element(op, compute), relu)


def _source(value: SSAValue, analysis: Analysis) -> Quantization | None:
    if not is_activation(value):
        return constant_quantization(analysis.module.weight(value))
    return analysis.quantization(layer_name(value)) if layer_name(value) in analysis.ranges else None


def _integers(op: LayerOp, writer: Writer) -> tuple[list[SSAValue], list[Quantization]]:
    """Operands as 8-bit integers and their quantizations; constants are quantized here, with zero point 0."""
    operands, sources = list[SSAValue](), list[Quantization]()
    for value in op.operands:
        if is_activation(value):
            operand = writer.operand(op, value, INT8)
            source = quantized(operand)
        else:
            array = writer.module.weight(value).astype(np.float64)
            source = constant_quantization(array)
            integers = np.clip(round_real(array / source.scale, Rounding.HALF_AWAY), *source.dtype.limits).astype(source.dtype.numpy)
            operand = writer.constant(op, f"{layer_name(value)}_{STORED_AS[source.dtype]}", integers, source.dtype)
        operands.append(operand)
        sources.append(source)
    return operands, sources


def _lists(points: Sequence[FixedPoint]) -> dict[str, Python]:
    return {"multipliers": [point.multiplier for point in points], "rshifts": [point.rshift for point in points]}


LOWERINGS = (LowerAddInt8(), LowerAddFloat(), LowerMulInt8(), LowerMulFloat(), LowerBatchNorm())
