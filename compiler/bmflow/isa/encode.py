"""Commands into the bits of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from bmflow.errors import CompileError, InputError
from bmflow.isa.program import Command
from bmflow.isa.stream import ALIGNMENT, walk
from bmflow.isa.tables import Engine, InstructionSet


def encode_command(isa: InstructionSet, command: Command) -> bytes:
    """Bits of one command; fields left out are 0.

    Raises:
        CompileError: unknown layout or field, or a value that does not fit its field.
    """
    layout = isa.layout(command.layout)
    fields = layout.fields
    bits = 0
    for name, value in command.fields.items():
        field = fields.get(name) or layout.field(name)
        number = int(value)
        if number < 0 or number >> field.width:
            raise CompileError(f"{layout.name}: field {name} holds 0..{field.limit - 1}, found {number}; make the layer smaller")
        bits |= number << field.offset
    return bits.to_bytes(layout.size_bytes, "little")


def encode_stream(isa: InstructionSet, commands: Sequence[Command]) -> bytes:
    """Bits of a whole stream of one engine, end command included, padded with zeros to a multiple of 128 bytes.

    Raises:
        CompileError: a command that cannot be encoded (its place in the stream, field and value are named), or a stream on which
            the runtime's own length rule disagrees with the tables.
    """
    if not commands:
        return b""
    engine = isa.layout(commands[0].layout).engine
    pieces = [_placed(isa, engine, command, number) for number, command in enumerate(commands, 1)]
    data = b"".join(pieces)
    data += bytes(-len(data) % ALIGNMENT)
    _check_lengths(engine, data, [len(piece) for piece in pieces])
    return data


def _placed(isa: InstructionSet, engine: Engine, command: Command, number: int) -> bytes:
    try:
        data = encode_command(isa, command)
    except CompileError as error:
        raise CompileError(f"{engine} command {number}: {error}") from error
    if isa.identify(engine, int.from_bytes(data[:8], "little")) is not isa.layouts[command.layout]:
        raise CompileError(
            f"{engine} command {number}: {command.layout}: type, operation and form bits are not those of this layout; "
            "set cmd_short, type and operation, and keep the engines apart"
        )
    return data


def _check_lengths(engine: Engine, data: bytes, sizes: list[int]) -> None:
    """Compare with the runtime's rule; a difference would make it read or write past the end of its buffer."""
    try:
        offsets = walk(engine, data, f"{engine} stream")
    except InputError as error:
        raise CompileError(f"the runtime cannot load what was encoded: {error}") from error
    expected = [0, *accumulate(sizes[:-1])]
    if offsets != expected:
        place = next((i for i, (ours, theirs) in enumerate(zip(expected, offsets, strict=False)) if ours != theirs), len(offsets))
        raise CompileError(
            f"{engine} command {place}: the runtime gives it another length than its {sizes[place - 1]} bytes; it cannot be used"
        )
