"""Conv: INT8 with per-channel multipliers and shifts, or floats (quantization notes, 7.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.tpu.compute import TpuConv2DOp
from bmflow.errors import InputError
from bmflow.ir.attributes import Python, RequantMode, enum_attribute
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.types import DType, Quantization, is_none, shape_of
from bmflow.ir.values import SSAValue
from bmflow.numerics.fixed_point import scale_and_shift
from bmflow.numerics.rounding import Rounding, round_real, saturate
from bmflow.passes.lowering.base import FLOATS, INT8, Analysis, Lowering
from bmflow.passes.lowering.ranges import WEIGHT_SCALE_SUFFIX
from bmflow.passes.lowering.writer import STORED_AS, Writer, kept_attributes, quantized
from bmflow.passes.memory.lifetimes import is_activation

SMALLEST_SCALE = 1e-5
"""Floor of weight scales; an input scale at or below it means that the input is always zero."""
_LARGEST_POWER = 6
_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class QuantizedFilter:
    """integers (oc, ic / group, kh, kw) of type si8 or ui8, times scales (oc), give the weights."""

    integers: np.ndarray
    dtype: DType
    scales: np.ndarray


def quantize_filter(weights: np.ndarray, has_bias: bool, given: Sequence[float] | None = None) -> QuantizedFilter:
    """Quantize a filter (oc, ...) symmetrically, channel by channel.

    Weights that are integers after multiplication by a power of two up to 64 keep that factor exactly, in all channels.

    Args:
        given: scales from training, one per channel.
    """
    real = weights.astype(np.float64)
    dtype = DType.I8 if has_bias or bool((real < 0).any()) else DType.U8
    low, high = dtype.limits
    power = next((k for k in range(_LARGEST_POWER + 1) if _is_integral(real * 2.0**k, low, high)), None)
    if power is not None:
        scales = np.full(len(real), 2.0**-power)
    elif given is not None:
        scales = np.asarray(given, np.float64)
    else:
        scales = np.maximum(np.abs(real.reshape(len(real), -1)).max(1) / high, SMALLEST_SCALE)
    quotients = round_real(real / scales.reshape(-1, *[1] * (real.ndim - 1)), Rounding.HALF_AWAY)
    return QuantizedFilter(np.clip(quotients, low, high).astype(dtype.numpy), dtype, scales)


def _is_integral(scaled: np.ndarray, low: int, high: int) -> bool:
    return bool((scaled == np.rint(scaled)).all() and scaled.min() >= low and scaled.max() <= high)


def quantize_bias(bias: np.ndarray, weights: QuantizedFilter, scale_x: float, zero_x: int) -> np.ndarray:
    """int32 (oc): bias in units of the accumulator, minus what the zero point of the input adds to it."""
    sums = weights.integers.reshape(len(weights.scales), -1).sum(1, dtype=np.int64)
    exact = bias.astype(np.float64) / (weights.scales * scale_x) - zero_x * sums
    return saturate(np.clip(round_real(exact, Rounding.HALF_AWAY), _INT32.min, _INT32.max).astype(np.int64), _INT32.min, _INT32.max)


class _LowerConv(Lowering):
    pattern = TopConvOp

    def check(self, op: LayerOp, analysis: Analysis) -> str:
        """See `Lowering.check`."""
        assert isinstance(op, TopConvOp)
        if len(shape_of(op.input)) != 4 or len(op.ints("kernel_shape")) != 2:
            return f"a convolution over {len(op.ints('kernel_shape'))} dimensions is not supported, only over h and w"
        return "its bias is not constant" if is_activation(op.bias) else ""


class LowerConvInt8(_LowerConv):
    """Conv(x, W, b) -> Conv2D(x_q, W_q, b_q, multiplier[oc], rshift[oc])."""

    computes = {INT8: INT8}

    def check(self, op: LayerOp, analysis: Analysis) -> str:
        """See `Lowering.check`."""
        assert isinstance(op, TopConvOp)
        return "its filter is not constant" if is_activation(op.filter) else super().check(op, analysis)

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        assert isinstance(op, TopConvOp)
        x = writer.operand(op, op.input, INT8)
        source, to = quantized(x), writer.analysis.quantization(op.layer_name)
        filters, bias = _constants(op, writer.module)
        weights = quantize_filter(filters, bias is not None, _given_scales(op, writer.analysis, len(filters)))
        scale_x = _input_scale(source, filters, bias)
        points = [scale_and_shift(scale * scale_x / to.scale, 32) for scale in weights.scales.tolist()]
        filter_value = writer.constant(op, f"{op.layer_name}_filter_{STORED_AS[weights.dtype]}", weights.integers, weights.dtype)
        bias_value = writer.none
        if bias is not None or source.zero_point:
            numbers = quantize_bias(np.zeros(len(filters)) if bias is None else bias, weights, scale_x, source.zero_point)
            bias_value = writer.constant(op, f"{op.layer_name}_bias_int32", numbers.astype(np.int32).reshape(1, -1, 1, 1), DType.I32)
        attributes: dict[str, Python] = kept_attributes(op, quantized_form=True) | {
            "with_bias": not is_none(bias_value), "quant_mode": enum_attribute(RequantMode, "MultiplierShift"),
            "multiplier": [point.multiplier for point in points], "rshift": [point.rshift for point in points], "do_winograd": False,
        }  # fmt: skip
        return writer.emit(op, TpuConv2DOp, [x, filter_value, bias_value], writer.element(op, INT8), attributes)


class LowerConvFloat(_LowerConv):
    """Conv(x, W, b) -> Conv2D(x, W in the type of x, b in F32)."""

    computes = FLOATS | {INT8: "F32"}

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        assert isinstance(op, TopConvOp)
        operands = [writer.operand(op, op.input, compute), writer.operand(op, op.filter, compute), op.bias]
        attributes = kept_attributes(op) | {"with_bias": not is_none(op.bias)}
        return writer.emit(op, TpuConv2DOp, operands, writer.element(op, compute), attributes)


def _constants(op: TopConvOp, module: Module) -> tuple[np.ndarray, np.ndarray | None]:
    """Filter and bias of a form in 8 bits."""
    filters, bias = op.for_int8 or (op.filter, op.bias)
    return module.weight(filters), None if is_none(bias) else module.weight(bias).reshape(-1)


def _input_scale(source: Quantization, filters: np.ndarray, bias: np.ndarray | None) -> float:
    """Scale of the input; of a dead input, one that keeps the bias, or else the weights, in range."""
    if source.scale > SMALLEST_SCALE:
        return source.scale
    largest = 0.0 if bias is None else float(np.abs(bias).max())
    return (largest if largest > SMALLEST_SCALE else float(np.abs(filters).max())) / 127 or source.scale


def _given_scales(op: TopConvOp, analysis: Analysis, channels: int) -> Sequence[float] | None:
    table, name = analysis.options.table, op.layer_name + WEIGHT_SCALE_SUFFIX
    scales = table.weight_scales.get(name) if table else None
    if scales is not None and (len(scales) != channels or min(scales) <= 0):
        raise InputError(
            f"{op.layer_name}: expected {channels} positive weight scales, one per channel of its filter {layer_name(op.filter)}; "
            f"found {len(scales)}, the smallest {min(scales):g}, under {name} of the calibration table"
        )
    return scales


LOWERINGS = (LowerConvInt8(), LowerConvFloat())
