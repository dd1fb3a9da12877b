"""Turn `y = sat(round_half_away(sum * scale + offset))`, defined in 64-bit floats, into integer requantization, exactly.

The sum is a small integer, so a candidate is accepted only when it gives the defined result for every possible sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil, floor, frexp

import numpy as np

from bmflow.numerics.rounding import Rounding, round_real, rshift_round

MULTIPLIER_BITS = 31


@dataclass(frozen=True)
class Requant:
    """rshift_round((sum + add) * multiplier, rshift, rounding) + zero_point, saturated."""

    add: int
    multiplier: int
    rshift: int
    zero_point: int
    rounding: Rounding

    def apply(self, sums: np.ndarray, limits: tuple[int, int]) -> np.ndarray:
        """The result for each sum."""
        shifted = rshift_round((sums + self.add) * self.multiplier, self.rshift, self.rounding)
        return np.clip(shifted + self.zero_point, *limits)


@dataclass(frozen=True)
class ExactRequant:
    """`positive` alone, or max(positive, 0) + min(negative, 0) when ties must leave zero on both sides."""

    positive: Requant
    negative: Requant | None = None

    def apply(self, sums: np.ndarray, limits: tuple[int, int]) -> np.ndarray:
        """The result for each sum."""
        upper = self.positive.apply(sums, limits)
        return upper if self.negative is None else np.maximum(upper, 0) + np.minimum(self.negative.apply(sums, limits), 0)


def find_exact(scale: float, offset: float, zero_point: int, sums: tuple[int, int], limits: tuple[int, int]) -> ExactRequant | None:
    """Find an integer form of `sat(round_half_away(sum * scale + offset))` for all sums from sums[0] to sums[1].

    Args:
        scale: positive.
        zero_point: the part of `offset` added after the shift; the rest becomes an integer added to the sum.

    Returns:
        a form that agrees on every sum, or None.
    """
    every = np.arange(sums[0], sums[1] + 1, dtype=np.int64)
    wanted = np.clip(round_real(every * scale + offset, Rounding.HALF_AWAY), *limits).astype(np.int64)
    rshift = MULTIPLIER_BITS - frexp(scale)[1]
    exact = scale * 2.0**rshift
    add = round((offset - zero_point) / scale)
    multipliers = sorted({floor(exact), min(ceil(exact), (1 << MULTIPLIER_BITS) - 1)})

    def requant(multiplier: int, rounding: Rounding) -> Requant:
        return Requant(add, multiplier, rshift, zero_point, rounding)

    modes = (Rounding.HALF_UP, Rounding.HALF_DOWN, Rounding.HALF_AWAY)
    single = [ExactRequant(requant(m, mode)) for mode, m in product(modes, multipliers)]
    double = [ExactRequant(requant(p, Rounding.HALF_UP), requant(q, Rounding.HALF_DOWN)) for p, q in product(multipliers, multipliers)]
    return next((form for form in single + double if np.array_equal(form.apply(every, limits), wanted)), None)
