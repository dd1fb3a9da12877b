"""The percentile threshold: a percentage of all values that rises through the network, found from the extreme values alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LOWEST, HIGHEST = 99.99, 99.999999


def percentage(index: int, tensors: int) -> float:
    """The percentage kept at tensor `index` of `tensors` in network order."""
    return LOWEST + index * (HIGHEST - LOWEST) / tensors


def extremes_to_keep(percent: float, values: int) -> int:
    """How many of `values` numbers decide a percentile on one side."""
    return int(values * (1 - percent / 100)) + 1


@dataclass
class Extremes:
    """The `keep` smallest and largest of all values seen, each list ascending. Memory does not depend on what is seen."""

    keep: int
    smallest: np.ndarray
    largest: np.ndarray
    seen: int = 0

    @classmethod
    def of(cls, keep: int) -> Extremes:
        """Start empty."""
        return cls(keep, np.zeros(0, np.float32), np.zeros(0, np.float32))

    def add(self, values: np.ndarray) -> None:
        """Take the values of one sample (float32)."""
        flat = values.reshape(-1)
        self.seen += flat.size
        self.largest = self._largest_of(flat, self.largest, 1)
        self.smallest = self._largest_of(flat, self.smallest, -1)

    def _largest_of(self, flat: np.ndarray, kept: np.ndarray, sign: int) -> np.ndarray:
        if kept.size == self.keep:  # only what passes the weakest value kept can change the list
            flat = flat[flat > kept[0]] if sign > 0 else flat[flat < kept[-1]]
        if not flat.size:
            return kept
        pool = np.concatenate((kept, flat))
        pool = np.sort(pool if pool.size <= self.keep else np.partition(pool, -self.keep if sign > 0 else self.keep - 1))
        return pool[-self.keep :] if sign > 0 else pool[: self.keep]

    def low(self, percent: float) -> float:
        """The value that `percent` of all values are not below."""
        return float(self._at(self.smallest[::-1], percent))

    def high(self, percent: float) -> float:
        """The value that `percent` of all values are not above."""
        return float(self._at(self.largest, percent))

    def _at(self, towards_extreme: np.ndarray, percent: float) -> np.ndarray:
        keep = extremes_to_keep(percent, self.seen)
        top = towards_extreme[-min(keep, towards_extreme.size) :]
        if keep == 1 or top.size == 1:
            return top[-1]
        position = percent / 100 * (self.seen - 1)
        return top[0] + (position - int(position)) * (top[1] - top[0])
