"""What every channel of every feature map does over a set of samples: range and mean square, gathered in one streaming sweep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bmflow.ir.module import Module
from bmflow.ir.types import shape_of
from bmflow.kernels import Executable

Reals = NDArray[np.float64]
RARE, WIDE = 0.1, 0.7
"""See `ChannelStatistics.with_room`."""


@dataclass
class ChannelStatistics:
    """Per channel, real units, shape (c): smallest and largest value, mean of the squares.

    `halves` (2, c) are the largest values in every second sample, from the first and from the second on; None of a single sample.
    """

    low: Reals
    high: Reals
    square: Reals
    halves: Reals | None = None

    @property
    def peak(self) -> Reals:
        """Largest magnitude of each channel."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def with_room(self) -> ChannelStatistics:
        """The same with upper ends as samples not seen may reach them.

        How far that is, the samples say of themselves: the upper ends of one half of them are compared with those of the other half,
        channel by channel. What they differ by in all but the RARE most different channels is the factor by which every upper end is
        raised, to at most WIDE of the widest channel's. Channels that stand for something rare, such as one class of objects, need it
        most: on yolov5n they reach two and a half times as far in pictures that did not calibrate. Our own addition; that errors on
        other pictures fall by it is measured in docs/accuracy.md.
        """
        if self.halves is None:
            return self
        less, more = self.halves.min(0), self.halves.max(0)
        ratios = (more / np.maximum(less, np.finfo(np.float32).tiny))[less > 0]
        if not len(ratios):
            return self
        raised = np.minimum(self.high * np.quantile(ratios, 1 - RARE), WIDE * self.high.max())
        return replace(self, high=np.where(self.high > 0, np.maximum(self.high, raised), self.high))


def channel_statistics(module: Module, samples: Iterable[Mapping[str, np.ndarray]], threads: int = 2) -> dict[str, ChannelStatistics]:
    """Run a top module over samples and describe the channels of every layer of rank 4, by layer name.

    Args:
        samples: network inputs by name, float32. At least one.
    """
    names = [op.layer_name for op in module.layers() if len(shape_of(op.results[0])) == 4]
    executable = Executable(module, names, threads)
    found: dict[str, ChannelStatistics] = {}
    halves: list[dict[str, Reals]] = [{}, {}]
    count = 0
    for count, sample in enumerate(samples, 1):
        for name, values in executable.run(sample).items():
            new = _of(values)
            _merge(found, name, new)
            half = halves[count % 2]
            half[name] = np.maximum(half[name], new.high) if name in half else new.high
    assert count, "no sample to look at"
    for statistics in found.values():
        statistics.square /= count
    for name in found if count > 1 else ():
        found[name].halves = np.stack([half[name] for half in halves])
    return found


def _of(values: np.ndarray) -> ChannelStatistics:
    axes = (0, 2, 3)
    square = np.asarray(np.mean(np.square(values, dtype=np.float32), axis=axes, dtype=np.float64))
    return ChannelStatistics(values.min(axes).astype(np.float64), values.max(axes).astype(np.float64), square)


def _merge(found: dict[str, ChannelStatistics], name: str, new: ChannelStatistics) -> None:
    known = found.get(name)
    if known is None:
        found[name] = new
        return
    known.low, known.high = np.minimum(known.low, new.low), np.maximum(known.high, new.high)
    known.square += new.square
