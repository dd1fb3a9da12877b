"""Instruction tables: which bits of a command hold which field, and which command a run of bits is.

The tables are data, one json file per instruction set; encoder, decoder and disassembler follow from them. Bits are counted
from the least significant bit of byte 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from bmflow.errors import CompileError, nearest_names

Engine = Literal["TIU", "GDMA"]
ENGINES: tuple[Engine, Engine] = ("TIU", "GDMA")

_PADDING = re.compile(r"rsvd|reserve", re.IGNORECASE)
_HEADS: Mapping[Engine, tuple[int, int, int]] = {"TIU": (0, 41, 45), "GDMA": (3, 32, 36)}
"""Bit of `cmd_short`, first bit of the type, first bit of the operation (BM1684X instruction notes, 2)."""
_HEAD_MASKS: Mapping[Engine, int] = {"TIU": 1 | 15 << 41 | 31 << 45, "GDMA": 1 << 3 | 15 << 32 | 7 << 36}
"""These three fields, which tell the layout."""


@dataclass(frozen=True, slots=True)
class Field:
    """Bits offset .. offset + width - 1 of a command."""

    name: str
    offset: int
    width: int

    @property
    def limit(self) -> int:
        """First value that does not fit."""
        return 1 << self.width


@dataclass(frozen=True)
class Layout:
    """One form of a command. `padding` bits have repeated names in the tables and are always 0.

    `type` is None for layouts whose type code is not known, `short` is None where only one form exists; `operations` gives the
    mnemonic of each operation code (empty: unnamed).
    """

    name: str
    engine: Engine
    size_bytes: int
    short: bool | None
    type: int | None
    operations: Mapping[int, str]
    fields: Mapping[str, Field]
    padding: tuple[Field, ...]

    def field(self, name: str) -> Field:
        """Find a field by name.

        Raises:
            CompileError: the layout has no such field; the nearest names are shown.
        """
        found = self.fields.get(name)
        if found is None:
            raise CompileError(f"{self.name}: has no field {name}; {nearest_names(name, self.fields) or 'see the instruction tables'}")
        return found


@dataclass(frozen=True)
class InstructionSet:
    """All command layouts of a processor, by name and by what their first bits say."""

    name: str
    layouts: Mapping[str, Layout]
    heads: Mapping[Engine, Mapping[int, Layout]]

    def layout(self, name: str) -> Layout:
        """Find a layout by name.

        Raises:
            CompileError: unknown name; the nearest ones are shown.
        """
        found = self.layouts.get(name)
        if found is None:
            raise CompileError(f"{self.name}: has no command layout {name}; {nearest_names(name, self.layouts)}".rstrip("; "))
        return found

    @staticmethod
    def head_mask(engine: Engine) -> int:
        """The bits among the first 64 that tell the layout and the operation."""
        return _HEAD_MASKS[engine]

    def identify(self, engine: Engine, bits: int) -> Layout | None:
        """Tell the layout of a command from its first 64 bits; None when no known operation has them."""
        return self.heads[engine].get(bits & _HEAD_MASKS[engine])


@cache
def load(name: str) -> InstructionSet:
    """Read the instruction set `name` (`Target.isa`).

    Raises:
        CompileError: there is no table of that name.
    """
    path = files("bmflow.isa") / f"{name}.json"
    if not name or not path.is_file():
        raise CompileError(f"{name or 'this processor'}: no instruction table is known; this version has bm1684x")
    layouts = {entry["name"]: _layout(entry) for entry in json.loads(path.read_text())["instructions"]}
    heads: dict[Engine, dict[int, Layout]] = {engine: {} for engine in ENGINES}
    for layout in layouts.values():
        heads[layout.engine].update(dict.fromkeys(_heads(layout), layout))
    return InstructionSet(name, layouts, heads)


def _layout(entry: Mapping[str, Any]) -> Layout:
    fields = [Field(name, offset, width) for name, offset, width in entry["fields"]]
    sub: Mapping[str, Mapping[str, str | None]] = entry.get("sub") or {"": {}}
    [codes] = sub.values()
    return Layout(
        name=entry["name"], engine="TIU" if entry["engine"] == "tiu" else "GDMA", size_bytes=entry["bits"] // 8, short=entry["short"],
        type=next(iter(entry.get("opcode", {}).values()), None),
        operations={int(code): mnemonic or "" for code, mnemonic in codes.items()},
        fields={field.name: field for field in fields if not _PADDING.match(field.name)},
        padding=tuple(field for field in fields if _PADDING.match(field.name)),
    )  # fmt: skip


def _heads(layout: Layout) -> list[int]:
    """Every value of the telling bits that means this layout."""
    if layout.type is None:
        return []
    short, kind, operation = _HEADS[layout.engine]
    forms = [layout.short] if layout.short is not None else [False, True]
    return [form << short | layout.type << kind | code << operation for form in forms for code in layout.operations]
