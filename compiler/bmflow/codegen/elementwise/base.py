"""What an emitter promises: which constants and buffers it needs beside the tile, and the commands that compute the tile."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bmflow.codegen.assembler import Assembler
from bmflow.codegen.operand import Local
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.ir.types import DType


@dataclass(frozen=True)
class Resident:
    """A row of constants that lies in every lane while the layer runs; `data` holds the stored bytes of `dtype`."""

    name: str
    data: np.ndarray
    dtype: DType


class ElementwiseEmitter(ABC):
    """Emits the commands of one op for one tile.

    `separate_banks`: result, inputs and residents must lie in different banks. `reduce_h`: h of the tile holds a whole axis,
    view (1, outer, axis, inner); with `reduce_trailing` the axis and all after it, view (1, outer, axes, 1). `passes`: about how often
    a vector of 32-bit elements is gone over where arithmetic takes as long as transfers; 0 for quick functions.
    """

    separate_banks: bool = False
    reduce_h: bool = False
    reduce_trailing: bool = False
    passes: int = 0

    def resident(self, op: LayerOp, module: Module) -> list[Resident]:
        """Constants needed in every lane; none unless overridden."""
        return []

    def scratch(self, op: LayerOp) -> list[DType]:
        """Further buffers of the tile's shape, EU-aligned, by type; none unless overridden."""
        return []

    @abstractmethod
    def emit(
        self, asm: Assembler, op: LayerOp, out: Local, inputs: Sequence[Local], scratch: Sequence[Local], resident: Sequence[Local]
    ) -> None:
        """Emit the commands.

        Args:
            out: EU-aligned tile (n, c, h, w).
            inputs: tiles of the same shape; stride 0 along broadcast dimensions.
            scratch, resident: in the order asked for.
        """


def number(op: LayerOp, name: str) -> float:
    """A numeric attribute."""
    value = op[name]
    assert isinstance(value, int | float), f"{op.layer_name}: {name} is {value!r}"
    return value


def integer(op: LayerOp, name: str) -> int:
    """An integer attribute."""
    value = op[name]
    assert isinstance(value, int), f"{op.layer_name}: {name} is {value!r}"
    return value
