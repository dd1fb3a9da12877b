"""What matrix products read over a set of samples: how far every channel reaches, and some tokens, gathered in one streaming sweep."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bmflow.ir.module import Module
from bmflow.kernels import Executable

Reals = NDArray[np.float64]
ROWS = 192
"""Tokens kept of each half of a value, evenly likely over all samples, however many there are."""


@dataclass
class Rows:
    """The last axis of one value: smallest and largest value per channel (k), and at most ROWS tokens (rows, k)."""

    low: Reals
    high: Reals
    kept: NDArray[np.float32]
    seen: int = 0
    generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    @classmethod
    def empty(cls, channels: int) -> Rows:
        """Of no sample yet."""
        return cls(np.full(channels, np.inf), np.full(channels, -np.inf), np.empty((0, channels), np.float32))

    @property
    def peak(self) -> Reals:
        """Largest magnitude of each channel."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def add(self, values: np.ndarray) -> None:
        """Take one sample (..., k) into account. Source of the choice: Vitter 1985, "Random sampling with a reservoir", algorithm R."""
        rows = values.reshape(-1, values.shape[-1])
        self.low, self.high = np.minimum(self.low, rows.min(0)), np.maximum(self.high, rows.max(0))
        free = ROWS - len(self.kept)
        self.kept = np.concatenate([self.kept, rows[:free]])
        later = rows[free:] if free else rows
        first = self.seen + len(rows) - len(later)
        places = self.generator.integers(0, first + 1 + np.arange(len(later)))
        for place, row in zip(places, later, strict=True):
            if place < ROWS:
                self.kept[place] = row
        self.seen += len(rows)


Halves = tuple[Rows, Rows]
"""Of every second sample, from the first and from the second on: what one half says can be tried on the other."""


def product_rows(
    module: Module, names: Collection[str], samples: Iterable[Mapping[str, np.ndarray]], threads: int = 2
) -> dict[str, Halves]:
    """Run a top module over samples and describe the last axis of the named layers; memory does not depend on the number of samples.

    Args:
        samples: network inputs by name, float32. At least one; of a single one both halves are the same.
    """
    executable = Executable(module, names, threads)
    halves: tuple[dict[str, Rows], dict[str, Rows]] = ({}, {})
    count = -1
    for count, sample in enumerate(samples):
        for name, values in executable.run(sample).items():
            halves[count % 2].setdefault(name, Rows.empty(values.shape[-1])).add(values)
    assert count >= 0, "no sample to look at"
    return {name: (rows, halves[1].get(name, rows)) for name, rows in halves[0].items()}
