"""Flatbuffers to and from plain dictionaries, driven by the schema table.

A table is a dict by field name. Scalars are always there, with their defaults; strings, vectors, structs and tables only where the
file has them. `[u8]` is bytes. A `Binary` is whatever the caller makes of its start and size.
Reading trusts nothing: every offset is checked before it is followed, so damaged files end in an InputError.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import flatbuffers  # pyright: ignore[reportMissingTypeStubs]

from bmflow.container.schema import SCALARS, SCHEMA, STRUCTS, SlotField
from bmflow.errors import InputError

Table = dict[str, Any]
MakeBlob = Callable[[int, int], Any]
PlaceBlob = Callable[[Any], tuple[int, int]]

_REUSE_LIMIT = 8
"""A sound file refers to few bytes twice; one that makes us read more than so many times its size is refused."""


def parse(data: bytes, root: str, blob: MakeBlob, where: str) -> Table:
    """Read the root table.

    Args:
        blob: makes the value of a `Binary` from its start and size.
        where: begins every error message.
    Raises:
        InputError: an offset outside the data, a missing required field, a text that is not UTF-8.
    """
    reader = _Reader(data, blob, where)
    return reader.table(root, reader.follow(0, 4))


class _Reader:
    """Bounds-checked access to a flatbuffer."""

    def __init__(self, data: bytes, blob: MakeBlob, where: str) -> None:
        self._data = data
        self._blob = blob
        self._where = where
        self._budget = _REUSE_LIMIT * len(data) + 1024

    def table(self, name: str, at: int) -> Table:
        """The table at `at`."""
        vtable, slots, size = self._vtable(at)
        found: Table = {}
        for field in SCHEMA[name]:
            place = self._scalar("H", vtable + 4 + 2 * field.slot) if field.slot < slots else 0
            if place:
                found[field.name] = self._field(field, at, place, size)
            elif field.required:
                self._refuse(at, f"{name} has no {field.name}")
            elif field.kind in SCALARS and not field.vector:
                found[field.name] = field.default
        return found

    def follow(self, at: int, align: int) -> int:
        """Where the offset stored at `at` points to."""
        place = at + int(self._scalar("I", at))
        self._require(place > at and place % align == 0, at, "an offset leads nowhere")
        self._span(place, 4)
        return place

    def _vtable(self, at: int) -> tuple[int, int, int]:
        """Position of a table's vtable, its number of slots, and the bytes of the table."""
        vtable = at - int(self._scalar("i", at))
        self._span(vtable, 4)
        length, size = int(self._scalar("H", vtable)), int(self._scalar("H", vtable + 2))
        self._require(length >= 4 and length % 2 == 0 and size >= 4, at, "a table has no valid list of fields")
        self._span(vtable, length)
        self._span(at, size)
        self._spend(size + length, at)
        return vtable, (length - 4) // 2, size

    def _field(self, field: SlotField, table: int, place: int, size: int) -> Any:
        """Value of a field stored `place` bytes into a table of `size` bytes."""
        inline = 4 if field.vector else _inline_bytes(field.kind)
        if not 4 <= place <= size - inline:
            self._refuse(table, f"{field.name} lies outside its table")
        if field.vector:
            return self._vector(field.kind, self.follow(table + place, 4))
        return self._value(field.kind, table + place)

    def _value(self, kind: str, at: int) -> Any:
        if kind in SCALARS:
            return self._scalar(SCALARS[kind][0], at)
        if kind in STRUCTS:
            return self._struct(kind, at)
        if kind == "string":
            return self._string(self.follow(at, 4))
        return self.table(kind, self.follow(at, 4))

    def _vector(self, kind: str, at: int) -> Any:
        count, step = int(self._scalar("I", at)), _inline_bytes(kind)
        first = at + 4
        self._span(first, count * step)
        self._spend(count * step + 4, at)
        if kind == "u8":
            return bytes(self._data[first : first + count])
        if kind in SCALARS:
            self._require(not count or first % SCALARS[kind][1] == 0, at, "a list is not aligned")
            return list(struct.unpack_from(f"<{count}{SCALARS[kind][0]}", self._data, first))
        return [self._value(kind, first + index * step) for index in range(count)]

    def _string(self, at: int) -> str:
        size = int(self._scalar("I", at))
        self._span(at + 4, size)
        self._spend(size + 4, at)
        try:
            return self._data[at + 4 : at + 4 + size].decode()
        except UnicodeDecodeError:
            self._refuse(at, "a text is not UTF-8")

    def _struct(self, kind: str, at: int) -> Any:
        layout, size, align = STRUCTS[kind]
        self._span(at, size)
        self._require(at % align == 0, at, f"a {kind} is not aligned")
        values = struct.unpack_from(f"<{layout}", self._data, at)
        return self._blob(values[0], values[1]) if kind == "Binary" else list(values)

    def _scalar(self, layout: str, at: int) -> Any:
        size = struct.calcsize(layout)
        self._span(at, size)
        self._require(at % size == 0, at, "a number is not aligned")
        return struct.unpack_from(f"<{layout}", self._data, at)[0]

    def _span(self, at: int, size: int) -> None:
        if at < 0 or at + size > len(self._data):
            self._refuse(at, f"{size} bytes are expected there, the description ends at {len(self._data)}")

    def _spend(self, size: int, at: int) -> None:
        self._budget -= size
        self._require(self._budget >= 0, at, "the same bytes are referred to again and again")

    def _require(self, condition: bool, at: int, reason: str) -> None:
        if not condition:
            self._refuse(at, reason)

    def _refuse(self, at: int, reason: str) -> NoReturn:
        raise InputError(f"{self._where}: the description of the model is damaged at byte {at}: {reason}; get the file again")


