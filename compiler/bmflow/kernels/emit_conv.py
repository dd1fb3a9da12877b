"""Convolution and batch normalization."""

from __future__ import annotations

from typing import Any

import numpy as np

from bmflow.ir.types import DType, is_none
from bmflow.kernels.emission import Emission, Emitter
from bmflow.kernels.requant import requantize

EXACT_FLOAT = 1 << 24


def emit_conv(e: Emission) -> str:
    """Both dialects, floats and 8-bit integers."""
    return _emit_float(e) if e.result.is_float else _emit_integer(e)


def _window(e: Emission) -> dict[str, Any]:
    names = ("kernel_shape", "strides", "pads", "dilations")
    return {name: e.ints(name) for name in names} | {"group": e.integer("group")}


def _emit_float(e: Emission) -> str:
    e.require(e.held().is_float, "from integers to floats")
    bias = e.weight(2)
    operands = [e.input(0), e.input(1)]
    if not is_none(e.op.operands[2]):
        operands.append(e.input(2) if bias is None else e.constant(bias.reshape(-1).astype(np.float32)))
    return e.finish(e.node("Conv", *operands, **_window(e)))


def _emit_integer(e: Emission) -> str:
    """acc = sum of (x - zp_x) * w, padding contributing nothing; zp_x * sum(w) and the bias join in the requantization."""
    x, filters, bias = e.held(), e.weight(1), e.weight(2)
    e.require(x.dtype in (DType.I8, DType.U8), f"with an input of type {x.dtype.value}")
    e.require(filters is not None and e.dtype(1) in (DType.I8, DType.U8), "without a constant 8-bit filter")
    assert filters is not None
    taps = filters.reshape(filters.shape[0], -1).astype(np.int64)
    bounds = np.abs(taps).sum(1) * x.reach
    addends = x.zero_point * taps.sum(1) + (0 if bias is None else bias.reshape(-1).astype(np.int64))
    acc = _sum_products(e, filters, int(bounds.max()))
    return requantize(e, acc, bounds.tolist(), e.ints("multiplier"), e.ints("rshift"), addends.tolist())


def _sum_products(e: Emission, filters: np.ndarray, bound: int) -> str:
    """Exact sums: groups in float32 where that is exact, since ConvInteger takes them one by one; the rest by ConvInteger."""
    zero = e.constant(np.uint8(e.held().zero))
    if e.integer("group") > 1 and bound < EXACT_FLOAT:
        x = e.node("DequantizeLinear", e.input(0), e.constant(np.float32(1)), zero)
        return e.node("Conv", x, e.constant(filters.astype(np.float32)), **_window(e))
    lift = 128 if e.dtype(1).signed else 0
    lifted = e.constant((filters.astype(np.int16) + lift).astype(np.uint8))
    return e.node("ConvInteger", e.input(0), lifted, zero, e.constant(np.uint8(lift)), **_window(e))


def emit_batch_norm(e: Emission) -> str:
    """top.BatchNorm."""
    x, mean, variance, gamma, beta = e.inputs
    return e.finish(e.node("BatchNormalization", x, gamma, beta, mean, variance, epsilon=e.number("epsilon")))


EMITTERS: dict[str, Emitter] = {
    "top.Conv": emit_conv,
    "top.BatchNorm": emit_batch_norm,
    "tpu.Conv2D": emit_conv,
}
