"""Operands of commands: tensors in local memory, constants, tensors in DDR.

Element (n, c, h, w) of a local tensor lies in lane `(lane + c) % lanes`, at byte
`address + (n*ns + ((lane + c) // lanes)*cs + h*hs + w*ws) * itemsize` of that lane.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bmflow.ir.types import DType
from bmflow.target import Memory

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Local:
    """A tensor in local memory: byte address inside a lane, start lane, strides in elements (c: per channel row)."""

    address: int
    shape: Shape
    dtype: DType
    strides: Shape
    lane: int = 0

    def at(self, offset_bytes: int) -> Local:
        """The same view, `offset_bytes` further in every lane."""
        return replace(self, address=self.address + offset_bytes)

    def as_dtype(self, dtype: DType) -> Local:
        """The same bytes read as another type of equal size."""
        assert dtype.itemsize == self.dtype.itemsize
        return replace(self, dtype=dtype)


@dataclass(frozen=True)
class Constant:
    """A number in the command itself, converted to `dtype` bits by the assembler."""

    value: float
    dtype: DType


@dataclass(frozen=True)
class Ddr:
    """A 4-D view of DDR: byte address and strides in elements."""

    address: int
    shape: Shape
    dtype: DType
    strides: Shape


def round_up(value: int, multiple: int) -> int:
    """Smallest multiple of `multiple` that is >= value."""
    return -(-value // multiple) * multiple


def aligned(memory: Memory, address: int, shape: Shape, dtype: DType, lane: int = 0) -> Local:
    """EU-aligned layout (code 0): every channel row starts at a multiple of the vector width."""
    rows = -(-(lane + shape[1]) // memory.lanes)
    c_stride = round_up(shape[2] * shape[3], memory.eu_bytes // dtype.itemsize)
    return Local(address, shape, dtype, (rows * c_stride, c_stride, shape[3], 1), lane)


def compact(memory: Memory, address: int, shape: Shape, dtype: DType, lane: int = 0) -> Local:
    """Compact layout (code 1): channel rows back to back."""
    rows = -(-(lane + shape[1]) // memory.lanes)
    c_stride = shape[2] * shape[3]
    return Local(address, shape, dtype, (rows * c_stride, c_stride, shape[3], 1), lane)


def aligned_bytes(memory: Memory, shape: Shape, dtype: DType, lane: int = 0) -> int:
    """Bytes per lane of a tensor in EU-aligned layout."""
    local = aligned(memory, 0, shape, dtype, lane)
    return shape[0] * local.strides[0] * dtype.itemsize
