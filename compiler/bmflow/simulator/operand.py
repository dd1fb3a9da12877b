"""Operands of commands: tensors in local memory and views of DDR, with the layouts of the instruction notes (1.1 and 1.6)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np

from bmflow.ir.types import DType
from bmflow.numerics.formats import bf16_bits, bf16_values
from bmflow.simulator.memory import Block, Machine, Plane
from bmflow.target import Memory

Shape = tuple[int, int, int, int]

_STORAGE = {DType.F16: np.dtype(np.float16), DType.BF16: np.dtype(np.uint16)}
FLOATS = {1: DType.F16, 2: DType.F32, 5: DType.BF16}
INTEGERS = {0: (DType.U8, DType.I8), 3: (DType.U16, DType.I16), 4: (DType.U32, DType.I32)}
"""Type codes (instruction notes, 1.4): unsigned and signed; the sign is a field of its own."""


def element_type(code: int, sign: int) -> DType | None:
    """The type of a precision code; None for 4-bit integers and the unused code."""
    if code in FLOATS:
        return FLOATS[code]
    return INTEGERS[code][1 if sign else 0] if code in INTEGERS else None


def storage(dtype: DType) -> np.dtype:
    """The array type of stored elements."""
    return _STORAGE.get(dtype) or dtype.numpy


def load(view: np.ndarray, dtype: DType) -> np.ndarray:
    """Values of stored elements to calculate with: float32 or int64."""
    if dtype is DType.BF16:
        return bf16_values(view)
    return view.astype(np.float32 if dtype.is_float else np.int64)


def store(view: np.ndarray, dtype: DType, values: np.ndarray) -> None:
    """Write values, floats rounded to the type; integers must fit or are cut to their low bits."""
    if dtype is DType.BF16:
        view[...] = bf16_bits(values).reshape(values.shape)
    else:
        np.copyto(view, values, casting="unsafe")


def constant_array(bits: int, dtype: DType) -> np.ndarray:
    """A constant operand's low bits as one stored element, (1, 1, 1, 1, 1)."""
    raw = np.array(bits & ((1 << 8 * dtype.itemsize) - 1), f"<u{dtype.itemsize}")
    return raw.reshape((1,) * 5).view(storage(dtype))


def constant(bits: int, dtype: DType) -> float | int:
    """The number that a constant operand's low bits mean."""
    return load(constant_array(bits, dtype), dtype).item()


@dataclass(frozen=True, slots=True)
class Piece:
    """Channels `channel` .. + rows * lanes of a tensor, which fill `lanes` lanes from `lane` in channel rows `row` .. + rows."""

    channel: int
    row: int
    rows: int
    lane: int
    lanes: int


@lru_cache(4096)
def pieces(lane: int, channels: int, lanes: int) -> tuple[Piece, ...]:
    """Cut the channels of a tensor that starts in `lane` into at most three blocks of whole channel rows."""
    result: list[Piece] = []
    channel, row = 0, 0
    if lane:
        count = min(channels, lanes - lane)
        result.append(Piece(0, 0, 1, lane, count))
        channel, row = count, 1
    full = (channels - channel) // lanes
    if full:
        result.append(Piece(channel, row, full, 0, lanes))
        channel, row = channel + full * lanes, row + full
    if channel < channels:
        result.append(Piece(channel, row, 1, 0, channels - channel))
    return tuple(result)


