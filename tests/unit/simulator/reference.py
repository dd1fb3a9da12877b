"""Arithmetic with Python's integers and fractions, as the instruction notes describe it (1.5, 3.5, 3.6)."""

from __future__ import annotations

from fractions import Fraction
from math import floor

LIMITS = {"i8": (-128, 127), "u8": (0, 255), "i16": (-32768, 32767), "u16": (0, 65535), "i32": (-(2**31), 2**31 - 1), "u32": (0, 2**32 - 1)}


def rounded(value: Fraction, mode: int) -> int:
    """Round in one of the seven modes of the hardware."""
    below = floor(value)
    rest = value - below
    half = Fraction(1, 2)
    up = {
        0: rest > half or (rest == half and below % 2 == 1),
        1: rest > half or (rest == half and value >= 0),
        2: value < 0 and rest > 0,
        3: False,
        4: rest > 0,
        5: rest >= half,
        6: rest > half,
    }[mode]
    return below + int(up)


def saturated(value: int, kind: str) -> int:
    """The nearest number of a type."""
    low, high = LIMITS[kind]
    return min(max(value, low), high)


def wrapped(value: int, kind: str) -> int:
    """The number of a type with the same low bits."""
    low, high = LIMITS[kind]
    return (value - low) % (high - low + 1) + low


def shifted(value: int, shift: int, mode: int) -> int:
    """Shift left by `shift`, right with rounding where it is negative."""
    return rounded(Fraction(value) * Fraction(2) ** shift, mode)
