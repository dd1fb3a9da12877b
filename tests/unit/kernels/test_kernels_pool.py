"""Pools: integers against Python's integers, floats against float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor

import meaning
import numpy as np
import pytest
from bmflow.dialects.top.pool import TopAvgPoolOp, TopMaxPoolOp
from bmflow.dialects.tpu.compute import TpuPool2DOp
from bmflow.errors import CompileError
from bmflow.ir.attributes import PoolMode, enum_attribute
from bmflow.ir.types import DType
from one_op import FLOATS, Kind, OneOp, draw, exact


@dataclass(frozen=True)
class Pool:
    """One case; pads are top, left, bottom, right."""

    id: str
    shape: tuple[int, int, int, int] = (1, 5, 9, 8)
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    x: Kind = field(default_factory=lambda: Kind(DType.I8))
    y: Kind = field(default_factory=lambda: Kind(DType.I8))
    relu: bool = False
    ceil_mode: bool = False

    @property
    def result(self) -> tuple[int, int, int, int]:
        """Shape of the result."""
        (n, c, *sizes), rounding = self.shape, ceil if self.ceil_mode else floor
        axes = zip(sizes, self.kernel, self.strides, self.pads[:2], self.pads[2:], strict=True)
        oh, ow = (rounding(Fraction(size + a + b - k, s)) + 1 for size, k, s, a, b in axes)
        return n, c, oh, ow

    @property
    def attributes(self) -> dict:
        """Attributes of every pool."""
        return {
            "kernel_shape": list(self.kernel), "strides": list(self.strides), "pads": list(self.pads), "do_relu": self.relu,
            "ceil_mode": self.ceil_mode,
        }  # fmt: skip

    @property
    def extra(self) -> tuple[int, int]:
        """Rows and columns that ceil_mode adds at bottom and right."""
        _, _, oh, ow = self.result
        (_, _, h, w), (kh, kw), (sh, sw), (top, left, bottom, right) = self.shape, self.kernel, self.strides, self.pads
        return (oh - 1) * sh + kh - h - top - bottom, (ow - 1) * sw + kw - w - left - right

    def windows(self, x: np.ndarray, fill: float) -> np.ndarray:
        """Windows, ceil_mode included."""
        (more_h, more_w), (top, left, bottom, right) = self.extra, self.pads
        pads = (top, left, bottom + max(more_h, 0), right + max(more_w, 0))
        return meaning.windows(x, self.kernel, self.strides, pads, fill=fill)


MAX = [
    Pool("signed", pads=(1, 1, 1, 1)),
    Pool("unsigned", x=Kind(DType.U8), y=Kind(DType.U8), strides=(2, 2), pads=(0, 1, 1, 0)),
    Pool("relu at the zero point", x=Kind(DType.I8, 20), y=Kind(DType.I8, 20), relu=True, pads=(1, 1, 1, 1)),
    Pool("ceil", strides=(2, 3), ceil_mode=True),
    Pool("wide", kernel=(5, 5), pads=(2, 2, 2, 2), x=Kind(DType.U8), y=Kind(DType.U8)),
]


@pytest.mark.parametrize("case", MAX, ids=lambda case: case.id)
def test_integer_max_pools_pick_the_largest_and_never_the_padding(case: Pool, rng: np.random.Generator) -> None:
    net, x = OneOp(), draw(rng, case.shape, case.x.dtype)
    y = net.run(net.op(
        TpuPool2DOp, "y", [net.given(x, case.x)], case.result, case.y, pool_mode=enum_attribute(PoolMode, "Max"), **case.attributes
    ))  # fmt: skip
    largest = case.windows(x, case.x.dtype.limits[0]).max((-2, -1))
    np.testing.assert_array_equal(y, np.maximum(largest, case.x.zero) if case.relu else largest)


AVERAGE = [
    Pool("signed", pads=(1, 1, 1, 1)),
    Pool("global", kernel=(9, 8)),
    Pool("unsigned", x=Kind(DType.U8), y=Kind(DType.U8), strides=(2, 2)),
    Pool("relu", relu=True),
    Pool("signed to unsigned", y=Kind(DType.U8)),
    Pool("window beyond float32", shape=(1, 2, 300, 300), kernel=(298, 299)),
]


@pytest.mark.parametrize("case", AVERAGE, ids=lambda case: case.id)
def test_symmetric_average_pools_requantize_the_sum(case: Pool, rng: np.random.Generator) -> None:
    net, x = OneOp(), draw(rng, case.shape, case.x.dtype)
    multiplier, rshift = 113, 7 + int(np.log2(case.kernel[0] * case.kernel[1] / 2))
    y = net.run(net.op(
        TpuPool2DOp, "y", [net.given(x, case.x)], case.result, case.y, pool_mode=enum_attribute(PoolMode, "Avg"),
        multiplier=multiplier, rshift=rshift, count_include_pad=True, **case.attributes,
    ))  # fmt: skip
    total = case.windows(x, 0).sum((-2, -1))
    np.testing.assert_array_equal(y, meaning.saturate(meaning.half_up(total * multiplier, rshift), case.y.dtype, relu=case.relu))


def test_the_published_average() -> None:
    sums = np.array([0, 100, 1000, 10000, 19584, 30000])
    x = np.stack([np.full(256, s // 256) + (np.arange(256) < s % 256) for s in sums]).reshape(1, 6, 16, 16)
    assert (x.sum((0, 2, 3)) == sums).all()
    net = OneOp()
    y = net.run(net.op(
        TpuPool2DOp, "y", [net.given(x, Kind(DType.U8))], (1, 6, 1, 1), Kind(DType.U8), pool_mode=enum_attribute(PoolMode, "Avg"),
        kernel_shape=[16, 16], strides=[1, 1], pads=[0] * 4, multiplier=107, rshift=13,
    ))  # fmt: skip
    assert y.ravel().tolist() == [0, 1, 13, 131, 255, 255]


def test_sums_beyond_float32_keep_their_last_bit() -> None:
    tie, count = 172 * (1 << 17) + (1 << 16), 298 * 299
    assert tie > 1 << 24
    x = np.stack([total // count + (np.arange(count) < total % count) for total in (tie - 1, tie)]).reshape(1, 2, 298, 299)
    net = OneOp()
    y = net.run(net.op(
        TpuPool2DOp, "y", [net.given(x, Kind(DType.U8))], (1, 2, 1, 1), Kind(DType.U8), pool_mode=enum_attribute(PoolMode, "Avg"),
        kernel_shape=[298, 299], strides=[1, 1], pads=[0] * 4, multiplier=1, rshift=17,
    ))  # fmt: skip
    assert y.ravel().tolist() == [172, 173]


ASYMMETRIC = [
    Pool("signed", kernel=(2, 2), strides=(2, 2), x=Kind(DType.I8, 5), y=Kind(DType.I8, -8)),
    Pool("unsigned global", kernel=(9, 8), x=Kind(DType.U8, 117), y=Kind(DType.U8, 90)),
    Pool("padded", pads=(1, 1, 1, 1), x=Kind(DType.I8, -70), y=Kind(DType.I8, 3), relu=True),
]


@pytest.mark.parametrize("ratio", [1.0, 0.5, 1.0371], ids=["all", "ties", "no ties"])
@pytest.mark.parametrize("case", ASYMMETRIC, ids=lambda case: case.id)
def test_asymmetric_average_pools_round_half_away_in_float64(case: Pool, ratio: float, rng: np.random.Generator) -> None:
    net, x = OneOp(), draw(rng, case.shape, case.x.dtype)
    scale, offset = ratio / (case.kernel[0] * case.kernel[1]), case.y.zero - case.x.zero * ratio
    y = net.run(net.op(
        TpuPool2DOp, "y", [net.given(x, case.x)], case.result, case.y, pool_mode=enum_attribute(PoolMode, "Avg"),
        scale=scale, offset=offset, count_include_pad=True, **case.attributes,
    ))  # fmt: skip
    real = case.windows(x, case.x.zero).sum((-2, -1)) * scale + offset
    rounded = np.vectorize(lambda v: int(np.sign(v)) * floor(abs(Fraction(v)) + Fraction(1, 2)))(real)
    low, high = case.y.dtype.limits
    np.testing.assert_array_equal(y, np.clip(rounded, case.y.zero if case.relu else low, high))


FLOAT = [
    Pool("plain"),
    Pool("padded", strides=(2, 2), pads=(1, 1, 1, 1)),
    Pool("uneven pads, relu", strides=(2, 3), pads=(0, 2, 1, 0), relu=True),
    Pool("ceil", strides=(2, 3), ceil_mode=True),
    Pool("ceil, padded", strides=(2, 2), pads=(1, 1, 0, 1), ceil_mode=True),
    Pool("global", kernel=(9, 8)),
]


@pytest.mark.parametrize("whole", [True, False], ids=["over the window", "over the picture"])
@pytest.mark.parametrize("case", FLOAT, ids=lambda case: case.id)
def test_float_averages_divide_by_what_counts(case: Pool, whole: bool, rng: np.random.Generator) -> None:
    net, x = OneOp(), draw(rng, case.shape, DType.F32)
    y = net.run(net.op(TopAvgPoolOp, "y", [net.given(x)], case.result, count_include_pad=whole, **case.attributes))
    top, left, bottom, right = case.pads
    ones = np.pad(np.ones_like(x), ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=float(whole))
    more = tuple(max(extra, 0) for extra in case.extra)
    counted = meaning.windows(ones, case.kernel, case.strides, (0, 0, *more)).sum((-2, -1))
    mean = case.windows(x, 0).sum((-2, -1), dtype=np.float64) / counted
    np.testing.assert_allclose(y, np.maximum(mean, 0) if case.relu else mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.value)
@pytest.mark.parametrize("case", FLOAT, ids=lambda case: case.id)
def test_float_pools_of_both_modes_hold_numbers_of_their_type(case: Pool, dtype: DType, rng: np.random.Generator) -> None:
    x = draw(rng, case.shape, dtype)
    for mode, count in (("Max", False), ("Avg", True)):
        net = OneOp()
        y = net.run(net.op(
            TpuPool2DOp, "y", [net.given(x, Kind(dtype))], case.result, Kind(dtype), pool_mode=enum_attribute(PoolMode, mode),
            count_include_pad=count, **case.attributes,
        ))  # fmt: skip
        np.testing.assert_array_equal(y, exact(y, dtype))
        if mode == "Max":
            largest = case.windows(x, -np.inf).max((-2, -1))
            np.testing.assert_array_equal(y, np.maximum(largest, 0) if case.relu else largest)


def test_a_top_max_pool_with_ceil_mode_sees_the_last_rows(rng: np.random.Generator) -> None:
    case, x = Pool("", strides=(2, 2), kernel=(2, 2), shape=(1, 1, 5, 5), ceil_mode=True), draw(rng, (1, 1, 5, 5), DType.F32)
    net = OneOp()
    y = net.run(net.op(TopMaxPoolOp, "y", [net.given(x)], (1, 1, 3, 3), **case.attributes))
    assert y[0, 0, 2, 2] == x[0, 0, 4, 4]


def test_an_unknown_mode_is_refused() -> None:
    net = OneOp()
    y = net.op(
        TpuPool2DOp, "pool", [net.given(np.zeros((1, 1, 2, 2)))], (1, 1, 1, 1), pool_mode=enum_attribute(PoolMode, "Sum"),
        kernel_shape=[2, 2], strides=[1, 1], pads=[0] * 4,
    )  # fmt: skip
    with pytest.raises(CompileError, match=r"pool: tpu.Pool2D of mode Sum has no kernel"):
        net.run(y)
