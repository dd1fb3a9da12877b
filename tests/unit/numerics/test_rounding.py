"""The seven rounding modes against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from bmflow.numerics.rounding import Rounding, round_real, rshift_round, saturate

HALF = Fraction(1, 2)


def exactly(value: Fraction, mode: Rounding) -> int:
    """The definition of each mode (quantization notes, 1)."""
    match mode:
        case Rounding.HALF_TO_EVEN:
            return round(value)
        case Rounding.HALF_AWAY:
            return floor(value + HALF) if value >= 0 else ceil(value - HALF)
        case Rounding.TOWARD_ZERO:
            return int(value)
        case Rounding.DOWN:
            return floor(value)
        case Rounding.UP:
            return ceil(value)
        case Rounding.HALF_UP:
            return floor(value + HALF)
        case Rounding.HALF_DOWN:
            return ceil(value - HALF)


EVERY_MODE = pytest.mark.parametrize("mode", Rounding, ids=lambda mode: mode.name)


def test_modes_have_the_codes_of_the_instruction_set() -> None:
    names = ["HALF_TO_EVEN", "HALF_AWAY", "TOWARD_ZERO", "DOWN", "UP", "HALF_UP", "HALF_DOWN"]
    assert [Rounding(code).name for code in range(7)] == names


@EVERY_MODE
def test_reals_round_as_defined_on_both_sides_of_every_tie(mode: Rounding) -> None:
    ties = np.arange(-20, 21) / 2
    x = np.concatenate([ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf), [2.0**52 + 1, -(2.0**53), 4503599627370495.5]])
    assert round_real(x, mode).tolist() == [exactly(Fraction(v), mode) for v in x.tolist()]


@EVERY_MODE
def test_numbers_that_are_not_finite_pass(mode: Rounding) -> None:
    y = round_real(np.array([np.inf, -np.inf, np.nan]), mode)
    assert y[0] == np.inf
    assert y[1] == -np.inf
    assert np.isnan(y[2])


@EVERY_MODE
@pytest.mark.parametrize("shift", [0, 1, 2, 5, 31, 62])
def test_right_shifts_round_as_defined(mode: Rounding, shift: int) -> None:
    unit = 1 << shift
    values = [k * unit // 4 + d for k in range(-13, 14) for d in (-1, 0, 1) if abs(k * unit // 4) < 1 << 62]
    assert rshift_round(np.array(values), shift, mode).tolist() == [exactly(Fraction(v, unit), mode) for v in values]


@EVERY_MODE
def test_a_shift_beyond_63_counts_as_63(mode: Rounding) -> None:
    values = np.array([-(1 << 62), -1, 0, 1, 1 << 62])
    assert rshift_round(values, 70, mode).tolist() == rshift_round(values, 63, mode).tolist()
    assert rshift_round(values, 63, mode).tolist() == [exactly(Fraction(int(v), 1 << 63), mode) for v in values]


@EVERY_MODE
def test_a_negative_shift_shifts_left_without_saturation(mode: Rounding) -> None:
    assert rshift_round(np.array([-3, 0, 200]), -4, mode).tolist() == [-48, 0, 3200]


def test_shifts_broadcast_and_half_up_is_the_default() -> None:
    shifts = np.array([0, 1, 2]).reshape(3, 1)
    assert rshift_round(np.array([-2, -1, 1, 2]), shifts).tolist() == [[-2, -1, 1, 2], [-1, 0, 1, 1], [0, 0, 0, 1]]


def test_one_number_will_do() -> None:
    assert int(rshift_round(5, 1)) == 3
    assert float(round_real(-2.5, Rounding.HALF_AWAY)) == -3


def test_saturation_clamps_to_both_ends() -> None:
    assert saturate(np.array([-200, -128, 5, 127, 1 << 40]), -128, 127).tolist() == [-128, -128, 5, 127, 127]
