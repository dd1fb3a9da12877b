"""Pooling over h and w."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from bmflow.ir.types import shape_of
from bmflow.kernels.emission import Emission, Emitter
from bmflow.kernels.emit_conv import EXACT_FLOAT
from bmflow.kernels.graph import DOUBLE, FLOAT, UINT8
from bmflow.kernels.requant import half_away, narrow, requantize


def emit_max_pool(e: Emission) -> str:
    """Largest value; integers by way of float32, whose pool is 20 times faster and never lets the padding win."""
    x = e.input() if e.result.is_float else e.node("Cast", e.input(), to=FLOAT)
    y = e.node("MaxPool", x, **_window(e, _whole_pads(e)))
    return e.moved(y if e.result.is_float else e.node("Cast", y, to=UINT8))


def emit_average_pool(e: Emission) -> str:
    """Mean; integers as sum and requantization."""
    return _emit_float_average(e) if e.result.is_float else _emit_integer_average(e)


def emit_pool(e: Emission) -> str:
    """tpu.Pool2D."""
    match e.op["pool_mode"]:
        case "Max":
            return emit_max_pool(e)
        case "Avg":
            return emit_average_pool(e)
        case mode:
            raise e.refuse(f"of mode {mode}")


def _window(e: Emission, pads: list[int]) -> dict[str, Any]:
    e.require(not e.flag("is_adaptive"), "with an adaptive window")
    return {"kernel_shape": e.ints("kernel_shape"), "strides": e.ints("strides"), "pads": pads}


def _whole_pads(e: Emission) -> list[int]:
    """The pads, those at bottom and right changed to what the result's size needs (ceil_mode adds to them)."""
    kernel, strides, pads = (e.ints(name) for name in ("kernel_shape", "strides", "pads"))
    sizes = zip(shape_of(e.op.operands[0])[2:], e.shape[2:], kernel, strides, pads[:2], strict=True)
    ends = [(out - 1) * stride + k - size - before for size, out, k, stride, before in sizes]
    return [*pads[:2], *(max(end, 0) for end in ends)]


def _emit_float_average(e: Emission) -> str:
    """Where the padding counts, what ceil_mode adds does not: then the counted part becomes zeros of the picture."""
    x, whole, pads = e.input(), _whole_pads(e), e.ints("pads")
    counted = e.flag("count_include_pad")
    if counted and any(end > pad for end, pad in zip(whole, pads, strict=True)):
        top, left, bottom, right = pads
        x = e.node("Pad", x, e.constant(np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)))
        counted, whole = False, [0, 0, max(whole[2] - bottom, 0), max(whole[3] - right, 0)]
    return e.finish(e.node("AveragePool", x, count_include_pad=int(counted), **_window(e, whole)))


def _emit_integer_average(e: Emission) -> str:
    """Symmetric: requantized sum. Asymmetric: round_half_away(sum * scale + offset) in float64. Padding counts as the zero point."""
    x, taps = e.held(), prod(e.ints("kernel_shape"))
    acc, addend = _sum_windows(e, taps), x.zero_point * taps
    if e.number("scale") == 0.0:
        return requantize(e, acc, [x.reach * taps], [e.integer("multiplier")], [e.integer("rshift")], [addend])
    total = e.node("Add", e.node("Cast", acc, to=DOUBLE), e.constant(np.float64(addend)))
    scaled = e.node("Mul", total, e.constant(np.float64(e.number("scale"))))
    real = e.node("Add", scaled, e.constant(np.float64(e.number("offset"))))
    low, high = (np.float64(limit) for limit in e.result.dtype.limits)
    rounded = half_away(e, e.node("Clip", real, e.constant(low), e.constant(high)), np.float64)
    return narrow(e, e.node("Add", rounded, e.constant(np.int32(e.result.offset))))


def _sum_windows(e: Emission, taps: int) -> str:
    """Sums of x - zp_x over the windows, exact."""
    x, channels = e.held(), e.shape[1]
    e.require(x.numpy == np.uint8, f"with an input of type {x.dtype.value}")
    window, zero = _window(e, _whole_pads(e)) | {"group": channels}, e.constant(np.uint8(x.zero))
    ones = np.ones((channels, 1, *e.ints("kernel_shape")), np.uint8)
    if x.reach * taps >= EXACT_FLOAT:
        return e.node("ConvInteger", e.input(), e.constant(ones), zero, **window)
    centred = e.node("DequantizeLinear", e.input(), e.constant(np.float32(1)), zero)
    return e.node("Conv", centred, e.constant(ones.astype(np.float32)), **window)


EMITTERS: dict[str, Emitter] = {
    "top.MaxPool": emit_max_pool,
    "top.AvgPool": emit_average_pool,
    "tpu.Pool2D": emit_pool,
}
