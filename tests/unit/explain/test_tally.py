"""Figures of one layer against numpy written out."""

from __future__ import annotations

import numpy as np
import pytest
from bmflow.errors import InputError
from bmflow.explain.tally import BINS, Error, Histogram, Tally
from bmflow.ir.types import DType, Quantization


@pytest.mark.parametrize("quantization", [Quantization(DType.I8, 0.02), Quantization(DType.U8, 0.01), Quantization(DType.I8, 0.013, -40)])
def test_storing_counts_and_errors_follow_their_definition(rng: np.random.Generator, quantization: Quantization) -> None:
    values = rng.normal(size=(2, 5, 6, 7)).astype(np.float32)
    low, high = quantization.dtype.limits
    raw = np.rint(values.astype(np.float64) / quantization.scale) + quantization.zero_point
    stored = (np.clip(raw, low, high) - quantization.zero_point) * quantization.scale
    tally = Tally.of("t", values, quantization)
    assert tally.clipped == np.count_nonzero((raw < low) | (raw > high))
    assert tally.vanished_share == np.mean(stored == 0)
    error = (stored - values).transpose(1, 0, 2, 3).reshape(5, -1)
    signal = values.transpose(1, 0, 2, 3).reshape(5, -1).astype(np.float64)
    spread = ((signal - signal.mean(1, keepdims=True)) ** 2).sum(1)
    assert tally.noise(Error.STORED) == pytest.approx(np.mean(np.minimum((error**2).sum(1) / spread, 1)), rel=1e-4)


def test_samples_add_up(rng: np.random.Generator) -> None:
    quantization = Quantization(DType.I8, 0.02)
    values = rng.normal(size=(4, 3, 5, 5)).astype(np.float32) * np.array([1, 2, 30, 0.1], np.float32).reshape(4, 1, 1, 1)
    together, first, *others = (Tally.of("t", v, quantization, v + 0.01, v * 1.1) for v in (values, *np.split(values, 4)))
    total = sum(others, first)
    assert (total.count, total.clipped, total.vanished, total.zeros) == (
        together.count,
        together.clipped,
        together.vanished,
        together.zeros,
    )
    for kind in Error:
        assert total.noise(kind) == pytest.approx(together.noise(kind), rel=1e-5)
    assert np.array_equal(total.histogram.counts, together.histogram.counts)


def test_a_histogram_counts_as_numpy_does(rng: np.random.Generator) -> None:
    values = rng.normal(size=1000).astype(np.float32) * 3
    histogram = Histogram.of(values, float(np.abs(values).max()))
    reach = 2.0**histogram.exponent
    assert reach / 2 <= np.abs(values).max() < reach
    assert np.array_equal(histogram.counts, np.histogram(values, BINS, (-reach, reach))[0])


def test_histograms_of_any_width_add_up_without_loss(rng: np.random.Generator) -> None:
    parts = [rng.normal(size=500).astype(np.float32) * scale for scale in (0.01, 40, 1)]
    total = sum(
        (Histogram.of(part, float(np.abs(part).max())) for part in parts[1:]), Histogram.of(parts[0], float(np.abs(parts[0]).max()))
    )
    values = np.concatenate(parts)
    assert np.array_equal(total.counts, Histogram.of(values, float(np.abs(values).max())).counts)


def test_zeros_alone_make_no_trouble() -> None:
    tally = Tally.of("t", np.zeros((1, 2, 3, 3), np.float32), Quantization(DType.I8, 0.1)) + Tally.of(
        "t", np.ones((1, 2, 3, 3), np.float32), Quantization(DType.I8, 0.1)
    )
    assert tally.histogram.counts.sum() == 36
    assert tally.noise(Error.STORED) == pytest.approx(0, abs=1e-12)


def test_values_beyond_the_window_count_as_equal() -> None:
    values = np.array([-20, -9, -8, 0, 5], np.float32).reshape(1, 1, 1, 5)
    found = Tally.of("t", values, None, accumulated=np.array([-11, -50, -8, 1, 5], np.float32).reshape(1, 1, 1, 5), window=(-8.0, np.inf))
    assert found.errors[Error.ACCUMULATED] == pytest.approx([1.0])
    assert found.low == pytest.approx([-20])


def test_channels_that_never_change_have_no_noise() -> None:
    values = np.stack([np.full((1, 4, 4), 0.3), np.linspace(-1, 1, 16).reshape(1, 4, 4)], 1).astype(np.float32)
    tally = Tally.of("t", values, Quantization(DType.I8, 1 / 127))
    assert list(tally.constant) == [True, False]
    noises = tally.noises(Error.STORED)
    assert noises is not None
    assert noises[0] == 0 < noises[1]
    assert tally.spread == 1


def test_values_without_channels_count_as_one() -> None:
    assert Tally.of("t", np.ones((3, 4), np.float32), None).power == pytest.approx([12])


def test_nan_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="bad: holds NaN or infinity"):
        Tally.of("bad", np.array([[np.nan]], np.float32), None)
