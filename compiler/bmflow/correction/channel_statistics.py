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
ROOM, ENOUGH = 0.7, 80_000
"""See `ChannelStatistics.with_room`."""


@dataclass
class ChannelStatistics:
    """Per channel, real units, shape (c): smallest and largest value, mean of the squares; and how many values were seen of each."""

    low: Reals
    high: Reals
    square: Reals
    seen: int

    @property
    def peak(self) -> Reals:
        """Largest magnitude of each channel."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def with_room(self) -> ChannelStatistics:
        """The same with upper ends as other samples may reach them.

        A channel that stands for something rare, such as one class of objects, hardly moves on a few samples and then reaches about as
        far as its neighbours. So the fewer values were seen, the nearer every upper end comes to the largest of all channels: to ROOM of
        it where a channel has ENOUGH values or fewer, to less in proportion above. Measured, not derived: on yolov5n, what clipping did
        to the logits of pictures that did not calibrate was halved; with this much room in early layers, of which many values are
        seen, yolox_nano lost more by coarser steps than it won.
        """
        floor = ROOM * min(1.0, ENOUGH / self.seen) * self.high.max()
        return replace(self, high=np.where(self.high > 0, np.maximum(self.high, floor), self.high))


def channel_statistics(module: Module, samples: Iterable[Mapping[str, np.ndarray]], threads: int = 2) -> dict[str, ChannelStatistics]:
    """Run a top module over samples and describe the channels of every layer of rank 4, by layer name.

    Args:
        samples: network inputs by name, float32. At least one.
    """
    names = [op.layer_name for op in module.layers() if len(shape_of(op.results[0])) == 4]
    executable = Executable(module, names, threads)
    found: dict[str, ChannelStatistics] = {}
    count = 0
    for sample in samples:
        count += 1
        for name, values in executable.run(sample).items():
            _merge(found, name, _of(values))
    assert count, "no sample to look at"
    for statistics in found.values():
        statistics.square /= count
    return found


def _of(values: np.ndarray) -> ChannelStatistics:
    axes = (0, 2, 3)
    square = np.asarray(np.mean(np.square(values, dtype=np.float32), axis=axes, dtype=np.float64))
    return ChannelStatistics(
        values.min(axes).astype(np.float64), values.max(axes).astype(np.float64), square, values.size // values.shape[1]
    )


def _merge(found: dict[str, ChannelStatistics], name: str, new: ChannelStatistics) -> None:
    known = found.get(name)
    if known is None:
        found[name] = new
        return
    known.low, known.high = np.minimum(known.low, new.low), np.maximum(known.high, new.high)
    known.square += new.square
    known.seen += new.seen
