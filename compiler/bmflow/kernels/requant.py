"""From sums to 8 or 16 bits: y = sat(rshift_round((acc + addend) * multiplier, rshift) + zero), half up, exactly.

acc * multiplier / 2^rshift is exact in float64 while all its terms stay below 2^52 steps of 2^-rshift, so one multiplication, one
addition and one cut towards zero give the defined integer (results below zero saturate anyway). This costs a third of the same
in int64 and 1.5 times a float32 form, which would be wrong next to ties. Larger numbers take int64, clipped first where the result is
saturated already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bmflow.kernels.emission import Emission
from bmflow.kernels.graph import DOUBLE, INT32, INT64, UINT8

_EXACT = 2.0**52
_INT32 = 2.0**31
_INT64 = 1 << 62
_MAX_SHIFT = 63


def requantize(
    e: Emission, acc: str, bounds: Sequence[int], multipliers: Sequence[int], rshifts: Sequence[int], addends: Sequence[int]
) -> str:
    """Emit the requantization of `acc` to the op's result type, relu included when the op has it.

    Args:
        acc: a tensor of any number type that holds integers.
        bounds: largest magnitude of acc; this and the other lists have one entry, or one for each channel (axis 1).
    Raises:
        CompileError: more than 62 bits are needed.
    """
    bound, m, s, addend = np.broadcast_arrays(*(np.array(values, np.int64) for values in (bounds, multipliers, rshifts, addends)))
    left, s = np.maximum(-s, 0), np.clip(s, 0, _MAX_SHIFT)
    multiplier, step = np.ldexp(m.astype(np.float64), left), np.ldexp(1.0, s)
    half = np.floor(step / 2) + e.result.zero * step
    total = (bound + np.abs(addend)) * np.abs(multiplier) + half
    if np.all(total < np.minimum(_EXACT, _INT32 * step)):
        return narrow(e, _affine(e, acc, multiplier / step, (addend * multiplier + half) / step))
    rows = zip(*(column.tolist() for column in (m, left, s, addend)), strict=True)
    return narrow(e, _clipped(e, acc, [_Channel(number << lift, shift, more) for number, lift, shift, more in rows]))


def _affine(e: Emission, acc: str, scale: np.ndarray, shift: np.ndarray) -> str:
    """In float64; a batch normalization multiplies and adds in one pass."""
    x = e.node("Cast", acc, to=DOUBLE)
    if len(e.shape) < 2:
        total = e.node("Add", e.node("Mul", x, e.constant(scale)), e.constant(shift))
    else:
        ones = np.ones(e.shape[1])
        columns = [e.constant(values) for values in (scale * ones, shift * ones, 0 * ones, ones)]
        total = e.node("BatchNormalization", x, *columns, epsilon=0.0)
    return e.node("Cast", total, to=INT32)


@dataclass(frozen=True)
class _Channel:
    """Integers of one channel where float64 does not do."""

    multiplier: int
    rshift: int
    addend: int

    def half(self, zero: int) -> int:
        """Half of the step that is rounded to, and the zero point."""
        return (1 << self.rshift >> 1) + (zero << self.rshift)

    def limits(self, zero: int, high: int) -> tuple[int, int]:
        """Sums (addend included) beyond which the result is saturated."""
        if self.multiplier == 0:
            return 0, 0
        below, above = (-1 - zero) << self.rshift, (high + 1 - zero) << self.rshift
        if self.multiplier < 0:
            below, above = above, below
        return below // self.multiplier, -(-above // self.multiplier)


def _clipped(e: Emission, acc: str, channels: Sequence[_Channel]) -> str:
    """In int64; division cuts towards zero, which below zero is saturated anyway."""
    zero, high = e.result.zero, e.result.high
    limits = [c.limits(zero, high) for c in channels]
    fits = all(max(map(abs, ends)) * abs(c.multiplier) + c.half(zero) < _INT64 for c, ends in zip(channels, limits, strict=True))
    e.require(fits, f"with a right shift of {max(c.rshift for c in channels)}")
    rows = [(c.addend, *ends, c.multiplier, c.half(zero), 1 << c.rshift) for c, ends in zip(channels, limits, strict=True)]
    shape = (1, -1) + (1,) * (len(e.shape) - 2) if len(channels) > 1 else ()
    addend, low, top, multiplier, half, divisor = (e.constant(column.reshape(shape)) for column in np.array(rows, np.int64).T)
    total = e.node("Add", e.node("Cast", acc, to=INT64), addend)
    total = e.node("Mul", e.node("Max", e.node("Min", total, top), low), multiplier)
    return e.node("Cast", e.node("Div", e.node("Add", total, half), divisor), to=INT32)


def quantize(e: Emission, y: str) -> str:
    """sat(round_half_away(y) + zp_y) of a float32 tensor that is divided by the step already; clamping before rounding is the same."""
    low, high = (np.float32(limit - e.result.zero_point) for limit in e.result.dtype.limits)
    clamped = e.node("Clip", y, e.constant(low), e.constant(high))
    rounded = half_away(e, clamped, np.float32, never_negative=bool(low >= 0))
    return cut(e, e.node("Add", rounded, e.constant(np.int32(e.result.zero))) if e.result.zero else rounded)


def narrow(e: Emission, total: str) -> str:
    """Saturate int32 numbers to the held result, at the zero point where the op has relu."""
    low = e.result.zero if e.has_relu else 0
    clipped = e.node("Clip", total, e.constant(np.int32(low)), e.constant(np.int32(e.result.high)))
    return cut(e, clipped)


def cut(e: Emission, total: str) -> str:
    """int32 numbers inside the held limits, in held form; remembers the wide ones for look-ups."""
    if e.result.numpy == np.int32:
        return total
    held = e.node("Cast", total, to=UINT8)
    e.graph.wide[held] = total
    return held


def half_away(e: Emission, x: str, dtype: type[np.floating], never_negative: bool = False) -> str:
    """Round floats below 2^22 half away from zero, to int32: cut x + copysign(largest number below 0.5, x) towards zero."""
    below = np.nextafter(dtype(0.5), dtype(0))
    signed = e.constant(below)
    if not never_negative:
        signed = e.node("Clip", e.node("Mul", x, e.constant(dtype(2.0**100))), e.constant(-below), e.constant(below))
    return e.node("Cast", e.node("Add", x, signed), to=INT32)
