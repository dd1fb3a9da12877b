"""A histogram of absolute values that grows as larger values come; zeros are left out.

Bins lie around multiples of `width`: value x counts in bin floor(|x| / width + 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

SMALLEST = 1e-8
"""A sample whose absolute values all lie below counts as all zero."""
MOST_BINS = 8_000_000
_BLOCK = 1 << 18  # elements whose working arrays stay in the cache of a core


@dataclass
class Histogram:
    """Counts over samples. `extent` is the value of the last bin; 0 until a sample with a value other than zero came."""

    bins: int = 2048
    extent: float = 0.0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def width(self) -> float:
        """Distance of bin centres, in units of the values."""
        return self.extent / (self.counts.size - 1)

    def add(self, values: np.ndarray, largest: float) -> None:
        """Count a float32 sample; `largest` is the largest absolute value of this and all samples before.

        A sample beyond the extent appends bins of (nearly) the old width and leaves old counts where they are; beyond MOST_BINS the
        old counts are dropped and counting begins anew.
        """
        if largest < SMALLEST:
            return
        grown = 0
        if self.extent == 0.0:
            self._restart(largest)
        elif largest > self.extent:
            step = self.extent / self.counts.size
            grown = int((largest - self.extent) // step + 1)
            self.extent += grown * step
        if self.counts.size + grown > MOST_BINS:
            self._restart(largest)
            grown = 0
        self.counts = np.pad(self.counts, (0, grown)) if grown else self.counts
        self.counts += count(values, self.width, self.counts.size)

    def _restart(self, largest: float) -> None:
        self.extent = largest
        self.counts = np.zeros(self.bins, np.int64)


def count(values: np.ndarray, width: float, bins: int) -> np.ndarray:
    """Histogram (bins) int64 of |values| without zeros. values: float32, none beyond the last bin but for rounding, which drops it."""
    flat = values.reshape(-1)
    total = np.zeros(bins, np.int64)
    scaled, index = np.empty(min(_BLOCK, flat.size), np.float32), np.empty(min(_BLOCK, flat.size), np.uint16)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        part = scaled[: block.size]
        np.abs(block, out=part)
        np.divide(part, np.float32(width), out=part)
        np.add(part, np.float32(0.5), out=part)
        total += _count_16(part, index[: block.size], bins) if bins < 1 << 15 else _count_any(part, bins)
        total[0] -= int(np.count_nonzero(block == 0))
    return total


def _count_16(positions: np.ndarray, index: np.ndarray, bins: int) -> np.ndarray:
    np.copyto(index, positions, casting="unsafe")
    # OpenCV counts uint16 three times faster than bincount; its float32 counts are exact, a block being far below 2**24
    return cv2.calcHist([index.reshape(1, -1)], [0], None, [bins], [0, bins]).reshape(-1).astype(np.int64)


def _count_any(positions: np.ndarray, bins: int) -> np.ndarray:
    return np.bincount(positions.astype(np.intp), minlength=bins)[:bins]