@dataclass(frozen=True)
class Local:
    """A tensor in local memory: byte offset in a lane, start lane, strides in elements (c: per channel row)."""

    offset: int
    lane: int
    shape: Shape
    strides: Shape
    dtype: DType

    def pieces(self, memory: Memory) -> tuple[Piece, ...]:
        """Its blocks of whole channel rows."""
        return pieces(self.lane, self.shape[1], memory.lanes)

    def end(self, memory: Memory) -> int:
        """First byte of a lane after all of its elements."""
        n, c, h, w = self.shape
        ns, cs, hs, ws = self.strides
        rows = -(-(self.lane + c) // memory.lanes)
        return self.offset + ((n - 1) * ns + (rows - 1) * cs + (h - 1) * hs + (w - 1) * ws + 1) * self.dtype.itemsize

    def blocks(self, memory: Memory) -> list[Block]:
        """The bytes it covers."""
        n, _, h, w = self.shape
        size = self.dtype.itemsize
        ns, cs, hs, ws = (stride * size for stride in self.strides)
        return [
            Block(Plane.LMEM, p.lane, p.lanes, self.offset + p.row * cs, (n, p.rows, h, w), (ns, cs, hs, ws), size)
            for p in self.pieces(memory)
        ]  # fmt: skip

    def views(self, machine: Machine) -> list[np.ndarray]:
        """Arrays (n, rows, lanes, h, w) of stored elements, one for each piece."""
        n, _, h, w = self.shape
        dtype = storage(self.dtype)
        ns, cs, hs, ws = (stride * dtype.itemsize for stride in self.strides)
        return [
            machine.view(Plane.LMEM, dtype, p.lane, self.offset + p.row * cs, (n, p.rows, p.lanes, h, w), (ns, cs, machine.pitch, hs, ws))
            for p in self.pieces(machine.memory)
        ]  # fmt: skip

    def pairs(self, machine: Machine, dense: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Its views, each with the part of a dense (n, c, h, w) array that has the same elements."""
        parts = [_split_channels(dense[:, p.channel : p.channel + p.rows * p.lanes], p) for p in self.pieces(machine.memory)]
        return list(zip(self.views(machine), parts, strict=True))


def _split_channels(part: np.ndarray, piece: Piece) -> np.ndarray:
    """View (n, rows * lanes, h, w) as (n, rows, lanes, h, w) without a copy, whatever its strides."""
    n, _, h, w = part.shape
    ns, cs, hs, ws = part.strides
    shape, strides = (n, piece.rows, piece.lanes, h, w), (ns, cs * piece.lanes, cs, hs, ws)
    return np.lib.stride_tricks.as_strided(part, shape, strides)


@dataclass(frozen=True)
class Ddr:
    """A view of DDR: byte offset in a plane, strides in elements of `itemsize` bytes."""

    plane: Plane
    offset: int
    shape: Shape
    strides: Shape
    itemsize: int

    @property
    def is_dense(self) -> bool:
        """Whether the elements follow each other without gaps in the order n, c, h, w."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size > 1 and stride != expected:
                return False
            expected *= size
        return True

    def blocks(self) -> list[Block]:
        """The bytes it covers."""
        return [Block(self.plane, 0, 1, self.offset, self.shape, tuple(s * self.itemsize for s in self.strides), self.itemsize)]

    def array(self, machine: Machine, shape: Shape | None = None) -> np.ndarray:
        """An (n, c, h, w) array of its elements as unsigned integers; `shape` regroups a dense view."""
        dtype = np.dtype(f"u{self.itemsize}")
        strides = self.strides
        if shape is not None and shape != self.shape:
            strides = (prod(shape[1:]), prod(shape[2:]), shape[3], 1)
        return machine.view(self.plane, dtype, 0, self.offset, shape or self.shape, [stride * self.itemsize for stride in strides])


def aligned_strides(memory: Memory, lane: int, shape: Shape, dtype: DType) -> Shape:
    """Strides of the EU-aligned layout (code 0): every channel row starts at a multiple of the vector width."""
    return _row_strides(memory, lane, shape, align(shape[2] * shape[3], memory.eu_bytes // dtype.itemsize))


def compact_strides(memory: Memory, lane: int, shape: Shape, dtype: DType) -> Shape:
    """Strides of the compact layout (code 1): channel rows back to back."""
    del dtype
    return _row_strides(memory, lane, shape, shape[2] * shape[3])


def line_strides(memory: Memory, lane: int, shape: Shape, dtype: DType) -> Shape:
    """Strides of the line-aligned layout: every row along w starts at a multiple of the vector width."""
    line = align(shape[3], memory.eu_bytes // dtype.itemsize)
    rows = -(-(lane + shape[1]) // memory.lanes)
    return rows * shape[2] * line, shape[2] * line, line, 1


def align(value: int, multiple: int) -> int:
    """Smallest multiple of `multiple` that is >= value."""
    return -(-value // multiple) * multiple


def _row_strides(memory: Memory, lane: int, shape: Shape, c_stride: int) -> Shape:
    rows = -(-(lane + shape[1]) // memory.lanes)
    return rows * c_stride, c_stride, shape[3], 1
