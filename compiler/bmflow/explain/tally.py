"""What the float values of one layer do, and what 8 bits make of them, summed over samples; memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import frexp

import cv2
import numpy as np
from numpy.typing import NDArray

from bmflow.errors import InputError
from bmflow.ir.types import Quantization
from bmflow.search.scores import LEAST_SPREAD, channel_axis

Reals = NDArray[np.float64]
BINS = 256
EVERYTHING = (-np.inf, np.inf)
_BLOCK = 1 << 22  # OpenCV counts in float32, exact below 2**24
_SMALLEST_EXPONENT = -126


class Error(Enum):
    """Where a difference to the float values comes from."""

    STORED = "stored"
    """The layer's own float values rounded to its 8-bit grid and clipped to its range."""
    CLIPPED = "clipped"
    """The part of STORED that clipping makes."""
    ALONE = "alone"
    """The layer computed in INT8 from float values, all else in float."""
    ACCUMULATED = "accumulated"
    """The layer inside the 8-bit network."""


@dataclass(frozen=True)
class Histogram:
    """Counts (BINS) over -2**exponent .. 2**exponent, bins of equal width."""

    exponent: int
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, values: np.ndarray, largest: float) -> Histogram:
        """Count float32 values; `largest` is the largest magnitude among them."""
        exponent = max(frexp(largest)[1], _SMALLEST_EXPONENT)
        flat, reach = np.ascontiguousarray(values, np.float32).reshape(-1), 2.0**exponent
        counts = np.zeros(BINS, np.int64)
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK].reshape(1, -1)
            counts += cv2.calcHist([block], [0], None, [BINS], [-reach, reach]).reshape(-1).astype(np.int64)
        return cls(exponent, counts)

    def __add__(self, other: Histogram) -> Histogram:
        """Both together, as wide as the wider one."""
        exponent = max(self.exponent, other.exponent)
        return Histogram(exponent, self._widened(exponent) + other._widened(exponent))

    def _widened(self, exponent: int) -> NDArray[np.int64]:
        counts = self.counts
        for _ in range(exponent - self.exponent):
            counts = np.pad(counts.reshape(-1, 2).sum(1), BINS // 4)
        return counts

    @property
    def width(self) -> float:
        """Width of a bin, real units."""
        return 2.0 ** (self.exponent + 1) / BINS


@dataclass(frozen=True)
class Tally:
    """Sums of one layer; arrays are per channel.

    `clipped` values lie beyond the range, `vanished` ones are not 0 but become 0. `low`, `high` and `histogram` are of all values; all
    else is of what the readers can tell apart: `total`, the sum of values, `power`, of squares, `errors`, of squared differences.
    """

    count: int
    zeros: int
    clipped: int
    vanished: int
    low: Reals
    high: Reals
    total: Reals
    power: Reals
    errors: Mapping[Error, Reals]
    histogram: Histogram

    @classmethod
    def of(
        cls,
        name: str,
        values: np.ndarray,
        quantization: Quantization | None,
        alone: np.ndarray | None = None,
        accumulated: np.ndarray | None = None,
        window: tuple[float, float] = EVERYTHING,
        last: bool = False,
    ) -> Tally:
        """Of one sample.

        Args:
            values: the float network's, float32.
            quantization: how the layer is stored in 8 bits; None when it has no range.
            alone, accumulated: real values of the layer in INT8 by itself and in the 8-bit network, where there are such.
            window: values beyond it are all the same to the readers.
            last: channels lie along the last axis, as in tokens; else where `channel_axis` finds them.
        Raises:
            InputError: NaN or infinity, named by the layer.
        """
        y = by_channel(values, last)
        low, high = y.min(1).astype(np.float64), y.max(1).astype(np.float64)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise InputError(f"{name}: holds NaN or infinity; look for the first such layer with npz_tool check_nan_inf")
        histogram = Histogram.of(y, max(-float(low.min()), float(high.max())))
        y = _seen(y, window)
        clipped, vanished, errors = _stored(y, quantization, window) if quantization else (0, 0, {})
        for kind, found in ((Error.ALONE, alone), (Error.ACCUMULATED, accumulated)):
            if found is not None:
                errors[kind] = squares(_seen(by_channel(np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0), last), window) - y)
        zeros, total = int(y.size - np.count_nonzero(y)), y.sum(1, dtype=np.float64)
        return cls(y.size, zeros, clipped, vanished, low, high, total, squares(y), errors, histogram)

    def __add__(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            self.count + other.count, self.zeros + other.zeros, self.clipped + other.clipped, self.vanished + other.vanished,
            np.minimum(self.low, other.low), np.maximum(self.high, other.high), self.total + other.total, self.power + other.power,
            {kind: error + other.errors[kind] for kind, error in self.errors.items()}, self.histogram + other.histogram,
        )  # fmt: skip

    @property
    def peaks(self) -> Reals:
        """Largest magnitude of each channel."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Channels that never change."""
        return self.high - self.low <= 1e-6 * float(self.peaks.max())

    @property
    def spread(self) -> float:
        """Largest over smallest channel peak among channels that change; 1 when fewer than two do."""
        peaks = self.peaks[~self.constant]
        return float(peaks.max() / peaks.min()) if len(peaks) > 1 else 1.0

    @property
    def clipped_share(self) -> float:
        """Part of all values, 0..1."""
        return self.clipped / self.count

    @property
    def vanished_share(self) -> float:
        """Part of the values other than 0, 0..1."""
        return self.vanished / max(self.count - self.zeros, 1)

    def noises(self, kind: Error) -> Reals | None:
        """Noise per channel; None when it was not measured."""
        return self.ratios(self.errors[kind]) if kind in self.errors else None

    def ratios(self, errors: Reals) -> Reals:
        """Sums of squared errors over sum |y - mean y|^2 per channel, at most 1; 0 for a channel that never changes."""
        spread = np.maximum(self.power - self.total**2 * len(self.power) / self.count, LEAST_SPREAD * self.power)
        return np.where(self.constant, 0.0, np.minimum(errors / np.where(spread > 0, spread, 1), 1.0))

    def noise(self, kind: Error) -> float | None:
        """Mean of `noises`."""
        noises = self.noises(kind)
        return None if noises is None else float(noises.mean())


