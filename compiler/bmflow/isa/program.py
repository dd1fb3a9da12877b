"""A compiled network before it is packed: two command streams, the weight image, and where every tensor lies.

This is what `codegen` hands to `container`. Command fields are named as in the instruction tables; fields that are 0
may be left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bmflow.ir.types import DType
from bmflow.numerics.formats import to_bf16, to_f16
from bmflow.numerics.rounding import Rounding, round_real
from bmflow.target import Target


@dataclass(frozen=True, slots=True)
class Command:
    """One instruction: `layout` is its name in the instruction table (`sCONV`, `DMA_tensor`), `fields` its register values."""

    layout: str
    fields: dict[str, int]


@dataclass(frozen=True)
class ProgramTensor:
    """A tensor in DDR: dense NCHW at `address`, raw values of `dtype`; real = (q - zero_point) * scale for integers."""

    name: str
    shape: tuple[int, ...]
    dtype: DType
    address: int
    scale: float = 1.0
    zero_point: int = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of the dense tensor."""
        size = self.dtype.itemsize
        for dim in self.shape:
            size *= dim
        return size

    def to_real(self, raw: ArrayLike) -> NDArray[np.float32]:
        """Real values of raw elements: (q - zero_point) * scale in float32 for integers, as tpu.Cast does; floats as they are."""
        values = np.asarray(raw, np.float32)
        return values if self.dtype.is_float else (values - np.float32(self.zero_point)) * np.float32(self.scale)

    def from_real(self, values: ArrayLike) -> NDArray[np.float32] | NDArray[np.integer]:
        """Raw elements nearest to real values, in `dtype.numpy`.

        Integers are round(x / scale + zero_point), ties away from zero, saturated; NaN becomes the zero point. F16 and BF16 values
        are rounded and stay float32.
        """
        real = np.asarray(values, np.float32)
        if self.dtype.is_float:
            return {DType.F16: to_f16, DType.BF16: to_bf16}.get(self.dtype, np.ascontiguousarray)(real).reshape(real.shape)
        steps = np.nan_to_num(real.astype(np.float64) / self.scale, nan=0.0) + self.zero_point
        return np.clip(round_real(steps, Rounding.HALF_AWAY), *self.dtype.limits).astype(self.dtype.numpy)


@dataclass(frozen=True)
class LayerSpan:
    """The commands of one layer and its result: ids first..last (inclusive) per engine, 0 and -1 when it has none.

    The tensor is complete in DDR once both engines have passed `last_tiu` and `last_gdma`; a later layer may reuse
    its memory.
    """

    name: str
    op: str
    tensor: ProgramTensor
    first_tiu: int = 0
    last_tiu: int = -1
    first_gdma: int = 0
    last_gdma: int = -1


@dataclass(frozen=True)
class WeightSpan:
    """Where a weight lies in the weight image: byte offset and size."""

    name: str
    offset: int
    size: int


@dataclass
class Program:
    """One network for one processor. Ids start at 1 in each stream; the last command of each is the end command."""

    name: str
    target: Target
    tiu: list[Command]
    gdma: list[Command]
    coeff: bytes
    coeff_address: int
    ctx_address: int
    ctx_bytes: int
    inputs: list[ProgramTensor]
    outputs: list[ProgramTensor]
    layers: list[LayerSpan] = field(default_factory=list[LayerSpan])
    weights: list[WeightSpan] = field(default_factory=list[WeightSpan])
