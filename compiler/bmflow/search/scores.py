"""How far the outputs of a candidate are from float. Every figure is of one of two scales, and its text says which:

* plain: cosine <y, q> / (|y| |q|), and SQNR, -10 log10 of the noise, where noise = |y - q|^2 / |y - mean y|^2. Both are computed for
  every channel of every output over all samples, then averaged over channels and over outputs. Whole outputs would hide what matters:
  beside box corners of hundreds of pixels, scores between 0 and 1 do not count. Nor does what all values of a channel have in common,
  which is why noise is set against their spread; the cosine is blind to it.
* of the compatible searches: 0.5 + 0.5 * cosine of whole tensors, weighted mean over the compared layers, mean over samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]
_BLOCK = 1024
LEAST_SPREAD = 1e-3


@dataclass(frozen=True)
class Score:
    """Figures of one candidate: plain cosine and noise, means over channels; `compatible` is on the scale 0.5 + 0.5 * cosine.

    `noise` is what our own searches minimize: noises of independent sources add up, cosines do not. `snr_loss` is |e|^2 / |y|^2 of
    the last output.
    """

    cosine: float
    noise: float
    compatible: float
    snr_loss: float

    @property
    def sqnr(self) -> float:
        """SQNR in dB, 200 for outputs without noise."""
        return -10 * float(np.log10(max(self.noise, 1e-20)))

    def __str__(self) -> str:
        return f"plain cosine {self.cosine:.6f}, SQNR {self.sqnr:.2f} dB (means over output channels)"


@dataclass(frozen=True)
class Reference:
    """A float output; per channel, float64 (channels), its |y|^2 and the sum of y; and the number of values of a channel."""

    values: NDArray[np.float32]
    square: Reals
    total: Reals
    count: int

    @classmethod
    def of(cls, values: np.ndarray) -> Reference:
        """Prepare an output."""
        array = np.ascontiguousarray(values, np.float32)
        square = dots(array, array)
        return cls(array, square, dots(array, np.ones_like(array)), array.size // len(square))


@dataclass(frozen=True)
class Sums:
    """Sums of one output on one or more samples per channel: |y|^2, sum of y, number of y, <y, e>, |e|^2, where e = q - y."""

    square: Reals
    total: Reals
    count: int
    along: Reals
    error: Reals

    @classmethod
    def of(cls, reference: Reference, found: np.ndarray) -> Sums:
        """`found` has the reference's shape; NaN and infinity count as 0."""
        error = np.asarray(found, np.float32) - reference.values
        if not np.isfinite(error).all():
            error = np.where(np.isfinite(error), error, -reference.values)
        return cls(reference.square, reference.total, reference.count, dots(reference.values, error), dots(error, error))

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.square + other.square, self.total + other.total, self.count + other.count,
            self.along + other.along, self.error + other.error,
        )  # fmt: skip

    def cosines(self) -> Reals:
        """Plain cosine of each channel; 1 where both are all zero, 0 where one is."""
        return _cosine(self.square, self.along, self.error)

    def noises(self) -> Reals:
        """|e|^2 / |y - mean y|^2 of each channel, at most 1; the spread counts as at least a thousandth of |y|^2."""
        spread = np.maximum(self.square - self.total**2 / self.count, LEAST_SPREAD * self.square)
        known = spread > 0
        return np.minimum(np.where(known, self.error / np.where(known, spread, 1), self.error > 0), 1)

    def whole_cosine(self) -> float:
        """Plain cosine of the whole tensor."""
        return float(_cosine(*(part.sum(keepdims=True) for part in (self.square, self.along, self.error)))[0])

    def snr_loss(self) -> float:
        """|e|^2 / (|y|^2 + 1e-7) of the whole tensor."""
        return float(self.error.sum() / (self.square.sum() + 1e-7))


def score(samples: Sequence[Mapping[str, Sums]], weights: Mapping[str, float]) -> Score:
    """Join the sums of all samples; `weights` of the compared layers sum to 1."""
    plain, noise = 0.0, 0.0
    for name, weight in weights.items():
        total = samples[0][name]
        for sample in samples[1:]:
            total += sample[name]
        plain += weight * float(total.cosines().mean())
        noise += weight * float(total.noises().mean())
    whole = [sum(weight * sample[name].whole_cosine() for name, weight in weights.items()) for sample in samples]
    last = list(weights)[-1]
    losses = [sample[last].snr_loss() for sample in samples]  # of the last compared layer alone, as the original counts it
    return Score(min(plain, 1.0), noise, 0.5 + 0.5 * float(np.mean(whole)), float(np.mean(losses)))


def _cosine(square: Reals, along: Reals, error: Reals) -> Reals:
    """<y, q> / (|y| |q|) from the sums, which is exact where q hardly differs from y."""
    other = np.maximum(square + 2 * along + error, 0)
    length = np.sqrt(square * other)
    return np.where(length > 0, (square + along) / np.where(length > 0, length, 1), (square == 0) & (other == 0)).clip(-1, 1)


def dots(a: NDArray[np.float32], b: NDArray[np.float32]) -> Reals:
    """Sum of products per channel, float64 (channels); products are added up in float32 block by block."""
    axis = channel_axis(a.shape)
    if axis is None:
        return sum((np.einsum("v,v->", x, y, dtype=np.float64) for x, y in _blocks(a.reshape(-1), b.reshape(-1))), np.zeros(1))
    channels = a.shape[axis]
    if axis == a.ndim - 1:
        rows = _blocks(a.reshape(-1, channels), b.reshape(-1, channels))
        return sum((np.einsum("vc,vc->c", x, y).astype(np.float64) for x, y in rows), np.zeros(channels))
    planes = zip(a.reshape(len(a), channels, -1), b.reshape(len(a), channels, -1), strict=True)
    parts = (np.einsum("vc,vc->c", x, y).astype(np.float64) for one, other in planes for x, y in _blocks(one.T, other.T))
    return sum(parts, np.zeros(channels))


def _blocks(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return ((a[start : start + _BLOCK], b[start : start + _BLOCK]) for start in range(0, len(a), _BLOCK))


def channel_axis(shape: Sequence[int]) -> int | None:
    """Axis along which numbers of one meaning differ in scale; None where the whole tensor is compared."""
    if len(shape) < 3:
        return None
    if len(shape) == 3:
        return 2 if shape[2] <= shape[1] else 1
    return 1 if len(shape) == 4 else len(shape) - 1
