"""Softmax in floats and with the table of integers."""

from __future__ import annotations

import numpy as np
import pytest
from bmflow.dialects.top.elementwise import TopSoftmaxOp
from bmflow.dialects.tpu.compute import TpuSoftmaxOp
from bmflow.errors import CompileError
from bmflow.ir.attributes import si32
from bmflow.ir.types import DType
from bmflow.ir.values import SSAValue
from one_op import FLOATS, Kind, OneOp, draw, exact


def table(scale: float, beta: float = 1.0) -> np.ndarray:
    """E[d] = exp(-scale * d * beta)."""
    return np.exp(-scale * np.arange(256) * beta).astype(np.float32).reshape(1, 1, 1, 256)


def softmax(net: OneOp, x: np.ndarray, source: Kind, result: Kind, entries: np.ndarray, **attributes: object) -> SSAValue:
    """The op with its table and absent operands."""
    operands = [net.given(x, source), net.weight("t", entries), *[net.none] * 4]
    return net.op(TpuSoftmaxOp, "y", operands, x.shape, result, **{"axis": si32(1), **attributes})


def test_the_published_softmax() -> None:
    net, x = OneOp(), np.array([100, 90, 60, -128]).reshape(1, 4, 1, 1)
    y = net.run(softmax(net, x, Kind(DType.I8, scale=16 / 127), Kind(DType.U8, scale=1 / 255), table(16 / 127)))
    assert y.ravel().tolist() == [198, 56, 1, 0]


@pytest.mark.parametrize("source", [Kind(DType.I8, scale=0.06), Kind(DType.U8, 40, scale=0.02)], ids=str)
@pytest.mark.parametrize(
    "result", [Kind(DType.U8, scale=1 / 255), Kind(DType.I8, -128, scale=1 / 255), Kind(DType.I8, scale=1 / 127)], ids=str
)
def test_integer_softmax_sums_in_channel_order_in_float32(source: Kind, result: Kind, rng: np.random.Generator) -> None:
    net, x = OneOp(), draw(rng, (2, 300, 3, 4), source.dtype)
    entries = table(source.scale)
    y = net.run(softmax(net, x, source, result, entries))
    terms = entries.ravel()[x.max(1, keepdims=True) - x]
    total = np.zeros((2, 1, 3, 4), np.float32)
    for channel in range(300):
        total = total + terms[:, channel : channel + 1]
    real = terms / (total * np.float32(result.scale)) + np.float32(0.5)
    np.testing.assert_array_equal(y, np.clip(np.trunc(real) + result.zero, *result.dtype.limits))


def test_integer_softmax_over_another_axis_is_refused(rng: np.random.Generator) -> None:
    net, x = OneOp(), draw(rng, (1, 4, 3, 2), DType.I8)
    y = softmax(net, x, Kind(DType.I8), Kind(DType.U8), table(0.1), axis=si32(2))
    with pytest.raises(CompileError, match=r"y: tpu.Softmax on integers, unless over axis 1 of rank 4"):
        net.run(y)


@pytest.mark.parametrize("log", [False, True], ids=["", "log"])
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.value)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_float_softmax_follows_the_formula(axis: int, dtype: DType, log: bool, rng: np.random.Generator) -> None:
    net, x = OneOp(), draw(rng, (3, 7, 5), dtype)
    operands = [net.given(x, Kind(dtype)), *[net.none] * 5]
    y = net.run(net.op(TpuSoftmaxOp, "y", operands, x.shape, Kind(dtype), axis=si32(axis), log=log, beta=0.5))
    e = np.exp(0.5 * (x.astype(np.float64) - x.max(axis, keepdims=True)))
    p = e / e.sum(axis, keepdims=True)
    rtol = {DType.F32: 1e-5, DType.F16: 6e-4, DType.BF16: 5e-3}[dtype]
    np.testing.assert_allclose(y, np.log(p) if log else p, rtol=rtol, atol=1e-6)
    np.testing.assert_array_equal(y, exact(y, dtype))


def test_top_softmax_follows_the_formula(rng: np.random.Generator) -> None:
    net, x = OneOp(), draw(rng, (2, 9, 3), DType.F32)
    y = net.run(net.op(TopSoftmaxOp, "y", [net.given(x)], x.shape, axis=1, beta=2.0))
    e = np.exp(2.0 * x.astype(np.float64))
    np.testing.assert_allclose(y, e / e.sum(1, keepdims=True), rtol=1e-5)
