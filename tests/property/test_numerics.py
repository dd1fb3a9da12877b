"""Properties of rounding, formats and fixed point that hold for every number."""

from __future__ import annotations

from fractions import Fraction
from math import isnan

import numpy as np
import pytest
from bmflow.numerics.fixed_point import multiplier_from_qscale, quantize_multiplier, scale_and_shift, scale_and_shift_positive
from bmflow.numerics.formats import to_bf16, to_f16
from bmflow.numerics.rounding import Rounding, round_real, rshift_round
from hypothesis import given
from hypothesis import strategies as st

INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
SHIFT = st.integers(0, 63)
SCALE = st.floats(2.0**-20, 2.0**20, width=32)
FLOAT = st.floats(width=32, allow_nan=False)
NEAREST = (Rounding.HALF_AWAY, Rounding.HALF_DOWN, Rounding.HALF_TO_EVEN, Rounding.HALF_UP)
MODE = st.sampled_from(Rounding)


@given(INT32, SHIFT, MODE)
def test_a_shift_is_the_rounded_quotient(value: int, shift: int, mode: Rounding) -> None:
    quotient = Fraction(value, 1 << shift)
    y = int(rshift_round(value, shift, mode))
    assert abs(y - quotient) <= (Fraction(1, 2) if mode in NEAREST else Fraction((1 << shift) - 1, 1 << shift))
    if quotient.denominator == 1:
        assert y == quotient


@given(INT32, st.integers(0, 20), MODE)
def test_shifts_agree_with_reals_where_float64_is_exact(value: int, shift: int, mode: Rounding) -> None:
    assert int(rshift_round(value, shift, mode)) == float(round_real(value / 2.0**shift, mode))


@given(INT32, INT32, SHIFT, MODE)
def test_rounding_keeps_order(a: int, b: int, shift: int, mode: Rounding) -> None:
    low, high = sorted((a, b))
    assert rshift_round(low, shift, mode) <= rshift_round(high, shift, mode)


@given(INT32, SHIFT)
def test_half_away_half_even_and_toward_zero_are_odd_functions(value: int, shift: int) -> None:
    for mode in (Rounding.HALF_AWAY, Rounding.HALF_TO_EVEN, Rounding.TOWARD_ZERO):
        assert rshift_round(-value, shift, mode) == -rshift_round(value, shift, mode)
    assert rshift_round(-value, shift, Rounding.HALF_UP) == -rshift_round(value, shift, Rounding.HALF_DOWN)
    assert rshift_round(-value, shift, Rounding.UP) == -rshift_round(value, shift, Rounding.DOWN)


@given(FLOAT)
def test_rounding_to_a_format_twice_changes_nothing(value: float) -> None:
    for round_to in (to_f16, to_bf16):
        once = round_to(np.array([value], np.float32))
        np.testing.assert_array_equal(round_to(once).view(np.uint32), once.view(np.uint32))


@given(FLOAT, FLOAT)
def test_rounding_to_a_format_keeps_order_and_is_odd(a: float, b: float) -> None:
    x = np.sort(np.array([a, b], np.float32))
    for round_to in (to_f16, to_bf16):
        y = round_to(x)
        assert y[0] <= y[1]
        np.testing.assert_array_equal(round_to(-x), -y)


@given(st.floats(2.0**-126, 2.0**127, width=32))
def test_bf16_keeps_eight_bits(value: float) -> None:
    assert abs(float(to_bf16(np.array([value], np.float32))[0]) - value) <= value * 2.0**-8


@given(st.integers(0, 0xFFFFFFFF))
def test_nan_stays_nan_and_numbers_stay_numbers(pattern: int) -> None:
    x = np.array([pattern], np.uint32).view(np.float32)
    for round_to in (to_f16, to_bf16):
        assert isnan(round_to(x)[0]) == isnan(x[0])


@given(SCALE)
def test_wide_multipliers_are_exact_or_within_half_a_step_of_the_last_shift(scale: float) -> None:
    found = scale_and_shift(scale)
    assert abs(Fraction(found.multiplier) / Fraction(2) ** found.rshift - Fraction(scale)) <= (
        0 if scale >= 2.0**-7 else Fraction(1, 1 << 31)
    )
    assert 0 < found.multiplier < (1 << 31) - 1


@given(SCALE)
def test_no_other_narrow_pair_is_closer(scale: float) -> None:
    found = scale_and_shift(scale, 8)
    best = min(abs(m / 2.0**n - scale) for n in range(-32, 31) for m in (int(scale * 2.0**n), int(scale * 2.0**n) + 1) if m < 127)
    assert np.float32(abs(found.real - scale)) <= np.float32(best)
    assert abs(found.multiplier) <= 126


@given(SCALE, st.sampled_from([8, 32]))
def test_the_smallest_shift_wins_so_multipliers_of_an_exact_scale_are_odd(scale: float, bits: int) -> None:
    found = scale_and_shift(scale, bits)
    if Fraction(found.multiplier) / Fraction(2) ** found.rshift == Fraction(scale):
        assert found.multiplier % 2 == 1 or found.rshift == -32


@given(st.floats(2.0**-20, 126, width=32))
def test_positive_shifts_agree_with_free_ones_below_127(scale: float) -> None:
    free, positive = scale_and_shift(scale, 8), scale_and_shift_positive(scale, 8)
    assert positive.rshift >= 0
    if free.rshift >= 0:
        assert positive == free


@given(st.floats(2.0**-25, 2.0**25))
def test_tflite_multipliers_have_31_bits(scale: float) -> None:
    multiplier, exponent = quantize_multiplier(scale)
    assert 1 << 30 <= multiplier < 1 << 31
    assert multiplier / 2.0**31 * 2.0**exponent == pytest.approx(scale, rel=2.0**-31)


@given(st.floats(2.0**-40, 127.0))
def test_qscale_multipliers_lie_between_half_the_limit_and_the_limit(scale: float) -> None:
    found = multiplier_from_qscale(scale)
    assert 63 <= found.multiplier <= 127
    assert 0 <= scale - found.real <= 2.0**-found.rshift
