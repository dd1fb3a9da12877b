"""The two command streams under construction: ids, waits, layers, end commands, and refusals that name the layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bmflow.codegen.dependencies import Access, DependencyTracker, Engine
from bmflow.codegen.fields import touched
from bmflow.codegen.operand import Local
from bmflow.errors import CompileError
from bmflow.isa.program import Command
from bmflow.target import Target

MAX_ID = (1 << 20) - 1
"""Command ids have 20 bits (BM1684X instruction notes, 1)."""
MAX_SIZE = 65535
"""Largest n, c, h or w of a command (BM1684X instruction notes, 5)."""


class CommandStreams:
    """Collects commands; what each reads and writes in local memory decides what it waits for."""

    def __init__(self, target: Target) -> None:
        self.memory = target.require_codegen()
        self.target = target
        self._tracker = DependencyTracker()
        self._commands: tuple[list[Command], list[Command]] = ([], [])
        self._layer = ("", "")
        self._starts = (0, 0)

    def begin_layer(self, name: str, op: str) -> None:
        """Start a layer; errors name it from here on."""
        self._layer = (name, op)
        self._starts = (self._tracker.count(Engine.TIU), self._tracker.count(Engine.GDMA))

    def end_layer(self) -> tuple[int, int, int, int]:
        """First and last id of the layer's TIU commands, then of its GDMA commands; 0 and -1 where it has none."""
        spans: list[int] = []
        for engine in Engine:
            first, last = self._starts[engine] + 1, self._tracker.count(engine)
            spans += [first, last] if last >= first else [0, -1]
        return spans[0], spans[1], spans[2], spans[3]

    def finish(self) -> tuple[list[Command], list[Command]]:
        """The TIU and the GDMA stream with their end commands."""
        tiu_id, gdma_id = (self._tracker.count(engine) + 1 for engine in Engine)
        tiu = Command("SYSID", {"cmd_id": tiu_id, "tsk_typ": 15, "tsk_eu_typ": 31})
        gdma = Command("sDMA_sys", {"cmd_short": 1, "cmd_id_en": 1, "cmd_id": gdma_id, "cmd_type": 6})
        return [*self._commands[Engine.TIU], tiu], [*self._commands[Engine.GDMA], gdma]

    def require(self, condition: bool, reason: str) -> None:
        """Refuse what the instruction cannot express.

        Raises:
            CompileError: naming the layer and the reason.
        """
        if not condition:
            name, op = self._layer
            raise CompileError(f"{name}: {op} needs a command that {self.target.name} does not have: {reason}; give the layer another type")

    def require_sizes(self, *shapes: Sequence[int]) -> None:
        """Refuse sizes that do not fit their fields."""
        for shape in shapes:
            self.require(all(1 <= size <= MAX_SIZE for size in shape), f"sizes {tuple(shape)} outside 1..{MAX_SIZE}")

    def append(
        self, engine: Engine, layout: str, fields: Mapping[str, int], writes: Sequence[Local] = (), reads: Sequence[Local | Access] = ()
    ) -> None:
        """Append a command; id and wait are added to its fields."""
        accesses = [touched(self.memory, local, True) for local in writes]
        accesses += [item if isinstance(item, Access) else touched(self.memory, item, False) for item in reads]
        for access in accesses:
            inside = access.begin >= 0 and access.end <= self.memory.lmem_bytes
            self.require(inside, f"bytes {access.begin}..{access.end} of a lane")
        number, wait = self._tracker.add(engine, accesses)
        self.require(number < MAX_ID, f"more than {MAX_ID} commands")
        self._commands[engine].append(Command(layout, {**fields, "cmd_id_en": 1, "cmd_id": number, "cmd_id_dep": wait}))

    def tiu_address(self, local: Local) -> int:
        """Address of an operand as TIU sees local memory."""
        return local.lane * self.memory.lmem_bytes + local.address
