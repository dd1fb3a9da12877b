"""Casts and re-scalings."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import meaning
import numpy as np
import pytest
from bmflow.dialects.tpu.convert import TpuCastOp, TpuMulShiftOp, TpuRequantIntOp
from bmflow.errors import CompileError
from bmflow.ir.types import DType
from one_op import FLOATS, INTEGERS, Kind, OneOp, exact

EVERY_F16 = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
EVERY_BF16 = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
KINDS = [Kind(DType.I8), Kind(DType.U8), Kind(DType.I8, -11), Kind(DType.U8, 117), Kind(DType.I8, 127), Kind(DType.U8, 255)]


def away(x: float) -> int:
    """Exact half away from zero."""
    return (-1 if x < 0 else 1) * floor(abs(Fraction(x)) + Fraction(1, 2))


def cast(x: np.ndarray, source: Kind, result: Kind) -> np.ndarray:
    """The kernel."""
    net = OneOp()
    return net.run(net.op(TpuCastOp, "y", [net.given(x, source)], x.shape, result))


def quantized(x: np.ndarray, source: DType, result: Kind) -> np.ndarray:
    """sat(round_half_away(x * 1/scale) + zp), each step in the source's type."""
    reciprocal = exact(np.float32(1.0 / result.scale), source)
    products = exact(x.astype(np.float32) * reciprocal, source)
    low, high = result.dtype.limits
    rounded = [away(v) if np.isfinite(v) else (1 << 40) * int(np.sign(v)) for v in products.tolist()]
    return np.array([min(max(v + result.zero, low), high) for v in rounded])


@pytest.mark.parametrize("scale", [0.5, 0.0123, 1 / 255, 3.7], ids=str)
@pytest.mark.parametrize("result", KINDS, ids=str)
@pytest.mark.parametrize("source", FLOATS, ids=lambda dtype: dtype.value)
def test_floats_become_integers_half_away_from_zero(source: DType, result: Kind, scale: float, rng: np.random.Generator) -> None:
    kind = Kind(result.dtype, result.zero, scale)
    ties = (np.arange(-600, 600) / 2 * scale).astype(np.float32)
    near = [np.nextafter(ties, np.float32(side)) for side in (-np.inf, np.inf)]
    x = np.concatenate([ties, *near, rng.normal(size=500) * 100 * scale, [0, 1e30, -1e30, 3e9, -3e9, np.inf, -np.inf]])
    x = exact(x.astype(np.float32), source)
    np.testing.assert_array_equal(cast(x, Kind(source), kind), quantized(x, source, kind))


@pytest.mark.parametrize("result", [Kind(DType.I16, scale=0.001), Kind(DType.U16, 300, scale=0.002)], ids=str)
def test_floats_become_16_bit_integers(result: Kind, rng: np.random.Generator) -> None:
    x = (rng.normal(size=999) * 20).astype(np.float32)
    np.testing.assert_array_equal(cast(x, Kind(), result), quantized(x, DType.F32, result))


@pytest.mark.parametrize("scale", [0.5, 0.0123, 1 / 255], ids=str)
@pytest.mark.parametrize("source", KINDS, ids=str)
@pytest.mark.parametrize("result", FLOATS, ids=lambda dtype: dtype.value)
def test_integers_become_floats_with_each_step_in_the_result_type(source: Kind, result: DType, scale: float) -> None:
    low, high = source.dtype.limits
    x = np.arange(low, high + 1)
    y = cast(x, Kind(source.dtype, source.zero, scale), Kind(result))
    factor, difference = exact(np.float32(scale), result), exact((x - source.zero).astype(np.float32), result)
    np.testing.assert_array_equal(y, exact(factor * difference, result))


@pytest.mark.parametrize("source", [Kind(DType.I16, scale=0.01), Kind(DType.U16, 1000, scale=0.01)], ids=str)
@pytest.mark.parametrize("result", FLOATS, ids=lambda dtype: dtype.value)
def test_16_bit_integers_become_floats(source: Kind, result: DType, rng: np.random.Generator) -> None:
    x = rng.integers(*source.dtype.limits, 500)
    factor, difference = exact(np.float32(source.scale), result), exact((x - source.zero).astype(np.float32), result)
    np.testing.assert_array_equal(cast(x, source, Kind(result)), exact(factor * difference, result))


