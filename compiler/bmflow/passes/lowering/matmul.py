"""MatMul: INT8 with one scale for the whole right operand, or floats; LayerNorm in floats (quantization notes, 7.3, 7.4 and 9)."""

from __future__ import annotations

from math import prod
from typing import ClassVar

import numpy as np

from bmflow.dialects.top.matmul import TopLayerNormOp, TopMatMulOp
from bmflow.dialects.tpu.matmul import TpuLayerNormOp, TpuMatMulOp
from bmflow.ir.attributes import Python, RequantMode, enum_attribute
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.types import DType, Quantization, is_none, shape_of
from bmflow.ir.values import SSAValue
from bmflow.numerics.fixed_point import scale_and_shift
from bmflow.numerics.rounding import Rounding, round_real
from bmflow.passes.lowering.base import FLOATS, INT8, Analysis, Lowering
from bmflow.passes.lowering.writer import STORED_AS, Writer, kept_attributes, quantized
from bmflow.passes.memory.lifetimes import is_activation

_INT32 = np.iinfo(np.int32)
_LARGEST_PRODUCT = 255 * 128


def quantize_matrix(weights: np.ndarray) -> tuple[np.ndarray, float]:
    """int8 numbers and the one scale that makes them the weights: the largest magnitude is 127."""
    scale = float(np.abs(weights).max()) / DType.I8.limits[1] or 1.0
    quotients = round_real(weights.astype(np.float64) / scale, Rounding.HALF_AWAY)
    return np.clip(quotients, *DType.I8.limits).astype(np.int8), scale


def quantize_sum(bias: np.ndarray | None, step: float, zero_x: int, column_sums: np.ndarray, terms: int) -> np.ndarray:
    """int32 (n): bias in steps of the accumulator, minus what the zero point of the input adds to it.

    Where it has to be cut, room is left for the sum of `terms` products, which must not go around in 32 bits.
    """
    exact = (0.0 if bias is None else bias.astype(np.float64)) / step - zero_x * column_sums.astype(np.float64)
    largest = max(_INT32.max - terms * _LARGEST_PRODUCT, 0)
    return np.clip(round_real(exact, Rounding.HALF_AWAY), -largest, largest).astype(np.int32)


def _objection(op: LayerOp, analysis: Analysis) -> str:
    """Why a matrix product has no integer form; empty when it has one."""
    assert isinstance(op, TopMatMulOp)
    zero_points = {op.layer_name, layer_name(op.input)} & analysis.asymmetric if is_activation(op.input) else frozenset[str]()
    if not is_activation(op.input):
        return "its left operand is constant"
    if is_activation(op.bias):
        return "its bias is not constant"
    if is_activation(op.right):
        return "both operands computed, with zero points" if zero_points | ({layer_name(op.right)} & analysis.asymmetric) else ""
    if zero_points and prod(shape_of(op.right)[:-2]) > 1:
        return "its constant right operand is a stack of matrices, with zero points"
    return ""


class LowerMatMulInt8(Lowering):
    """MatMul(x, r, b) -> MatMul(x_q, r_q, b_q, multiplier, rshift)."""

    pattern = TopMatMulOp
    computes = {INT8: INT8}

    def check(self, op: LayerOp, analysis: Analysis) -> str:
        """See `Lowering.check`."""
        return _objection(op, analysis)

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        assert isinstance(op, TopMatMulOp)
        x = writer.operand(op, op.input, INT8)
        source, to = quantized(x), writer.analysis.quantization(op.layer_name)
        constant, added = op.for_int8 or (op.right, op.bias)
        right, scale, sums = _right(op, constant, writer)
        point = scale_and_shift(float(np.float32(source.scale * scale / to.scale)), 32)
        bias = _bias(op, added, writer, source, scale, sums)
        attributes: dict[str, Python] = kept_attributes(op, quantized_form=True) | {
            "quant_mode": enum_attribute(RequantMode, "MultiplierShift"), "multipliers": [point.multiplier], "rshifts": [point.rshift],
        }  # fmt: skip
        return writer.emit(op, TpuMatMulOp, [x, right, bias], writer.element(op, INT8), attributes)


def _right(op: TopMatMulOp, value: SSAValue, writer: Writer) -> tuple[SSAValue, float, np.ndarray]:
    """Right operand as integers, its scale, and its column sums (1, or n where it is constant)."""
    if is_activation(value):
        right = writer.operand(op, value, INT8)
        return right, quantized(right).scale, np.zeros(1, np.int64)
    integers, scale = quantize_matrix(writer.module.weight(value))
    right = writer.constant(op, f"{op.layer_name}_right_{STORED_AS[DType.I8]}", integers, DType.I8)
    sums = integers.sum(axis=-1 if op["right_transpose"] else -2, dtype=np.int64)
    return right, scale, sums.reshape(-1, sums.shape[-1])[0]


def _bias(op: TopMatMulOp, value: SSAValue, writer: Writer, source: Quantization, scale: float, sums: np.ndarray) -> SSAValue:
    if is_none(value) and not source.zero_point:
        return writer.none
    bias = None if is_none(value) else writer.module.weight(value).reshape(-1)
    numbers = quantize_sum(bias, scale * source.scale, source.zero_point, sums, shape_of(op.input)[-1])
    return writer.constant(op, f"{op.layer_name}_bias_int32", numbers, DType.I32)


class _LowerFloat(Lowering):
    """Constants in the type of the input; those for 8 bits are left out."""

    kind: ClassVar[type[LayerOp]]

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        operands = [writer.operand(op, value, compute) for value in op.operands[:3]]
        return writer.emit(op, self.kind, operands, writer.element(op, compute), kept_attributes(op))


class LowerMatMulFloat(_LowerFloat):
    """MatMul(x, r, b) -> MatMul(x, r, b), all of one float type; F32 where integers have no form for zero points."""

    pattern = TopMatMulOp
    kind = TpuMatMulOp
    computes = FLOATS | {INT8: "F32"}


class LowerMatMulConstantLeft(_LowerFloat):
    """MatMul(W, r) -> MatMul(W, r) in F16."""

    pattern = TopMatMulOp
    kind = TpuMatMulOp
    computes = {INT8: "F16"}

    def check(self, op: LayerOp, analysis: Analysis) -> str:
        """See `Lowering.check`."""
        return _objection(op, analysis) if is_activation(op.operands[0]) else ""


class LowerLayerNorm(_LowerFloat):
    """LayerNorm(x, w, b) -> LayerNorm(x, w, b), all of one float type."""

    pattern = TopLayerNormOp
    kind = TpuLayerNormOp
    computes = FLOATS | {INT8: "F16"}
    note = "normalizations are computed in floats"


LOWERINGS = (LowerMatMulInt8(), LowerMatMulConstantLeft(), LowerMatMulFloat(), LowerLayerNorm())
