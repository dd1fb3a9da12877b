"""How figures are written."""

from __future__ import annotations

from math import log10

MOST_DECIBELS = 200.0
"""What a noise of 0 counts as."""


def to_decibels(noise: float) -> float:
    """SQNR of a noise (error over signal)."""
    return -10 * log10(noise) if noise > 10 ** (-MOST_DECIBELS / 10) else MOST_DECIBELS


def decibels(noise: float | None) -> str:
    """`31.2 dB`; `exact` without noise, a dash when it was not measured."""
    if noise is None:
        return "–"
    value = to_decibels(noise)
    return "exact" if value >= MOST_DECIBELS else f"{value:.1f} dB"


def percent(share: float) -> str:
    """`3.1 %` of a share 0..1; small ones keep two digits."""
    if share <= 0:
        return "0 %"
    if share < 1e-4:
        return "<0.01 %"
    return f"{100 * share:.2f} %" if share < 0.01 else f"{100 * share:.1f} %".replace(".0 %", " %")


def times(factor: float) -> str:
    """`12 x` of a ratio."""
    return f"{factor:.1f} x" if factor < 10 else f"{factor:.3g} x" if factor < 1000 else f"{factor:.0f} x"
