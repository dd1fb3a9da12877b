"""The memories a program works in, as bytes: local memory of all lanes, activations and weights in DDR.

A `Block` says which bytes a command touches; the same description serves checks, hazards and, as a strided array, the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod

import numpy as np
from numpy.typing import DTypeLike

from bmflow.target import Memory


class Plane(Enum):
    """A memory; the value is how messages call it."""

    LMEM = "local memory"
    CTX = "activation memory"
    COEFF = "weight memory"


@dataclass(frozen=True, slots=True)
class Block:
    """Elements of a memory: `counts` of them, `strides` bytes apart, from byte `offset` of each of `lanes` lanes on.

    DDR counts as one lane. Dimensions of one element, or with stride 0, do not matter.
    """

    plane: Plane
    lane: int
    lanes: int
    offset: int
    counts: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int

    @property
    def end(self) -> int:
        """First byte after the last element, in each lane."""
        return self.offset + sum((count - 1) * stride for count, stride in zip(self.counts, self.strides, strict=True)) + self.itemsize

    @property
    def size_bytes(self) -> int:
        """Bytes of all different elements together."""
        distinct = prod(count for count, stride in zip(self.counts, self.strides, strict=True) if stride)
        return distinct * self.itemsize * self.lanes

    def merged(self) -> tuple[tuple[int, int], ...]:
        """The fewest (count, stride in bytes) that give the same bytes, longest stride first; the last is a run of single bytes."""
        dims = [(count, stride) for count, stride in zip(self.counts, self.strides, strict=True) if count > 1 and stride]
        result = [(self.itemsize, 1)]
        for count, stride in sorted(dims, key=lambda dim: dim[1]):
            inner_count, inner_stride = result[-1]
            if stride == inner_count * inner_stride:
                result[-1] = (inner_count * count, inner_stride)
            else:
                result.append((count, stride))
        return tuple(reversed(result))


class Machine:
    """The bytes of one processor and its DDR, shared scratch arrays, and strided views of all of them."""

    def __init__(self, memory: Memory, ctx_bytes: int, coeff: bytes, threads: int) -> None:
        self.memory = memory
        self.threads = threads
        # Lanes lie a little more than their size apart: at a power of two all lanes would share the same few cache lines.
        self.pitch = memory.lmem_bytes + 5 * memory.eu_bytes
        self._buffers = {
            Plane.LMEM: np.zeros(memory.lanes * self.pitch, np.uint8),
            Plane.CTX: np.zeros(ctx_bytes, np.uint8),
            Plane.COEFF: np.frombuffer(coeff, np.uint8) if coeff else np.zeros(0, np.uint8),
        }
        self._scratch: dict[tuple[str, int], np.ndarray] = {}

    def view(self, plane: Plane, dtype: DTypeLike, lane: int, offset: int, shape: Sequence[int], strides: Sequence[int]) -> np.ndarray:
        """A strided array over a memory; strides in bytes."""
        return np.ndarray(tuple(shape), dtype, self._buffers[plane].data, lane * self.pitch + offset, tuple(strides))  # type: ignore[call-overload]

    def spoil(self) -> None:
        """Fill what no program may rely on with a pattern, so that a run does not depend on the one before it."""
        for plane in (Plane.LMEM, Plane.CTX):
            self._buffers[plane].fill(0xA5)

    def scratch(self, name: str, shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
        """A dense array for the time of one command; commands share the memory of arrays of one name and like size."""
        size = max(prod(shape), 1) * np.dtype(dtype).itemsize
        bucket = size.bit_length()
        key = (name, bucket)
        if key not in self._scratch:
            self._scratch[key] = np.zeros(1 << bucket, np.uint8)
        return self._scratch[key][:size].view(dtype)[: prod(shape)].reshape(tuple(shape))


class Written:
    """Which bytes of each memory hold a defined value."""

    def __init__(self, memory: Memory, ctx_bytes: int) -> None:
        self._pitches = {Plane.LMEM: memory.lmem_bytes, Plane.CTX: ctx_bytes}
        self._maps = {Plane.LMEM: np.zeros(memory.lanes * memory.lmem_bytes, np.bool_), Plane.CTX: np.zeros(ctx_bytes, np.bool_)}

    def missing(self, block: Block) -> int:
        """Bytes of a block that nothing has written; weights are always there."""
        if block.plane is Plane.COEFF:
            return 0
        view = self._view(block)
        return 0 if view.all() else int(view.size - np.count_nonzero(view))

    def mark(self, block: Block) -> None:
        """Note that a block is written."""
        if block.plane is not Plane.COEFF:
            self._view(block)[...] = True

    def _view(self, block: Block) -> np.ndarray:
        dims = block.merged()
        pitch = self._pitches[block.plane]
        shape = (block.lanes, *(count for count, _ in dims))
        strides = (pitch, *(stride for _, stride in dims))
        return np.ndarray(shape, np.bool_, self._maps[block.plane].data, block.lane * pitch + block.offset, strides)
