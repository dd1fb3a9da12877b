"""Conflicts between the two engines that no wait orders.

Each engine completes its commands in order; a command starts when the id of the other engine it waits for has completed
(instruction notes, 2.1). So for each TIU command the GDMA commands that may run beside it are one run of ids: those after the
newest id it or a command before it waits for, up to the first GDMA command that waits for it. Both ends only move forward.
DDR needs no check: GDMA alone touches it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np

from bmflow.simulator.checks import LIMIT, Problem
from bmflow.simulator.instruction import Instruction
from bmflow.simulator.memory import Block, Plane
from bmflow.simulator.stream import Group

Access = tuple[Block, bool]
"""A block and whether it is written."""


def find_hazards(group: Group) -> list[Problem]:
    """Unordered pairs of commands that touch a common byte of a lane, one of them writing it; at most a few more than LIMIT."""
    table = _AccessTable(group.gdma)
    waits = np.array([0, *accumulate((i.wait for i in group.tiu), max)][1:], np.int64)
    releases = np.array([*accumulate((i.wait for i in group.gdma), max)], np.int64)
    problems: list[Problem] = []
    for index, tiu in enumerate(group.tiu):
        first, last = int(waits[index]), int(np.searchsorted(releases, tiu.number))
        if first >= last:
            continue
        for block, write in _local_accesses(tiu):
            for gdma, other, other_write in table.conflicts(block, write, first, last):
                if _share_a_byte(block, other):
                    problems.append(_problem(tiu, write, gdma, other_write, block, other))
        if len(problems) > LIMIT:
            break
    return problems


def _local_accesses(instruction: Instruction) -> Iterator[Access]:
    for write, blocks in ((False, instruction.reads), (True, instruction.writes)):
        for block in blocks:
            if block.plane is Plane.LMEM:
                yield block, write


class _AccessTable:
    """All accesses of GDMA commands to local memory as columns, in the order of the commands."""

    def __init__(self, commands: Sequence[Instruction]) -> None:
        self._entries = [(index, command, access) for index, command in enumerate(commands) for access in _local_accesses(command)]
        blocks = [access[0] for _, _, access in self._entries]
        self._starts = np.searchsorted(np.array([index for index, _, _ in self._entries], np.int64), np.arange(len(commands) + 1))
        self._begin = np.array([block.offset for block in blocks], np.int64)
        self._end = np.array([block.end for block in blocks], np.int64)
        self._lane = np.array([block.lane for block in blocks], np.int64)
        self._last = np.array([block.lane + block.lanes for block in blocks], np.int64)
        self._write = np.array([access[1] for _, _, access in self._entries], np.bool_)

    def conflicts(self, block: Block, write: bool, first: int, last: int) -> Iterator[tuple[Instruction, Block, bool]]:
        """Accesses of the commands first..last-1 (counted from 0) whose outer bounds meet the block and where one side writes."""
        window = slice(self._starts[first], self._starts[last])
        meets = (self._begin[window] < block.end) & (self._end[window] > block.offset)
        meets &= (self._lane[window] < block.lane + block.lanes) & (self._last[window] > block.lane)
        if not write:
            meets &= self._write[window]
        for position in np.flatnonzero(meets):
            _, command, (other, other_write) = self._entries[int(window.start) + int(position)]
            yield command, other, other_write


def _share_a_byte(one: Block, other: Block) -> bool:
    """Whether two blocks whose lanes and outer bounds meet have a byte in common."""
    begin, end = max(one.offset, other.offset), min(one.end, other.end)
    touched = [_touched(block, begin, end) for block in (one, other)]
    return bool((touched[0] & touched[1]).any())


def _touched(block: Block, begin: int, end: int) -> np.ndarray:
    """Which of the bytes begin..end-1 of a lane a block covers."""
    covered = np.zeros(block.end - block.offset, np.bool_)
    dims = block.merged()
    np.ndarray([count for count, _ in dims], np.bool_, covered.data, 0, [stride for _, stride in dims])[...] = True
    return covered[begin - block.offset : end - block.offset]


def _problem(tiu: Instruction, write: bool, gdma: Instruction, other_write: bool, block: Block, other: Block) -> Problem:
    deed = {
        (True, True): "both write",
        (False, True): "the first reads, the second writes",
        (True, False): "the first writes, the second reads",
    }
    begin, end = max(block.offset, other.offset), min(block.end, other.end)
    first, last = max(block.lane, other.lane), min(block.lane + block.lanes, other.lane + other.lanes) - 1
    text = f"no wait orders it and {gdma}; {deed[write, other_write]} bytes among {begin:#x}..{end:#x} of lanes {first}..{last}"
    return Problem("hazard", str(tiu), text)
