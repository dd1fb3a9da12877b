"""Order of the work of one layer: while a tile is computed, the next one is loaded and the one before it is stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Step(ABC):
    """One tile. The three parts are emitted once each, `load` first."""

    @abstractmethod
    def load(self) -> None:
        """Emit what brings operands into local memory."""

    @abstractmethod
    def compute(self) -> None:
        """Emit the arithmetic."""

    @abstractmethod
    def store(self) -> None:
        """Emit what takes results to DDR; nothing for a step that only adds to a sum."""


def emit_pipelined(steps: Sequence[Step]) -> None:
    """Emit load k+1, store k-1, compute k for every k.

    The load of a tile may overwrite any buffer but those of the tile before it (two input buffers suffice).
    """
    if not steps:
        return
    steps[0].load()
    for k, step in enumerate(steps):
        if k + 1 < len(steps):
            steps[k + 1].load()
        if k:
            steps[k - 1].store()
        step.compute()
    steps[-1].store()
