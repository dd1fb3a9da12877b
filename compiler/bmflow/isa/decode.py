"""The bits of a stream back into commands.

Decoding is strict: what it accepts, encoding gives back bit for bit; anything else is an InputError that names the byte.
All commands with one operation are decoded together, so that a stream of twenty thousand commands takes a tenth of a second.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bmflow.errors import InputError
from bmflow.isa.program import Command
from bmflow.isa.stream import walk
from bmflow.isa.tables import Engine, Field, InstructionSet, Layout

Words = NDArray[np.uint64]


def decode_stream(isa: InstructionSet, engine: Engine, data: bytes, where: str = "command stream") -> list[Command]:
    """All commands of a padded stream, the end command included; fields that are 0 are left out.

    Args:
        where: begins every error message, e.g. `a.bmodel: net 0 stage 0 TIU`.
    Raises:
        InputError: an unknown command, set padding bits, no end command, or bytes after it.
    """
    offsets = np.array(walk(engine, data, where), np.int64)
    commands: list[Command | None] = [None] * len(offsets)
    heads = np.frombuffer(data, "<u8")[offsets // 8] & np.uint64(isa.head_mask(engine))
    for head in np.unique(heads):
        members = np.flatnonzero(heads == head)
        layout = _identify(isa, engine, data, int(offsets[members[0]]), where)
        for index, fields in zip(members.tolist(), _decode_group(layout, data, offsets[members], where), strict=True):
            commands[index] = Command(layout.name, fields)
    return [command for command in commands if command is not None]


def decode_command(layout: Layout, data: bytes, where: str = "command") -> Command:
    """One command of a known layout."""
    if len(data) != layout.size_bytes:
        raise InputError(f"{where}: {layout.name} has {layout.size_bytes} bytes, found {len(data)}")
    [fields] = _decode_group(layout, data, np.zeros(1, np.int64), where)
    return Command(layout.name, fields)


def _identify(isa: InstructionSet, engine: Engine, data: bytes, offset: int, where: str) -> Layout:
    layout = isa.identify(engine, int.from_bytes(data[offset : offset + 8], "little"))
    if layout is None or (engine == "GDMA" and layout.size_bytes not in (16, 96)):
        raise InputError(
            f"{where}, byte {offset}: no {isa.name} command begins with {data[offset : offset + 8].hex()}; the file is damaged"
        )
    return layout


def _decode_group(layout: Layout, data: bytes, offsets: NDArray[np.int64], where: str) -> list[dict[str, int]]:
    """Fields of several commands of one layout."""
    size = layout.size_bytes
    words: Words = np.zeros((len(offsets), size // 8 + 1), np.uint64)
    words[:, :-1] = np.frombuffer(data, np.uint8)[offsets[:, None] + np.arange(size)].view("<u8")
    for field in layout.padding:
        bad = np.flatnonzero(_values(words, field))
        if bad.size:
            raise InputError(
                f"{where}, byte {offsets[bad[0]]}: {layout.name} has bits set from bit {field.offset} on that must be 0; the file is damaged"
            )
    columns = {name: values for name, field in layout.fields.items() if (values := _values(words, field)).any()}
    if not columns:
        return [{} for _ in offsets]
    rows: list[list[int]] = np.stack(list(columns.values()), axis=1).tolist()
    return [{name: value for name, value in zip(columns, row, strict=True) if value} for row in rows]


def _values(words: Words, field: Field) -> Words:
    """Values of a field in every command; `words` has a column of zeros at its end."""
    column, shift = divmod(field.offset, 64)
    values = words[:, column] >> np.uint64(shift)
    if shift and shift + field.width > 64:
        values |= words[:, column + 1] << np.uint64(64 - shift)
    return values & np.uint64(field.limit - 1)
