"""Put buffers with known lifetimes into one linear memory so that buffers alive together never overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Buffer:
    """`size_bytes` needed from step `first` to step `last`, both inclusive; `pinned` ones come first, in the given order."""

    name: str
    size_bytes: int
    first: int
    last: int
    pinned: bool = False

    def meets(self, other: Buffer) -> bool:
        """Whether both are alive in some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Allocation:
    """Byte offset of every buffer, and the bytes used in all (a multiple of the alignment)."""

    offsets: Mapping[str, int]
    total_bytes: int


def allocate(buffers: Sequence[Buffer], alignment: int) -> Allocation:
    """Place pinned buffers from 0 upward, then the others, the largest first, each in the lowest gap that is free all its life.

    Offsets are multiples of `alignment`. A buffer of zero bytes still gets an offset.
    """
    offsets: dict[str, int] = {}
    placed: list[tuple[int, Buffer]] = []
    end = 0
    for buffer in (buffer for buffer in buffers if buffer.pinned):
        placed.append((end, buffer))
        offsets[buffer.name] = end
        end += _round_up(buffer.size_bytes, alignment)
    for buffer in sorted((b for b in buffers if not b.pinned), key=lambda b: (-b.size_bytes, b.first)):
        offset = _lowest_gap(buffer, placed, alignment)
        placed.append((offset, buffer))
        offsets[buffer.name] = offset
        end = max(end, offset + _round_up(buffer.size_bytes, alignment))
    return Allocation({buffer.name: offsets[buffer.name] for buffer in buffers}, end)


def _lowest_gap(buffer: Buffer, placed: Sequence[tuple[int, Buffer]], alignment: int) -> int:
    offset = 0
    for start, other in sorted(((s, o) for s, o in placed if o.meets(buffer)), key=lambda pair: pair[0]):
        if offset + buffer.size_bytes <= start:
            return offset
        offset = max(offset, start + _round_up(other.size_bytes, alignment))
    return offset


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
