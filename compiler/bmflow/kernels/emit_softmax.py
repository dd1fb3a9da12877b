"""Softmax in floats and with the table of 8-bit integers."""

from __future__ import annotations

import numpy as np

from bmflow.ir.types import shape_of
from bmflow.kernels.emission import Emission, Emitter
from bmflow.kernels.graph import INT32
from bmflow.kernels.lookup import look_up_tensor
from bmflow.kernels.requant import narrow

_QUOTIENT = np.float32(1 << 20)
"""Far above every 8-bit result, far below 2^31."""


def emit_softmax(e: Emission) -> str:
    """exp(beta * (x - max)) / sum."""
    return _emit_float(e) if e.result.is_float else _emit_integer(e)


def _emit_float(e: Emission) -> str:
    x, beta = e.input(), e.number("beta")
    if beta != 1.0:
        x = e.node("Mul", x, e.constant(np.float32(beta)))
    return e.rounded(e.node("LogSoftmax" if e.flag("log") else "Softmax", x, axis=e.integer("axis")))


def _emit_integer(e: Emission) -> str:
    """sat(trunc(E[max - x] / (sum * s_y) + 0.5) + zp_y); a cumulative sum adds in channel order."""
    shape, table = shape_of(e.op.operands[0]), e.weight(1)
    e.require(
        len(shape) == 4 and e.integer("axis") == 1 and not e.flag("log"), "on integers, unless over axis 1 of rank 4 and without log,"
    )
    e.require(table is not None and table.size == 256 and e.held().numpy == np.uint8, "on integers without a table of 256 entries")
    assert table is not None
    x, channel = e.node("Cast", e.input(), to=INT32), e.constant(np.array([1], np.int64))
    distance = e.node("Sub", e.node("ReduceMax", x, channel, keepdims=1), x)
    terms = look_up_tensor(e, distance, shape, table.reshape(-1).astype(np.float32))
    sums = e.node("CumSum", terms, channel)
    total = e.node("Slice", sums, e.constant(np.array([shape[1] - 1], np.int64)), e.constant(np.array([shape[1]], np.int64)), channel)
    quotient = e.node("Div", terms, e.node("Mul", total, e.constant(np.float32(e.result.scale))))
    cut = e.node("Min", e.node("Add", quotient, e.constant(np.float32(0.5))), e.constant(_QUOTIENT))
    return narrow(e, e.node("Add", e.node("Cast", cut, to=INT32), e.constant(np.int32(e.result.zero))))


EMITTERS: dict[str, Emitter] = {
    "top.Softmax": emit_softmax,
    "tpu.Softmax": emit_softmax,
}
