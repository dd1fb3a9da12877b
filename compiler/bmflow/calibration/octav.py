"""The mse threshold (OCTAV): the fixed point where clipping and rounding of one sample cost least squared error together."""

from __future__ import annotations

import cv2
import numpy as np

from bmflow.calibration.histogram import SMALLEST

ROUNDS, ENOUGH = 20, 1e-6
_BINS = 4096
_BLOCK = 1 << 18


def threshold(values: np.ndarray, low: float, bits: int = 8) -> float:
    """Threshold of one float32 sample whose smallest value is `low`; 1 when all values are (nearly) zero.

    s' = sum(|x| : |x| > s) / (4**-bits / 3 / u * count(|x| <= s) + count(|x| > s)), u = 4 for unsigned tensors, else 1.
    """
    magnitudes = np.abs(values.reshape(-1))
    if float(magnitudes.max(initial=0.0)) < SMALLEST:
        return 1.0
    tail = _Tail(magnitudes)
    step = 4.0**-bits / 3 / (4 if abs(low) < 1e-6 else 1)
    s = tail.total / tail.nonzero
    for _ in range(ROUNDS):
        above, count = tail(s)
        following = above / (step * (tail.size - count) + count)
        if abs(following - s) < ENOUGH:
            break
        s = following
    return s


class _Tail:
    """Sum and number of the magnitudes above a bound, asked many times of the same values.

    Values are counted and summed by bin once; a question then looks at the values of one bin only.
    """

    def __init__(self, magnitudes: np.ndarray):
        self.size = magnitudes.size
        self._values = magnitudes
        self._per_value = np.float32((_BINS - 1) / float(magnitudes.max()))
        self._bin = np.empty(magnitudes.size, np.uint16)
        counts, sums = np.zeros(_BINS, np.int64), np.zeros(_BINS)
        for start in range(0, self.size, _BLOCK):
            block, index = magnitudes[start : start + _BLOCK], self._bin[start : start + _BLOCK]
            np.multiply(block, self._per_value, out=index, casting="unsafe")
            counts += cv2.calcHist([index.reshape(1, -1)], [0], None, [_BINS], [0, _BINS]).reshape(-1).astype(np.int64)
            sums += np.bincount(index, block, _BINS)
        self._counts, self._sums = (np.append(np.cumsum(part[::-1])[::-1], 0) for part in (counts, sums))
        self.total = float(self._sums[0])
        self.nonzero = int(np.count_nonzero(magnitudes != 0))
        self._inside: dict[int, np.ndarray] = {}

    def __call__(self, bound: float | np.float32) -> tuple[float, int]:
        """(sum, count) of the magnitudes above `bound`."""
        bound = np.float32(bound)
        index = int(bound * self._per_value)
        if index >= _BINS:
            return 0.0, 0
        if index not in self._inside:
            self._inside[index] = self._values[self._bin == index]
        inside = self._inside[index]
        inside = inside[inside > bound]
        return float(self._sums[index + 1]) + float(inside.sum(dtype=np.float64)), int(self._counts[index + 1]) + inside.size