def _inline_bytes(kind: str) -> int:
    if kind in SCALARS:
        return SCALARS[kind][1]
    return STRUCTS[kind][1] if kind in STRUCTS else 4


def build(root: str, table: Table, blob: PlaceBlob) -> bytes:
    """Write the root table; `blob` gives start and size of each `Binary` value. Unknown names are a defect of the caller."""
    builder: Any = flatbuffers.Builder(4096)
    builder.Finish(_build_table(builder, root, table, blob))
    return bytes(builder.Output())


def _build_table(builder: Any, name: str, table: Table, blob: PlaceBlob) -> int:
    fields = SCHEMA[name]
    assert table.keys() <= {field.name for field in fields}, f"{name} has no {set(table) - {field.name for field in fields}}"
    present = [field for field in fields if table.get(field.name) is not None]
    outside = {field.name: _build_outside(builder, field, table[field.name], blob) for field in present if _is_outside(field)}
    builder.StartObject(max(field.slot for field in fields) + 1)
    for field in present:
        if field.name in outside:
            builder.PrependUOffsetTRelativeSlot(field.slot, outside[field.name], 0)
        elif field.kind in STRUCTS:
            builder.PrependStructSlot(field.slot, _put_struct(builder, field.kind, table[field.name], blob), 0)
        else:
            getattr(builder, f"Prepend{_WRITERS[field.kind]}Slot")(field.slot, table[field.name], field.default)
    return builder.EndObject()


def _is_outside(field: SlotField) -> bool:
    """Whether the value lies elsewhere and the table holds its offset."""
    return field.vector or (field.kind not in SCALARS and field.kind not in STRUCTS)


def _build_outside(builder: Any, field: SlotField, value: Any, blob: PlaceBlob) -> int:
    if field.vector:
        return _build_vector(builder, field.kind, value, blob)
    return builder.CreateString(value) if field.kind == "string" else _build_table(builder, field.kind, value, blob)


def _build_vector(builder: Any, kind: str, values: Sequence[Any], blob: PlaceBlob) -> int:
    if kind == "u8":
        return builder.CreateByteVector(bytes(values))
    if kind in STRUCTS:
        _, size, align = STRUCTS[kind]
        builder.StartVector(size, len(values), align)
        for value in reversed(values):
            _put_struct(builder, kind, value, blob)
        return builder.EndVector()
    if kind in SCALARS:
        size = SCALARS[kind][1]
        builder.StartVector(size, len(values), size)
        for value in reversed(values):
            getattr(builder, f"Prepend{_WRITERS[kind]}")(value)
        return builder.EndVector()
    offsets = [_build_table(builder, kind, value, blob) for value in values]
    builder.StartVector(4, len(values), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _put_struct(builder: Any, kind: str, value: Any, blob: PlaceBlob) -> int:
    layout, size, align = STRUCTS[kind]
    members = blob(value) if kind == "Binary" else value
    builder.Prep(align, size)
    for member in reversed(members):
        builder.PrependUint64(member) if layout[0] == "Q" else builder.PrependUint32(member)
    return builder.Offset()


_WRITERS = {"u8": "Uint8", "i32": "Int32", "u32": "Uint32", "f32": "Float32", "u64": "Uint64"}
