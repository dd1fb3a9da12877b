"""Threshold methods against the published test vectors and the slow reference."""

from __future__ import annotations

import numpy as np
import pytest
from bmflow.calibration import aciq, kl, octav
from bmflow.calibration.histogram import MOST_BINS, Histogram, count
from bmflow.calibration.percentile import Extremes, extremes_to_keep, percentage
from calibration_reference import kl_losses, merged_histogram, percentile
from calibration_reference import octav as slow_octav

I = np.arange(2048)  # noqa: E741, the bin index of the published formulas
HISTOGRAMS = {
    "A": ((1e6 * np.exp(-I / 100)).astype(int), 0, 9, 76),
    "B": ((1e6 * np.exp(-I / 20)).astype(int), 0, 2, 14),
    "C": ((1e4 * np.exp(-(((I - 400) / 150) ** 2))).astype(int), 3, 7, 89),
    "D": (np.where((I % 7 == 0) & (I < 700), 1000, 0), 2, 16, 256),
    "E": (np.where((I % 3 == 0) & (I < 600), 1000, 0), 1, 16, 256),
}


@pytest.mark.parametrize("case", HISTOGRAMS)
def test_kl_of_published_histograms(case: str) -> None:
    counts, last, b8, b4 = HISTOGRAMS[case]
    counts = counts.copy()
    counts[2047] = last or counts[2047]
    assert kl.threshold(counts, 1.0) == 128 * b8
    assert kl.threshold(counts, 1.0, levels=8) == 8 * b4


def test_first_kl_values_of_published_histogram_a() -> None:
    published = [4.208e-01, 1.212e-01, 3.394e-02, 9.460e-03, 2.658e-03, 7.842e-04]
    np.testing.assert_allclose(kl.divergences(HISTOGRAMS["A"][0])[:6], published, rtol=2e-4)


def normal_samples() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(0)
    return random.randn(100000).astype(np.float32), (1.5 * random.randn(100000)).astype(np.float32)


def histogram(*samples: np.ndarray) -> Histogram:
    result, largest = Histogram(), 0.0
    for sample in samples:
        largest = max(largest, float(np.abs(sample).max()))
        result.add(sample, largest)
    return result


def published(value: float) -> object:
    return pytest.approx(value, rel=2e-7)


def test_published_normal_sample() -> None:
    x, _ = normal_samples()
    low, high = float(x.min()), float(x.max())
    assert (low, high) == (published(-4.8521175), published(4.2417717))
    found = histogram(x)
    assert found.width == published(0.0023703554)
    assert kl.threshold(found.counts, found.width) == published(4.8544879)
    assert kl.threshold(found.counts, found.width, levels=8) == published(3.6977544)
    assert octav.threshold(x, low) == published(4.0368295)
    assert aciq.gauss(low, high, x.size) == published(4.017314)
    assert aciq.laplace(x) == published(7.8650494)


def test_published_second_sample_grows_the_histogram_and_the_means() -> None:
    x, y = normal_samples()
    found = histogram(x, y)
    assert found.counts.size == 2973
    assert found.width == published(0.0023699952)
    assert kl.threshold(found.counts, found.width) == published(7.2806253)
    assert np.mean([octav.threshold(v, float(v.min())) for v in (x, y)]) == published(4.9016724)
    assert np.mean([aciq.gauss(float(v.min()), float(v.max()), v.size) for v in (x, y)]) == published(4.9840555)


def test_published_clamped_sample_is_unsigned() -> None:
    x = np.maximum(normal_samples()[0], 0)
    found = histogram(x)
    assert found.width == published(0.0020721895)
    assert kl.threshold(found.counts, found.width) == published(4.243844)
    assert octav.threshold(x, 0.0) == published(3.883849)
    assert aciq.gauss(0.0, float(x.max()), x.size) == published(1.873844)
    assert aciq.laplace(x) == published(4.555973)


def test_published_laplacian_sample() -> None:
    x = np.random.RandomState(1).laplace(size=100000).astype(np.float32)
    found = histogram(x)
    assert kl.threshold(found.counts, found.width) == published(10.853936)
    assert kl.threshold(found.counts, found.width, levels=8) == published(6.2749319)
    assert octav.threshold(x, float(x.min())) == published(9.581808)
    assert aciq.gauss(float(x.min()), float(x.max()), x.size) == published(9.5562105)
    assert aciq.laplace(x) == published(9.941371)


@pytest.mark.parametrize("bins", [128, 2048, 40000])
def test_a_histogram_follows_the_merging_rule(rng: np.random.Generator, bins: int) -> None:
    scales = (0.0, 1.0, 0.5, 3.0, 3.01, 0.0, 8.0)
    samples = [(rng.normal(size=(2, 300)) * scale).astype(np.float32) for scale in scales]
    samples[2][0, :50] = 0  # zeros among other values
    found, (counts, width) = _grown(samples, bins), merged_histogram(samples, bins)
    np.testing.assert_array_equal(found.counts, counts)
    assert found.width == width


