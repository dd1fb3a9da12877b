"""What holds for any histogram and any values."""

from __future__ import annotations

import numpy as np
from bmflow.calibration import kl
from bmflow.calibration.histogram import Histogram
from bmflow.calibration.percentile import Extremes, extremes_to_keep
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

COUNTS = arrays(np.int64, st.sampled_from([128, 256, 640]), elements=st.integers(0, 1000)).filter(lambda h: h.sum() > 0)
FLOATS = st.floats(-1e3, 1e3, width=32)


def sequential_losses(counts: np.ndarray, levels: int) -> np.ndarray:
    """The published sum, term by term in double; group masses by explicit slices."""
    losses = []
    for b in range(1, counts.size // levels + 1):
        kept = counts[: b * levels].astype(float)
        p = kept.copy()
        p[-1] += counts[b * levels :].sum()
        p /= counts.sum()
        q = np.zeros(kept.size)
        for g in range(levels):
            inside = kept[g * b : (g + 1) * b]
            q[g * b : (g + 1) * b] = np.where(inside > 0, inside.sum() / max(1, np.count_nonzero(inside)) / max(kept.sum(), 1), 0)
        losses.append(float(np.sum(p * (np.log10(p + 1e-30) - np.log10(q + 1e-30)))))
    return np.array(losses)


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.sampled_from([8, 128]))
def test_divergences_are_the_published_sums(counts: np.ndarray, levels: int) -> None:
    expected = sequential_losses(counts, levels)
    np.testing.assert_allclose(kl.divergences(counts, levels), expected, atol=3e-6)
    chosen = int(kl.threshold(counts, 1.0, levels) / levels) - 1
    assert expected[chosen] <= expected.min() + 3e-5


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.integers(1, 50))
def test_the_kl_threshold_scales_with_the_bin_width(counts: np.ndarray, width: int) -> None:
    assert kl.threshold(counts, float(width)) == width * kl.threshold(counts, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(arrays(np.float32, st.integers(1, 50), elements=FLOATS), min_size=1, max_size=6))
def test_a_histogram_never_loses_what_lies_within_its_range(samples: list[np.ndarray]) -> None:
    histogram, largest, counted = Histogram(), 0.0, 0
    for sample in samples:
        largest = max(largest, float(np.abs(sample).max()))
        before = histogram.counts.sum()
        histogram.add(sample, largest)
        if histogram.counts.sum() < before or not before:
            counted = 0  # begun anew
        counted += np.count_nonzero(sample) if largest >= 1e-8 else 0
    assert histogram.counts.sum() == counted


@settings(max_examples=60, deadline=None)
@given(st.lists(arrays(np.float32, 40, elements=FLOATS), min_size=1, max_size=5), st.sampled_from([50.0, 90.0, 99.0, 99.999]))
def test_extremes_are_those_of_all_values(samples: list[np.ndarray], percent: float) -> None:
    together = np.sort(np.concatenate(samples))
    keep = extremes_to_keep(percent, together.size)
    extremes = Extremes.of(keep)
    for sample in samples:
        extremes.add(sample)
    np.testing.assert_array_equal(extremes.largest, together[-keep:])
    np.testing.assert_array_equal(extremes.smallest, together[:keep])
    rounding = np.spacing(np.abs(together).max())  # at 50 % both are one number, interpolated from either side
    assert together[0] <= extremes.low(percent) <= extremes.high(percent) + rounding
    assert extremes.high(percent) <= together[-1]
