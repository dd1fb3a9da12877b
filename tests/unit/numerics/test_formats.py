"""The 16-bit float formats against exact rational arithmetic and numpy's half type."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from bmflow.numerics.formats import bf16_bits, bf16_values, f16_bits, f16_values, to_bf16, to_f16

EVERY = np.arange(1 << 16, dtype=np.uint16)


def bits(*values: int) -> np.ndarray:
    """float32 numbers by their bits."""
    return np.array(values, np.uint32).view(np.float32)


def nearest(value: float, digits: int, smallest: int) -> Fraction:
    """The closest number with `digits` bits of fraction and exponents from `smallest` on, ties to an even fraction."""
    exact = Fraction(value)
    exponent = smallest
    while abs(exact) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    step = Fraction(2) ** (exponent - digits)
    return round(exact / step) * step


def test_every_f16_value_keeps_its_bits() -> None:
    numbers = (EVERY & 0x7C00 != 0x7C00) | (EVERY & 0x3FF == 0)
    np.testing.assert_array_equal(f16_bits(f16_values(EVERY))[numbers], EVERY[numbers])


def test_every_bf16_value_keeps_its_bits_but_subnormals_and_nan() -> None:
    values = bf16_values(EVERY)
    subnormal, nan = EVERY & 0x7F80 == 0, np.isnan(values)
    np.testing.assert_array_equal(bf16_bits(values)[~subnormal & ~nan], EVERY[~subnormal & ~nan])
    np.testing.assert_array_equal(bf16_bits(values)[subnormal], EVERY[subnormal] & 0x8000)
    assert (bf16_bits(values)[nan] == 0x7FFF).all()


def test_f16_rounds_to_nearest_even_and_keeps_subnormals(rng: np.random.Generator) -> None:
    x = (rng.normal(size=400) * 2.0 ** rng.integers(-26, 15, 400)).astype(np.float32)
    x = np.concatenate([x, [2.0**-24, 2.0**-25, 3 * 2.0**-25, 2.0**-14, 1 + 2.0**-11, 1 + 3 * 2.0**-11]]).astype(np.float32)
    assert [Fraction(float(v)) for v in to_f16(x)] == [nearest(float(v), 10, -14) for v in x]


def test_f16_overflows_to_infinity() -> None:
    assert to_f16(np.array([65504, 65519.9, 65520, -1e30], np.float32)).tolist() == [65504, 65504, np.inf, -np.inf]


def test_bf16_rounds_to_nearest_even(rng: np.random.Generator) -> None:
    x = (rng.normal(size=400) * 2.0 ** rng.integers(-120, 120, 400)).astype(np.float32)
    x = np.concatenate([x, bits(0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF)])
    assert [Fraction(float(v)) for v in to_bf16(x)] == [nearest(float(v), 7, -126) for v in x]


def test_bf16_flushes_subnormals_but_those_that_round_up_to_a_normal_number() -> None:
    tiny = bits(0x00000001, 0x80000001, 0x007F0000, 0x007F7FFF, 0x007F8000, 0x807FFFFF, 0x00800000)
    assert bf16_bits(tiny).tolist() == [0, 0x8000, 0, 0, 0x0080, 0x8080, 0x0080]


def test_bf16_overflow_infinity_and_nan() -> None:
    special = bits(0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0xFFC00000, 0x7F7F7FFF)
    assert bf16_bits(special).tolist() == [0x7F80, 0xFF80, 0x7F80, 0xFF80, 0x7FFF, 0x7FFF, 0x7F7F]


def test_shapes_strides_and_scalars_are_kept() -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)[:, ::2]
    for round_to in (to_f16, to_bf16):
        np.testing.assert_array_equal(round_to(x), x)
        assert round_to(np.array(1.5, np.float32)).shape == ()
