"""Scores against their formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
from bmflow.search.scores import Reference, Score, Sums, channel_axis, score

SHAPES = {(1, 3, 20, 20, 7): 4, (2, 6, 9, 9): 1, (1, 300, 5): 2, (2, 5, 300): 1, (1, 1000): None, (12,): None}


def _channels(array: np.ndarray, axis: int | None) -> np.ndarray:
    return array.reshape(1, -1) if axis is None else np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cosine_and_noise_are_means_over_channels(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    assert channel_axis(shape) == SHAPES[shape]
    pairs = []
    for _ in range(2):
        y = (rng.normal(size=shape) + 3).astype(np.float32)
        pairs.append((y, (y + 0.1 * rng.normal(size=shape)).astype(np.float32)))
    found = score([{"y": Sums.of(Reference.of(y), q)} for y, q in pairs], {"y": 1.0})
    y, q = (np.concatenate([_channels(pair[k].astype(np.float64), SHAPES[shape]) for pair in pairs], axis=1) for k in (0, 1))
    cosines = (y * q).sum(1) / np.sqrt((y * y).sum(1) * (q * q).sum(1))
    noises = ((y - q) ** 2).sum(1) / ((y - y.mean(1, keepdims=True)) ** 2).sum(1)
    assert found.cosine == pytest.approx(cosines.mean(), abs=1e-7)
    assert found.noise == pytest.approx(noises.mean(), rel=1e-4)
    assert found.sqnr == pytest.approx(-10 * np.log10(noises.mean()), abs=1e-3)


def test_the_compatible_scale_takes_whole_tensors_and_samples_one_by_one(rng: np.random.Generator) -> None:
    y, z = (rng.normal(size=(1, 4, 6, 6)).astype(np.float32) for _ in range(2))
    sample = {"a": Sums.of(Reference.of(y), z), "b": Sums.of(Reference.of(y), y)}
    cosine = float(np.vdot(y, z) / (np.linalg.norm(y) * np.linalg.norm(z)))
    found = score([sample], {"a": 0.3, "b": 0.7})
    assert found.compatible == pytest.approx(0.5 + 0.5 * (0.3 * cosine + 0.7), abs=1e-6)
    assert found.snr_loss == 0
    turned = score([{"b": sample["b"], "a": sample["a"]}], {"b": 0.7, "a": 0.3})
    assert turned.snr_loss == pytest.approx(float(((z - y) ** 2).sum() / ((y**2).sum() + 1e-7)), rel=1e-5)


def test_small_channels_count_as_much_as_large_ones() -> None:
    y = np.stack([np.linspace(0, 640, 100), np.linspace(0, 1, 100)], axis=1)[None].astype(np.float32)
    q = y.copy()
    q[..., 1] = 0.5
    found = score([{"y": Sums.of(Reference.of(y), q)}], {"y": 1.0})
    assert found.compatible > 0.99999, "a cosine of the whole does not see it"
    assert found.noise == pytest.approx(0.5)


def test_zeros_and_what_is_not_finite_are_handled() -> None:
    zeros, ones = np.zeros((1, 2, 4, 4), np.float32), np.ones((1, 2, 4, 4), np.float32)
    assert score([{"y": Sums.of(Reference.of(zeros), zeros)}], {"y": 1.0}).cosine == 1
    assert score([{"y": Sums.of(Reference.of(zeros), ones)}], {"y": 1.0}).cosine == 0
    broken = ones.copy()
    broken[0, 0] = np.nan
    assert score([{"y": Sums.of(Reference.of(ones), broken)}], {"y": 1.0}).cosine == pytest.approx(0.5)


def test_every_printed_figure_says_its_scale() -> None:
    assert str(Score(0.5, 0.01, 0.75, 0.1)) == "plain cosine 0.500000, SQNR 20.00 dB (means over output channels)"
