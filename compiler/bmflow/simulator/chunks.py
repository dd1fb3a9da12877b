"""Work on large operands in parts that stay in the processor's cache, with scratch arrays made once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import DTypeLike

from bmflow.simulator.instruction import Run
from bmflow.simulator.memory import Machine

CHUNK = 1 << 14
"""Elements of one part: eight bytes each fill half of a usual second-level cache's share."""


def split(parts: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, ...]]:
    """Cut arrays (n, rows, lanes, h, w) along lanes, and a single lane along h.

    The first array sets the size; the others have the same sizes or 1 along each axis.
    """
    n, rows, lanes, h, w = parts[0].shape
    step = max(1, CHUNK // max(n * rows * h * w, 1))
    high = max(1, CHUNK // max(n * rows * w, 1)) if step == 1 else h
    for first in range(0, lanes, step):
        for top in range(0, h, high):
            yield tuple(_cut(_cut(part, 2, first, step), 3, top, high) for part in parts)


def _cut(array: np.ndarray, axis: int, first: int, count: int) -> np.ndarray:
    """Part of an array along an axis; an axis of size 1 stands for all."""
    if array.shape[axis] == 1 or (first == 0 and count >= array.shape[axis]):
        return array
    return array[(slice(None),) * axis + (slice(first, first + count),)]


def buffer(machine: Machine, name: str, like: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """A scratch array of the shape of a chunk."""
    return machine.scratch(name, like.shape, dtype)


def run_all(steps: Sequence[Run]) -> None:
    """Run one after the other."""
    for step in steps:
        step()