@pytest.mark.parametrize("result", FLOATS, ids=lambda dtype: dtype.value)
def test_float_casts_equal_the_formats_bit_for_bit(result: DType) -> None:
    rng = np.random.default_rng(5)
    every = np.concatenate([EVERY_F16, EVERY_BF16, rng.integers(0, 1 << 32, 1 << 17, dtype=np.uint32).view(np.float32)])
    bits = every.view(np.uint32)
    around = np.concatenate([every, (bits + 1).view(np.float32), (bits + 0x8000).view(np.float32), (bits + 0x7FFF).view(np.float32)])
    y, expected = cast(around, Kind(), Kind(result)), exact(around, result)
    numbers = ~np.isnan(around)
    np.testing.assert_array_equal(y[numbers].view(np.uint32), expected[numbers].view(np.uint32))
    assert np.isnan(y[~numbers]).all()


@pytest.mark.parametrize("source", [DType.F16, DType.BF16], ids=lambda dtype: dtype.value)
def test_the_other_half_type_is_rounded_to(source: DType) -> None:
    x = np.array([1.00390625, 65504, 1e-30, 3.140625], np.float32)
    x = exact(x, source)
    other = DType.BF16 if source is DType.F16 else DType.F16
    np.testing.assert_array_equal(cast(x, Kind(source), Kind(other)), exact(x, other))
    np.testing.assert_array_equal(cast(x, Kind(source), Kind()), x)


RESCALES = [(51, 9), (73, 7), (1, 1), (3, 2), (126, 3), (1518500249, 31), (0, 0), (1, -2), (-85, 7)]


@pytest.mark.parametrize("form", RESCALES, ids=str)
@pytest.mark.parametrize("zeros", [(0, 0), (-64, -55), (5, 100)], ids=str)
@pytest.mark.parametrize("result", INTEGERS, ids=lambda dtype: dtype.value)
@pytest.mark.parametrize("source", INTEGERS, ids=lambda dtype: dtype.value)
def test_rescalings_are_exact_for_every_byte(source: DType, result: DType, zeros: tuple[int, int], form: tuple[int, int]) -> None:
    from_kind = Kind(source, zeros[0] + (64 if source is DType.U8 and zeros[0] else 0))
    to_kind = Kind(result, zeros[1] + (55 if result is DType.U8 and zeros[1] else 0))
    x, (multiplier, rshift) = np.arange(source.limits[0], source.limits[1] + 1), form
    for op, rounding in ((TpuMulShiftOp, meaning.half_up), (TpuRequantIntOp, meaning.half_away)):
        net = OneOp()
        y = net.run(net.op(op, "y", [net.given(x, from_kind)], (256,), to_kind, multiplier=multiplier, rshift=rshift))
        expected = rounding((x - from_kind.zero).astype(object) * multiplier, rshift)
        np.testing.assert_array_equal(y, meaning.saturate(expected, result, to_kind.zero), err_msg=op.name)


def test_the_published_concat_inputs() -> None:
    for op, source, result, form, x, expected in (
        (TpuMulShiftOp, Kind(DType.U8), Kind(DType.I8), (51, 9), [0, 1, 5, 6, 128, 254, 255], [0, 0, 0, 1, 13, 25, 25]),
        (TpuRequantIntOp, Kind(DType.I8, -64), Kind(DType.I8, -55), (73, 7), [-128, -65, -64, -63, 0, 100, 127],
         [-92, -56, -55, -54, -18, 39, 54]),
    ):  # fmt: skip
        net = OneOp()
        y = net.run(net.op(op, "y", [net.given(np.array(x), source)], (7,), result, multiplier=form[0], rshift=form[1]))
        assert y.tolist() == expected


def test_a_cast_between_integers_is_refused() -> None:
    net = OneOp()
    y = net.op(TpuCastOp, "change", [net.given(np.zeros(2), Kind(DType.I8))], (2,), Kind(DType.U8))
    with pytest.raises(CompileError, match=r"change: tpu.Cast of si8 to ui8 has no kernel"):
        net.run(y)
