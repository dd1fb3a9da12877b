"""Where each command of a stream begins, by the rule of the runtime that loads it, not by the tables.

The runtime copies a stream command by command with lengths of its own; a stream on which that rule and the tables disagree
would overrun its buffer (bmodel format notes, 4.3). A stream ends with an end command and zeros up to a multiple of 128 bytes.
"""

from __future__ import annotations

from collections.abc import Callable

from bmflow.errors import InputError
from bmflow.isa.tables import Engine

ALIGNMENT = 128
"""Streams are padded with zeros to a multiple of this many bytes."""
_TIU_END = (15, 31)
_GDMA_SYSTEM = 6


def walk(engine: Engine, data: bytes, where: str = "command stream") -> list[int]:
    """Offsets of all commands of a padded stream, the end command included; [] for an empty stream.

    Raises:
        InputError: a type the runtime does not know, no end command, or something other than zeros after it.
    """
    if not data:
        return []
    if len(data) % ALIGNMENT:
        raise InputError(
            f"{where}: {len(data)} bytes, expected a multiple of {ALIGNMENT}; the file is damaged or not made for this processor"
        )
    step = _STEPS[engine]
    offsets: list[int] = []
    offset, ended = 0, False
    while not ended:
        if offset >= len(data):
            raise InputError(f"{where}: no end command in {len(data)} bytes; the file is damaged or not made for this processor")
        size, ended = step(data, offset, where)
        offsets.append(offset)
        offset += size
    if offset > len(data) or len(data) - offset >= ALIGNMENT or any(data[offset:]):
        raise InputError(
            f"{where}, byte {offset}: the end command must be followed by zeros to the next multiple of {ALIGNMENT} and nothing else"
        )
    return offsets


def _step_tiu(data: bytes, offset: int, where: str) -> tuple[int, bool]:
    head = int.from_bytes(data[offset : offset + 8], "little")
    kind, operation = head >> 41 & 15, head >> 45 & 31
    if kind in (12, 15):
        return 16, (kind, operation) == _TIU_END
    if not head & 1:
        return 128, False
    size = _short_size(kind, operation)
    if not size:
        raise InputError(f"{where}, byte {offset}: the runtime knows no short command of type {kind}; the file is damaged")
    return size, False


def _short_size(kind: int, operation: int) -> int:
    """Bytes of a short TIU command; 0 for types that stop the runtime."""
    if kind == 2:
        return 32 if operation > 3 else 48
    if kind == 3:
        return 16 if operation in (24, 25) else 64
    return _SHORT_SIZES.get(kind, 0)


def _step_gdma(data: bytes, offset: int, where: str) -> tuple[int, bool]:
    head = int.from_bytes(data[offset : offset + 8], "little")
    system = head >> 32 & 15 == _GDMA_SYSTEM
    return (16, True) if system else (96, False)


_SHORT_SIZES = {0: 64, 1: 64, 4: 32, 5: 32, 6: 48, 9: 32, 10: 32, 13: 48, 14: 48}
_STEPS: dict[Engine, Callable[[bytes, int, str], tuple[int, bool]]] = {"TIU": _step_tiu, "GDMA": _step_gdma}
