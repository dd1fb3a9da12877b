"""Convolutions: integers against Python's integers, floats against float64."""

from __future__ import annotations

from dataclasses import dataclass, field

import meaning
import numpy as np
import pytest
from bmflow.dialects.top.conv import TopBatchNormOp, TopConvOp
from bmflow.dialects.tpu.compute import TpuConv2DOp
from bmflow.errors import CompileError
from bmflow.ir.types import DType
from one_op import FLOATS, Kind, OneOp, draw, exact


@dataclass(frozen=True)
class Case:
    """One convolution; pads are top, left, bottom, right. `forms` are (multiplier, rshift) of the channels, repeated."""

    id: str
    ic: int = 6
    oc: int = 8
    size: tuple[int, int] = (9, 8)
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1
    n: int = 1
    x: Kind = field(default_factory=lambda: Kind(DType.I8))
    y: Kind = field(default_factory=lambda: Kind(DType.I8))
    filter: DType = DType.I8
    bias: bool = True
    relu: bool = False
    forms: tuple[tuple[int, int], ...] = ((1518500249, 40), (3, 12), (16777213, 33), (1, 11))
    extreme: bool = False

    @property
    def window(self) -> dict:
        """Attributes of the window."""
        return {"strides": list(self.strides), "pads": list(self.pads), "dilations": list(self.dilations)}

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the result."""
        (top, left, bottom, right), (h, w) = self.pads, self.size
        eh, ew = (d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True))
        return self.n, self.oc, (h + top + bottom - eh) // self.strides[0] + 1, (w + left + right - ew) // self.strides[1] + 1


CASES = [
    Case("signed"),
    Case("unsigned to unsigned with relu", x=Kind(DType.U8), y=Kind(DType.U8), relu=True),
    Case("signed, relu at the zero point", y=Kind(DType.I8, 17), relu=True),
    Case("zero points", x=Kind(DType.I8, -13), y=Kind(DType.I8, 9)),
    Case("unsigned zero points", x=Kind(DType.U8, 200), y=Kind(DType.U8, 3)),
    Case("no bias", bias=False, x=Kind(DType.U8, 5)),
    Case("unsigned filter", filter=DType.U8, bias=False, x=Kind(DType.U8)),
    Case("strides and uneven pads", strides=(2, 3), pads=(0, 2, 1, 0), n=2),
    Case("dilations", dilations=(2, 3), pads=(2, 3, 2, 3), x=Kind(DType.I8, 100)),
    Case("groups", ic=12, group=4, x=Kind(DType.I8, 3)),
    Case("depthwise", ic=8, group=8, kernel=(5, 5), pads=(2, 2, 2, 2), x=Kind(DType.U8, 128)),
    Case("depthwise, two results a channel", ic=4, oc=8, group=4),
    Case("pointwise", ic=70, oc=33, kernel=(1, 1), pads=(0, 0, 0, 0), forms=((1, 10),)),
    Case("largest products", ic=64, extreme=True, forms=((1, 17),), pads=(0, 0, 0, 0)),
    Case("largest products, unsigned", ic=64, extreme=True, forms=((1, 18),), pads=(0, 0, 0, 0), x=Kind(DType.U8), y=Kind(DType.U8)),
    Case("largest products of a group", ic=8, group=8, extreme=True, forms=((1, 12),)),
    Case("groups beyond float32", ic=2400, oc=2, group=2, kernel=(5, 5), pads=(0, 0, 0, 0), size=(6, 5), forms=((1, 18),)),
    Case("ties everywhere", ic=1, kernel=(1, 1), pads=(0, 0, 0, 0), forms=((1, 7), (3, 6), (1, 1))),
    Case("left shift", ic=1, kernel=(1, 1), pads=(0, 0, 0, 0), forms=((1, -2),)),
    Case("beyond float64", ic=200, forms=((2147483646, 47), (1999999999, 46))),
    Case("beyond float64, zero points", ic=200, forms=((2147483646, 47),), x=Kind(DType.I8, 3), y=Kind(DType.U8, 77), relu=True),
    Case("multiplier zero", forms=((0, 0), (1, 12)), y=Kind(DType.I8, -4)),
    Case("16-bit result", y=Kind(DType.I16), forms=((1518500249, 33),)),
    Case("unsigned 16-bit result with relu", y=Kind(DType.U16), relu=True, forms=((1, 1),)),
]  # fmt: skip


def run(case: Case, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """The kernel."""
    net = OneOp()
    forms = [case.forms[i % len(case.forms)] for i in range(case.oc if len(case.forms) > 1 else 1)]
    operands = [net.given(x, case.x), net.weight("w", w, case.filter)]
    operands.append(net.none if bias is None else net.weight("b", bias.reshape(1, -1, 1, 1), DType.I32))
    return net.run(net.op(
        TpuConv2DOp, "y", operands, case.shape, case.y, kernel_shape=list(case.kernel), group=case.group, do_relu=case.relu,
        with_bias=case.bias, multiplier=[m for m, _ in forms], rshift=[r for _, r in forms], **case.window,
    ))  # fmt: skip


def expected(case: Case, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """The formula: pads hold the zero point, the bias already holds -zp_x * sum(w)."""
    acc = meaning.conv(x, w, case.group, fill=case.x.zero, **case.window) + (0 if bias is None else bias.reshape(1, -1, 1, 1))
    channels = [
        meaning.half_up(acc[:, c].astype(object) * m, r)
        for c, (m, r) in ((c, case.forms[c % len(case.forms)]) for c in range(case.oc))
    ]  # fmt: skip
    return meaning.saturate(np.stack(channels, axis=1), case.y.dtype, case.y.zero, case.relu)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_integer_convolutions_follow_the_formula_exactly(case: Case, rng: np.random.Generator) -> None:
    low, high = case.x.dtype.limits
    x = draw(rng, (case.n, case.ic, *case.size), case.x.dtype)
    w = draw(rng, (case.oc, case.ic // case.group, *case.kernel), case.filter)
    if case.extreme:
        x = np.where(rng.random(x.shape) < 0.5, high if case.x.dtype is DType.U8 else low, high)
        w = np.where(np.arange(case.oc).reshape(-1, 1, 1, 1) % 2 == 0, 127, -128) + 0 * w
    bias = rng.integers(-4000, 4000, case.oc) - case.x.zero * w.sum((1, 2, 3)) if case.bias else None
    y = run(case, x, w, bias)
    assert y.dtype == case.y.dtype.numpy
    np.testing.assert_array_equal(y, expected(case, x, w, bias))


def test_the_published_convolution() -> None:
    case = Case("", ic=3, oc=1, size=(1, 3), kernel=(1, 1), pads=(0, 0, 0, 0), y=Kind(DType.U8), relu=True, forms=((7186461, 29),))
    x = np.array([[127, -127, 127], [10, 20, 30], [-5, -90, 3]]).T.reshape(1, 3, 1, 3)
    w, bias = np.array([50, -127, 30]).reshape(1, 3, 1, 1), np.array([635])
    assert run(case, x, w, bias).ravel().tolist() == [255, 0, 159]
    assert run(Case(**{**vars(case), "size": (1, 1)}), np.array([100, 0, -100]).reshape(1, 3, 1, 1), w, bias).ravel().tolist() == [35]


@pytest.mark.parametrize(
    ("multiplier", "rshift"), [(1073741827, 30), (8388609, 30), (12345, 30), (2147483645, 47), (1518500249, 52), (2147483645, 53)]
)
def test_every_sum_next_to_a_rounding_threshold_goes_to_the_right_side(multiplier: int, rshift: int) -> None:
    ties = [((2 * k + 1 << rshift - 1) // multiplier) + d for k in range(-129, 129) for d in (-1, 0, 1, 2)]
    sums = np.array([s for s in ties if abs(s) < 1 << 31])
    case = Case("", ic=1, oc=sums.size, size=(1, 1), kernel=(1, 1), pads=(0, 0, 0, 0), forms=((multiplier, rshift),))
    x, w = np.zeros((1, 1, 1, 1), np.int64), np.zeros((sums.size, 1, 1, 1), np.int64)
    assert sums.size > 500
    np.testing.assert_array_equal(run(case, x, w, sums), expected(case, x, w, sums))


@pytest.mark.parametrize(
    ("below", "total", "multiplier"), [(69, 11822029, 827375355), (93, 8761343, 1501933569), (110, 15549751, 1000111993)]
)
def test_a_product_one_below_a_tie_that_float64_cannot_hold_is_rounded_down(below: int, total: int, multiplier: int) -> None:
    assert total * multiplier + 1 == (2 * below + 1) << 46
    assert total * multiplier > 1 << 53
    case = Case("", ic=1, oc=2, size=(1, 1), kernel=(1, 1), pads=(0, 0, 0, 0), forms=((multiplier, 47),))
    x, w = np.zeros((1, 1, 1, 1), np.int64), np.zeros((2, 1, 1, 1), np.int64)
    assert run(case, x, w, np.array([total, total + 1])).ravel().tolist() == [below, below + 1]


def test_sums_of_groups_beyond_float32_keep_their_last_bit() -> None:
    case = Case("", ic=2402, oc=2, group=2, kernel=(5, 5), size=(5, 5), pads=(0, 0, 0, 0), forms=((1, 0),))
    x, w = np.full((1, 2402, 5, 5), 127), np.full((2, 1201, 5, 5), 127)
    total = 127 * 127 * 25 * 1201
    assert total % 2 == 1
    assert total > 1 << 24
    assert run(case, x, w, np.array([5 - total, -9 - total])).ravel().tolist() == [5, -9]


FLOAT = [
    Case("plain", strides=(2, 1), n=2),
    Case("relu", relu=True),
    Case("no bias", bias=False),
    Case("depthwise", ic=8, group=8),
    Case("dilations", dilations=(2, 3), pads=(2, 3, 2, 3)),
]


@pytest.mark.parametrize("limit", [-1.0, 1.5], ids=["", "limit"])
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.value)
@pytest.mark.parametrize("case", FLOAT, ids=lambda case: case.id)
def test_float_convolutions_sum_in_float32_and_round_once(case: Case, dtype: DType, limit: float, rng: np.random.Generator) -> None:
    net = OneOp()
    x = draw(rng, (case.n, case.ic, *case.size), dtype)
    w = draw(rng, (case.oc, case.ic // case.group, *case.kernel), dtype)
    bias = rng.normal(size=case.oc).astype(np.float32)
    operands = [net.given(x, Kind(dtype)), net.weight("w", w, dtype), net.weight("b", bias) if case.bias else net.none]
    y = net.run(net.op(
        TpuConv2DOp, "y", operands, case.shape, Kind(dtype), kernel_shape=list(case.kernel), group=case.group, do_relu=case.relu,
        relu_limit=limit, **case.window,
    ))  # fmt: skip
    real = meaning.conv(x.astype(np.float64), w.astype(np.float64), case.group, **case.window)
    real = real + (bias.reshape(1, -1, 1, 1) if case.bias else 0)
    if case.relu:
        real = np.clip(real, 0, limit if limit > 0 else None)
    step = {DType.F32: 2e-6, DType.F16: 2.0**-11, DType.BF16: 2.0**-8}[dtype]
    np.testing.assert_allclose(y, real, rtol=1.01 * step, atol=2e-6)
    np.testing.assert_array_equal(y, exact(y, dtype))


def test_a_top_convolution_may_take_its_filter_from_a_layer(rng: np.random.Generator) -> None:
    net = OneOp()
    x, w = draw(rng, (1, 3, 5, 5), DType.F32), draw(rng, (2, 3, 3, 3), DType.F32)
    y = net.run(
        net.op(TopConvOp, "y", [net.given(x), net.given(w), net.none], (1, 2, 3, 3), kernel_shape=[3, 3], strides=[1, 1], pads=[0] * 4)
    )
    np.testing.assert_allclose(y, meaning.conv(x, w, 1, strides=(1, 1), pads=(0, 0, 0, 0)), rtol=1e-5, atol=1e-5)


def test_batch_normalization_follows_its_formula(rng: np.random.Generator) -> None:
    net = OneOp()
    x, mean, gamma, beta = (draw(rng, shape, DType.F32) for shape in ((2, 4, 3, 3), (4,), (4,), (4,)))
    variance = rng.uniform(0.1, 2, 4).astype(np.float32)
    weights = [net.weight(name, array) for name, array in (("m", mean), ("v", variance), ("g", gamma), ("b", beta))]
    y = net.run(net.op(TopBatchNormOp, "y", [net.given(x), *weights], x.shape, epsilon=1e-3, do_relu=True))
    m, v, g, b = (a.reshape(1, 4, 1, 1) for a in (mean, variance, gamma, beta))
    np.testing.assert_allclose(y, np.maximum((x - m) / np.sqrt(v + 1e-3) * g + b, 0), rtol=1e-4, atol=1e-5)


def test_a_filter_that_is_no_constant_is_refused(rng: np.random.Generator) -> None:
    net = OneOp()
    x, w = net.given(draw(rng, (1, 1, 3, 3), DType.I8), Kind(DType.I8)), net.given(draw(rng, (1, 1, 3, 3), DType.I8), Kind(DType.I8))
    y = net.op(TpuConv2DOp, "head", [x, w, net.none], (1, 1, 1, 1), Kind(DType.I8), kernel_shape=[3, 3], strides=[1, 1], pads=[0] * 4)
    with pytest.raises(CompileError, match=r"head: tpu.Conv2D without a constant 8-bit filter"):
        net.run(y)