def by_channel(values: np.ndarray, last: bool = False) -> NDArray[np.float32]:
    """(channels, values) float32; one channel where the tensor has none."""
    values = np.asarray(values, np.float32)
    axis = values.ndim - 1 if last else channel_axis(values.shape)
    return values.reshape(1, -1) if axis is None else np.ascontiguousarray(np.moveaxis(values, axis, 0)).reshape(values.shape[axis], -1)


def squares(values: NDArray[np.float32]) -> Reals:
    """Sum of squares of each row."""
    return np.einsum("cv,cv->c", values, values, dtype=np.float64)


def _seen(y: NDArray[np.float32], window: tuple[float, float]) -> NDArray[np.float32]:
    return y if window == EVERYTHING else np.clip(y, np.float32(window[0]), np.float32(window[1]))


def _stored(y: NDArray[np.float32], quantization: Quantization, window: tuple[float, float]) -> tuple[int, int, dict[Error, Reals]]:
    """How many values are clipped, how many vanish, and the errors of storing the values as integers."""
    low, high = (limit - quantization.zero_point for limit in quantization.dtype.limits)
    steps = np.rint(y * np.float32(1 / quantization.scale))
    outside = (steps < low) | (steps > high)
    clipped = int(np.count_nonzero(outside))
    np.clip(steps, low, high, out=steps)
    vanished = int(np.count_nonzero((steps == 0) & (y != 0)))
    steps *= np.float32(quantization.scale)
    steps = _seen(steps, window) - y
    errors = {Error.STORED: squares(steps)}
    errors[Error.CLIPPED] = squares(steps * outside) if clipped else np.zeros(len(y))
    return clipped, vanished, errors
