"""Which commands must wait for the other engine: byte ranges in local memory, kept per engine until they are waited for.

Each engine works through its own stream in order, so one number per command is enough: the newest id of the other engine that
must have completed (BM1684X instruction notes, 2.1). Only local memory is shared by the engines: DDR is touched by GDMA alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class Engine(IntEnum):
    """The two command streams."""

    TIU = 0
    GDMA = 1


@dataclass(frozen=True, slots=True)
class Access:
    """Bytes begin..end-1 of lanes first_lane..last_lane of local memory, read or written by a command."""

    begin: int
    end: int
    first_lane: int
    last_lane: int
    write: bool

    def conflicts(self, other: Access) -> bool:
        """Whether both touch a common byte and one of them writes it."""
        return (
            (self.write or other.write)
            and self.begin < other.end
            and other.begin < self.end
            and self.first_lane <= other.last_lane
            and other.first_lane <= self.last_lane
        )


class DependencyTracker:
    """Numbers the commands of both engines from 1 and says what each must wait for."""

    def __init__(self) -> None:
        self._counts = [0, 0]
        self._waits = [0, 0]
        self._pending: tuple[deque[tuple[int, Access]], ...] = (deque(), deque())

    def count(self, engine: Engine) -> int:
        """Commands of an engine so far; the id of the newest."""
        return self._counts[engine]

    def add(self, engine: Engine, accesses: Iterable[Access]) -> tuple[int, int]:
        """Append a command.

        Returns:
            its id, and the id of the other engine it waits for: the newest one whose accesses conflict with its own, but
            never less than an earlier command of the same engine waits for.
        """
        other = Engine(1 - engine)
        mine = tuple(accesses)
        unordered = self._pending[other]
        newest = next((number for number, access in reversed(unordered) if any(access.conflicts(own) for own in mine)), 0)
        self._waits[engine] = max(self._waits[engine], newest)
        while unordered and unordered[0][0] <= self._waits[engine]:
            unordered.popleft()
        self._counts[engine] += 1
        number = self._counts[engine]
        self._pending[engine].extend((number, access) for access in mine)
        return number, self._waits[engine]
