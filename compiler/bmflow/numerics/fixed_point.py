"""Scales as an integer multiplier and a right shift: multiplier / 2^rshift ~ scale (quantization notes, 1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp, isfinite

import numpy as np

from bmflow.errors import NumericRangeError

MAX_RSHIFT = 30
MIN_RSHIFT = -32


@dataclass(frozen=True)
class FixedPoint:
    """real ~ multiplier / 2**rshift; a negative rshift shifts left."""

    multiplier: int
    rshift: int

    @property
    def real(self) -> float:
        """The number that is applied."""
        return self.multiplier / 2.0**self.rshift


def scale_and_shift(scale: float, bits: int = 32) -> FixedPoint:
    """Choose the shift -32..30 whose multiplier comes closest to the scale; the smallest shift wins a tie.

    Args:
        scale: any finite number; narrowed to float32 first.
        bits: 32: |multiplier| < 2^31 - 1; anything else: |multiplier| < 127.

    Returns:
        multiplier 0 for a scale too small for any shift.

    Raises:
        NumericRangeError: not finite, or too large for any shift.
    """
    return _closest(scale, bits, MIN_RSHIFT)


def scale_and_shift_positive(scale: float, bits: int = 8) -> FixedPoint:
    """`scale_and_shift` with shifts 0..30 only: never a left shift.

    Raises:
        NumericRangeError: not finite, or too large: |scale| >= 126.5 with 8 bits.
    """
    return _closest(scale, bits, 0)


def _closest(scale: float, bits: int, first: int) -> FixedPoint:
    narrow = float(np.float32(scale))
    if not isfinite(narrow):
        raise NumericRangeError(f"scale {scale} is not a finite number; look for an empty or infinite calibration range")
    limit = (1 << 31) - 1 if bits == 32 else 127
    best, found = float(np.finfo(np.float32).max), None
    useful = -frexp(narrow)[1]  # smaller shifts leave less than half of 1
    if first < useful:
        best, found = abs(narrow), FixedPoint(0, first)
    for shift in range(max(first, useful), MAX_RSHIFT + 1):
        multiplier = half_away(narrow * 2.0**shift)
        if abs(multiplier) >= limit:
            break
        error = float(np.float32(abs(multiplier / 2.0**shift - narrow)))
        if error < best:
            best, found = error, FixedPoint(multiplier, shift)
    if found is None:
        raise NumericRangeError(
            f"scale {scale} needs a multiplier of more than {bits} bits; give the layer a float type in the quantize table"
        )
    return found


def quantize_multiplier(scale: float) -> tuple[int, int]:
    """A 31-bit multiplier and a left shift e, scale ~ multiplier / 2^31 * 2^e, in the way of TFLite."""
    mantissa, exponent = frexp(scale)
    multiplier = half_away(mantissa * 2.0**31)
    if multiplier == 1 << 31:
        multiplier, exponent = multiplier // 2, exponent + 1
    if exponent < -31:
        return 0, 0
    return ((1 << 31) - 1, 30) if exponent > 30 else (multiplier, exponent)


def multiplier_from_qscale(scale: float, limit: int = 127) -> FixedPoint:
    """Smallest right shift 0..62 that leaves a multiplier in [limit / 2, limit), cut off rather than rounded (CV18xx; slopes of PReLU)."""
    if scale > limit:
        return FixedPoint(limit, 0)
    shift = next((r for r in range(63) if scale * 2.0 ** (r + 1) >= limit), None)
    return FixedPoint(0, 0) if shift is None else FixedPoint(int(scale * 2.0**shift), shift)


def half_away(value: float) -> int:
    """Round one number half away from zero, as C's round does."""
    whole = int(value)
    rest = value - whole  # exact, as value - floor(value) is not
    return whole + (rest >= 0.5) - (rest <= -0.5)