def _grown(samples: list[np.ndarray], bins: int) -> Histogram:
    result, largest = Histogram(bins), 0.0
    for sample in samples:
        largest = max(largest, float(np.abs(sample).max()))
        result.add(sample, largest)
    return result


def test_counts_do_not_depend_on_blocks(rng: np.random.Generator) -> None:
    values = rng.normal(size=700_001).astype(np.float32)
    width = float(np.abs(values).max()) / 2047
    index = np.floor(np.abs(values) / np.float32(width) + np.float32(0.5)).astype(int)
    np.testing.assert_array_equal(count(values, width, 2048), np.bincount(index, minlength=2048)[:2048])


def test_a_sample_far_beyond_the_old_ones_begins_anew() -> None:
    found = Histogram()
    found.add(np.float32([1e-6, 5e-7]), 1e-6)
    found.add(np.float32([100.0, 50.0]), 100.0)
    assert MOST_BINS < 2048 * 100 / 1e-6
    assert found.counts.size == 2048
    assert found.extent == 100.0
    assert found.counts.sum() == 2


def test_a_histogram_of_nothing_but_zeros_never_starts() -> None:
    found = Histogram()
    found.add(np.zeros(10, np.float32), 0.0)
    found.add(np.full(10, 1e-9, np.float32), 1e-9)
    assert found.extent == 0


def test_long_histograms_are_halved_until_they_fit(rng: np.random.Generator) -> None:
    long = rng.integers(0, 50, 300_000)
    padded = np.append(long, np.zeros(-long.size % 128, int))
    half = padded[0::2] + padded[1::2]
    half = np.append(half, np.zeros(-half.size % 128, int))
    quarter = half[0::2] + half[1::2]
    assert kl.threshold(long, 1.0) == kl.threshold(quarter, 4.0)


@pytest.mark.parametrize("levels", [8, 128])
def test_divergences_match_sums_term_by_term(rng: np.random.Generator, levels: int) -> None:
    counts = (2000 * np.abs(rng.normal(size=640)) * np.exp(-np.arange(640) / 90)).astype(int) * (rng.random(640) < 0.7)
    slow = kl_losses(counts, levels)
    np.testing.assert_allclose(kl.divergences(np.append(counts, np.zeros(-640 % levels, int)), levels), slow, atol=2e-6)
    assert kl.threshold(counts, 1.0, levels) == (int(np.argmin(slow)) + 1) * levels


def test_octav_matches_the_plain_iteration(rng: np.random.Generator) -> None:
    for values in (rng.normal(size=5000), rng.exponential(size=5000), rng.normal(size=3) * 1e-3, rng.integers(-3, 4, 500)):
        x = values.astype(np.float32)
        assert octav.threshold(x, float(x.min())) == pytest.approx(slow_octav(x), rel=1e-6)


def test_octav_of_zeros_is_one() -> None:
    assert octav.threshold(np.zeros(10, np.float32), 0.0) == 1.0


def test_the_percentage_rises_from_the_first_tensor_to_the_last() -> None:
    assert percentage(0, 10) == 99.99
    assert percentage(5, 10) == pytest.approx((99.99 + 99.999999) / 2)


@pytest.mark.parametrize("percent", [99.99, 99.9, 90.0])
def test_extremes_give_the_percentile_of_all_samples_together(rng: np.random.Generator, percent: float) -> None:
    samples = [rng.normal(size=3000).astype(np.float32) * scale for scale in (1, 3, 0.1, 2)]
    extremes = Extremes.of(extremes_to_keep(percent, 4 * 3000))
    for sample in samples:
        extremes.add(sample)
    low, high = percentile(np.concatenate(samples), percent)
    assert extremes.low(percent) == pytest.approx(low, rel=1e-6)
    assert extremes.high(percent) == pytest.approx(high, rel=1e-6)


def test_extremes_keep_as_few_values_as_asked(rng: np.random.Generator) -> None:
    extremes = Extremes.of(7)
    for _ in range(20):
        extremes.add(rng.normal(size=500).astype(np.float32))
    assert extremes.largest.size == extremes.smallest.size == 7


def test_fewer_samples_than_planned_still_give_their_percentile(rng: np.random.Generator) -> None:
    sample = rng.normal(size=5000).astype(np.float32)
    extremes = Extremes.of(extremes_to_keep(99.0, 10 * 5000))
    extremes.add(sample)
    assert extremes.high(99.0) == pytest.approx(percentile(sample, 99.0)[1], rel=1e-6)
