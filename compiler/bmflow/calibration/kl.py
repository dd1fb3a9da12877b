"""The KL threshold: the clipping whose 8-bit version of the distribution of |x| loses least information.

Candidates keep the first b * levels bins, b = 1, 2, ...; P is what is kept with the outliers folded into the last bin, Q the kept bins
(without the outliers) merged into `levels` groups of b bins, each group's mass spread evenly over its bins that are not empty.
"""

from __future__ import annotations

import numpy as np

LEVELS = 128
"""Groups for 8 bits; 8 for 4 bits."""
MOST_BINS = 131_072
_TINY = 1e-30
_TIE = 1e-5  # beyond what float32 accumulation can lose on values of this size


def threshold(counts: np.ndarray, width: float, levels: int = LEVELS) -> float:
    """Threshold in units of the values: width * levels * b for the b of least divergence, the first on a tie.

    Args:
        counts: (n) histogram of |x|; `width` its bin width.
    """
    counts, width = _shorten(np.asarray(counts, np.int64), width, levels)
    losses = divergences(counts, levels)
    return float(np.float32(width) * np.float32((_first_least(counts, losses, levels) + 1) * levels))


def divergences(counts: np.ndarray, levels: int = LEVELS) -> np.ndarray:
    """KL(P || Q), base-10 logarithms, of every candidate: (n / levels) float64; n must be a multiple of `levels`.

    Sums over groups come from running sums, so that the cost is linear in n.
    """
    total, mass, filled, probability, information = (np.concatenate(([0], np.cumsum(part))) for part in _parts(counts))
    losses = np.empty(counts.size // levels)
    for b in range(1, losses.size + 1):
        edges = np.arange(0, b * levels + 1, b)
        spread = _spread(np.diff(mass[edges]), np.diff(filled[edges]), mass[b * levels])
        last = b * levels - 1
        outliers = float(np.float32((mass[-1] - mass[last]) / total[-1]))
        inside = np.diff(probability[edges])
        inside[-1] -= probability[last + 1] - probability[last]
        losses[b - 1] = information[last] - np.dot(inside, np.log10(spread + _TINY))
        losses[b - 1] += outliers * (np.log10(outliers + _TINY) - np.log10((spread[-1] if counts[last] else 0.0) + _TINY))
    return losses


def _parts(counts: np.ndarray) -> tuple[np.ndarray, ...]:
    p = (counts / counts.sum()).astype(np.float32).astype(np.float64)
    return counts, counts, counts > 0, p, p * np.log10(p + _TINY)


def _spread(mass: np.ndarray, filled: np.ndarray, kept: int) -> np.ndarray:
    """Q of each group, as float32 holds it."""
    return (mass / np.maximum(filled, 1) / max(kept, 1)).astype(np.float32).astype(np.float64)


def _first_least(counts: np.ndarray, losses: np.ndarray, levels: int) -> int:
    """Index of the least loss; candidates too close to call are compared as a sequential float32 sum sees them."""
    close = np.flatnonzero(losses <= losses.min() + _TIE)
    if close.size == 1:
        return int(close[0])
    return int(close[np.argmin([_sequential(counts, int(b) + 1, levels) for b in close])])


def _sequential(counts: np.ndarray, b: int, levels: int) -> np.float32:
    kept = counts[: b * levels]
    p = kept.astype(np.float32)
    p[-1] += np.float32(counts[b * levels :].sum())
    p = (p / np.float32(counts.sum())).astype(np.float64)
    groups = kept.reshape(levels, b)
    q = np.repeat(_spread(groups.sum(1), (groups > 0).sum(1), kept.sum()), b) * (kept > 0)
    terms = p * (np.log10(p + _TINY) - np.log10(q + _TINY))
    return np.add.accumulate(terms.astype(np.float32))[-1]


def _shorten(counts: np.ndarray, width: float, levels: int) -> tuple[np.ndarray, float]:
    counts = _padded(counts, levels)
    while counts.size > MOST_BINS:
        counts = _padded(counts, 2)
        counts, width = _padded(counts[0::2] + counts[1::2], levels), width * 2
    return counts, width


def _padded(counts: np.ndarray, multiple: int) -> np.ndarray:
    return np.pad(counts, (0, -counts.size % multiple))
