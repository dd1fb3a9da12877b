"""Rounding of real numbers and of integer right shifts, in the seven modes that processors have.

The values of `Rounding` are the codes of the BM1684X instruction set (instruction notes, 1.5).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Reals = NDArray[np.float64]

MAX_SHIFT = 63


class Rounding(IntEnum):
    """Where a number between two integers goes; the HALF modes differ on ties only."""

    HALF_TO_EVEN = 0
    HALF_AWAY = 1
    TOWARD_ZERO = 2
    DOWN = 3
    UP = 4
    HALF_UP = 5
    HALF_DOWN = 6


def round_real(values: NDArray[np.floating] | float, mode: Rounding) -> Reals:
    """Round to integers (as float64); NaN and infinities pass through.

    Exact: the part behind the point is what trunc leaves, which float64 holds. x - floor(x) and x + 0.5 are not: both round
    0.49999999999999994 or its negative to one half.
    """
    x = np.asarray(values, np.float64)
    whole = np.trunc(x)
    with np.errstate(invalid="ignore"):
        rest = x - whole
    match mode:
        case Rounding.HALF_TO_EVEN:
            return np.asarray(np.rint(x))
        case Rounding.HALF_AWAY:
            return whole + (rest >= 0.5) - (rest <= -0.5)
        case Rounding.TOWARD_ZERO:
            return np.asarray(whole)
        case Rounding.DOWN:
            return np.asarray(np.floor(x))
        case Rounding.UP:
            return np.asarray(np.ceil(x))
        case Rounding.HALF_UP:
            return whole + (rest >= 0.5) - (rest < -0.5)
        case Rounding.HALF_DOWN:
            return whole + (rest > 0.5) - (rest <= -0.5)


def rshift_round(values: NDArray[np.integer] | int, shift: NDArray[np.integer] | int, mode: Rounding = Rounding.HALF_UP) -> Integers:
    """Shift right with rounding, in 64-bit arithmetic; a negative shift shifts left without saturation, one above 63 counts as 63.

    Args:
        values: any integers; `shift` broadcasts against them.
    Source: quantization notes, 1; BM1684X instruction notes, 1.5.
    """
    v = np.asarray(values, np.int64)
    s = np.minimum(np.asarray(shift, np.int64), MAX_SHIFT)
    right, left = np.maximum(s, 0), np.maximum(-s, 0)
    quotient = v >> right
    rest = v - (quotient << right)
    half = np.where(right > 0, np.int64(1) << np.maximum(right - 1, 0), np.int64(1))
    up = _goes_up(v, quotient, rest, half, mode)
    return np.asarray(np.where(right > 0, quotient + up, v << left), np.int64)


def _goes_up(v: Integers, quotient: Integers, rest: Integers, half: Integers, mode: Rounding) -> NDArray[np.bool_]:
    match mode:
        case Rounding.HALF_TO_EVEN:
            return (rest > half) | ((rest == half) & (quotient & 1 == 1))
        case Rounding.HALF_AWAY:
            return (rest > half) | ((rest == half) & (v >= 0))
        case Rounding.TOWARD_ZERO:
            return (v < 0) & (rest > 0)
        case Rounding.DOWN:
            return np.zeros_like(rest, np.bool_)
        case Rounding.UP:
            return np.asarray(rest > 0)
        case Rounding.HALF_UP:
            return np.asarray(rest >= half)
        case Rounding.HALF_DOWN:
            return np.asarray(rest > half)


def saturate(values: NDArray[np.integer], low: int, high: int) -> Integers:
    """Clamp integers to low..high."""
    return np.clip(np.asarray(values, np.int64), low, high)
