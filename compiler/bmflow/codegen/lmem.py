"""Local memory of one layer: buffers at fixed places, each in banks of its own where memory allows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from bmflow.codegen.operand import round_up
from bmflow.target import Memory


def place(memory: Memory, sizes: Sequence[int], separate_banks: bool = True) -> list[int] | None:
    """Give each buffer a byte address inside a lane.

    Every address starts a bank, and no two buffers share one, as long as the buffers fit that way; with
    `separate_banks` false they are otherwise packed one vector apart.

    Returns:
        addresses in the order of `sizes`, or None when they do not fit.
    """
    for step in (memory.bank_bytes, memory.eu_bytes):
        addresses, end = _pack(sizes, step)
        if end <= memory.lmem_bytes:
            return addresses
        if separate_banks:
            return None
    return None


def place_groups(memory: Memory, sizes: Sequence[Sequence[int]], separate_banks: bool = True) -> list[list[int]] | None:
    """`place`, for buffers that belong together in groups; addresses come back in the same groups."""
    addresses = place(memory, [size for group in sizes for size in group], separate_banks)
    if addresses is None:
        return None
    left = iter(addresses)
    return [[next(left) for _ in group] for group in sizes]


def _pack(sizes: Sequence[int], step: int) -> tuple[list[int], int]:
    addresses: list[int] = []
    end = 0
    for size in sizes:
        addresses.append(end)
        end += round_up(size, step)
    return addresses, end


class Slots:
    """Buffers of equal size used in turn, remembering what each holds, so that a tile that is still there is not loaded again.

    `take` never gives the buffer that the call before it gave to another content: with two buffers the next tile can be
    loaded while the present one is in use.
    """

    def __init__(self, addresses: Sequence[int]) -> None:
        self._addresses = list(addresses)
        self._contents: list[Hashable | None] = [None] * len(addresses)
        self._current = len(addresses) - 1

    def take(self, content: Hashable) -> tuple[int, bool]:
        """Address of the buffer that holds `content`, and whether it must be loaded first."""
        if content in self._contents:
            self._current = self._contents.index(content)
            return self._addresses[self._current], False
        self._current = (self._current + 1) % len(self._addresses)
        self._contents[self._current] = content
        return self._addresses[self._current], True
