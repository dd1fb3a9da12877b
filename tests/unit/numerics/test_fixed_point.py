"""Scales as multiplier and shift, against the published vectors (quantization notes, 13)."""

from __future__ import annotations

import numpy as np
import pytest
from bmflow.errors import NumericRangeError
from bmflow.numerics.fixed_point import (
    FixedPoint,
    half_away,
    multiplier_from_qscale,
    quantize_multiplier,
    scale_and_shift,
    scale_and_shift_positive,
)

VECTORS = [
    (0.1234, (4140617, 25), (63, 9), (2119995857, -3), (126, 10)),
    (0.5, (1, 1), (1, 1), (1073741824, 0), (64, 7)),
    (1 / 255, (65793, 24), (1, 8), (1077952576, -7), (64, 14)),
    (0.00123456789, (1325607, 30), (81, 16), (1357421750, -9), (80, 16)),
    (3.7, (15518925, 22), (59, 4), (1986422374, 2), (118, 5)),
    (1.0, (1, 0), (1, 0), (1073741824, 1), (64, 6)),
    (1e-5, (10737, 30), (21, 21), (1407374884, -16), (83, 23)),
]


@pytest.mark.parametrize(("scale", "wide", "narrow", "tflite", "cv18xx"), VECTORS)
def test_the_published_table(
    scale: float, wide: tuple[int, int], narrow: tuple[int, int], tflite: tuple[int, int], cv18xx: tuple[int, int]
) -> None:
    assert scale_and_shift(scale) == FixedPoint(*wide)
    assert scale_and_shift(scale, 8) == FixedPoint(*narrow)
    assert scale_and_shift_positive(scale, 8) == FixedPoint(*narrow)
    assert quantize_multiplier(scale) == tflite
    assert multiplier_from_qscale(scale) == FixedPoint(*cv18xx)


PUBLISHED_PAIRS = [
    (4 / 127 / (6 / 127), (85, 7), "sum, i8 th 4 to i8 th 6"),
    (3 / 255 / (6 / 127), (1, 2), "sum, u8 th 3 to i8 th 6"),
    (1 / 255 / (5 / 127), (51, 9), "concat, u8 th 1 to i8 th 5"),
    ((4 / 255) / (7 / 255), (73, 7), "concat, [-1, 3] to [-2, 5]"),
    (10 / 255 / (3 / 255 * 256), (107, 13), "average pool 16x16, u8 th 10 to u8 th 3"),
]


@pytest.mark.parametrize(("scale", "pair", "what"), PUBLISHED_PAIRS, ids=[what for *_, what in PUBLISHED_PAIRS])
def test_the_published_operators(scale: float, pair: tuple[int, int], what: str) -> None:
    assert scale_and_shift_positive(scale, 8) == FixedPoint(*pair)


def test_the_published_convolution_multiplier() -> None:
    assert scale_and_shift(0.01 * (2 / 127) / (3 / 255)) == FixedPoint(7186461, 29)


def test_large_scales_take_a_left_shift_where_that_is_allowed() -> None:
    assert scale_and_shift(1024.0, 8) == FixedPoint(1, -10)
    assert scale_and_shift(2.0**31) == FixedPoint(1, -31)


def test_the_sign_stays_in_the_multiplier() -> None:
    assert scale_and_shift(-0.1234, 8) == FixedPoint(-63, 9)


def test_a_scale_too_small_for_any_shift_becomes_zero() -> None:
    assert scale_and_shift(1e-12).multiplier == 0
    assert scale_and_shift_positive(0.0) == FixedPoint(0, 0)


@pytest.mark.parametrize("scale", [126.5, -126.5, 1e6])
def test_eight_bits_without_left_shift_end_at_126_and_a_half(scale: float) -> None:
    assert scale_and_shift_positive(126.49).multiplier == 126
    with pytest.raises(NumericRangeError, match="needs a multiplier of more than 8 bits; give the layer a float type"):
        scale_and_shift_positive(scale)


@pytest.mark.parametrize("scale", [np.inf, -np.inf, np.nan, 1e39])
def test_scales_that_are_not_finite_in_float32_are_refused(scale: float) -> None:
    with pytest.raises(NumericRangeError, match="not a finite number"), np.errstate(over="ignore"):
        scale_and_shift(scale)


def test_tflite_multipliers_end_at_both_sides() -> None:
    assert quantize_multiplier(2.0**-33) == (0, 0)
    assert quantize_multiplier(2.0**31) == ((1 << 31) - 1, 30)
    assert quantize_multiplier(1 - 2.0**-40) == (1 << 30, 1)


def test_qscales_beyond_the_limit_and_beyond_all_shifts() -> None:
    assert multiplier_from_qscale(128.0) == FixedPoint(127, 0)
    assert multiplier_from_qscale(1e-30) == FixedPoint(0, 0)


def test_half_away_is_exact_next_to_ties() -> None:
    assert [half_away(v) for v in (0.5, -0.5, 2.5, -2.5, 0.49999999999999994, -0.49999999999999994, -3.0)] == [1, -1, 3, -3, 0, 0, -3]


def test_real_is_what_is_applied() -> None:
    assert FixedPoint(3, 2).real == 0.75
    assert FixedPoint(3, -2).real == 12
