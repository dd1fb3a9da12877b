"""The streams of a stage as decoded instructions, in one order that the waits allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bmflow.container.model import CommandGroup, Stage
from bmflow.errors import InputError
from bmflow.isa.decode import decode_stream
from bmflow.isa.program import Command, LayerSpan
from bmflow.isa.tables import ENGINES, Engine, InstructionSet
from bmflow.isa.tables import load as load_isa
from bmflow.simulator.arith import decode_arith
from bmflow.simulator.conv import decode_conv
from bmflow.simulator.dma import decode_dma
from bmflow.simulator.instruction import Fields, Instruction, Place
from bmflow.simulator.matmul import decode_matmul
from bmflow.simulator.pool import decode_pool
from bmflow.simulator.vector import decode_between_lanes, decode_gather, decode_requant, decode_special_function
from bmflow.target import Target

DECODERS: Mapping[str, Callable[[Fields], None]] = {
    "sCONV": decode_conv,
    "sPorD": decode_pool,
    "sMM2": decode_matmul,
    "sAR": decode_arith,
    "sRQ&sDQ": decode_requant,
    "sSG": decode_gather,
    "sSFU": decode_special_function,
    "sTRANS&sBC": decode_between_lanes,
    "DMA_tensor": decode_dma,
}
ENDS = {"SYSID": ("tsk_eu_typ", 31), "sDMA_sys": ("cmd_special_function", 0)}
"""Commands that end a stream: the field that says so and its value."""


@dataclass(frozen=True)
class Group:
    """The instructions of a command group without the end commands: by engine, and all in an order that respects the waits."""

    tiu: tuple[Instruction, ...]
    gdma: tuple[Instruction, ...]
    order: tuple[Instruction, ...]


def decode_stage(stage: Stage, target: Target, where: str) -> tuple[Group, ...]:
    """Decode all commands of a stage.

    Raises:
        InputError: a command that makes no sense or cannot be simulated, ids out of order, waits that can never end.
    """
    isa = load_isa(target.isa)
    groups: list[Group] = []
    for index, group in enumerate(stage.groups):
        layers = stage.layers if len(stage.groups) == 1 else ()
        prefix = where if len(stage.groups) == 1 else f"{where}, command group {index}"
        tiu, gdma = (_decode_engine(engine, group, isa, stage, layers, target, prefix) for engine in ENGINES)
        groups.append(Group(tuple(tiu), tuple(gdma), tuple(_merge(tiu, gdma, prefix))))
    return tuple(groups)


def _decode_engine(
    engine: Engine, group: CommandGroup, isa: InstructionSet, stage: Stage, layers: Sequence[LayerSpan], target: Target, where: str
) -> list[Instruction]:  # fmt: skip
    data, count = (group.tiu, group.tiu_count) if engine == "TIU" else (group.gdma, group.gdma_count)
    commands = decode_stream(isa, engine, data, f"{where}: {engine} stream")
    if len(commands) != count:
        raise InputError(f"{where}: {len(commands)} {engine} commands, {count} are announced; the file is damaged")
    place = Place(stage.ctx_address, stage.ctx_bytes, stage.coeff_address, len(stage.coeff))
    names = _layer_names(engine, layers, len(commands))
    if commands and not _ends(commands[-1]):
        raise InputError(f"{where}: the last {engine} command is no end; the file is damaged")
    return [
        _decode(engine, number, command, isa, target, place, names[number], where)
        for number, command in enumerate(commands[:-1], start=1)
    ]  # fmt: skip


def _ends(command: Command) -> bool:
    name, value = ENDS.get(command.layout, ("", 1))
    return command.fields.get(name, 0) == value


def _layer_names(engine: Engine, layers: Sequence[LayerSpan], count: int) -> list[str]:
    """Layer of each command id."""
    names = [""] * (count + 1)
    for layer in layers:
        first, last = (layer.first_tiu, layer.last_tiu) if engine == "TIU" else (layer.first_gdma, layer.last_gdma)
        for number in range(max(first, 1), min(last, count) + 1):
            names[number] = layer.name
    return names


def _decode(
    engine: Engine, number: int, command: Command, isa: InstructionSet, target: Target, place: Place, layer: str, where: str
) -> Instruction:  # fmt: skip
    layout = isa.layout(command.layout)
    operation = command.fields.get("tsk_eu_typ" if engine == "TIU" else "cmd_special_function", 0)
    name = layout.operations.get(operation) or command.layout
    instruction = Instruction(engine, number, command.fields.get("cmd_id_dep", 0), name, layer)
    fields = Fields(command, instruction, target, place, where)
    fields.require(fields["cmd_id"] == number, f"it is numbered {fields['cmd_id']}")
    decoder = DECODERS.get(command.layout)
    if decoder is None:
        raise fields.error(f"{command.layout} is something this version cannot simulate")
    decoder(fields)
    return instruction


def _merge(tiu: Sequence[Instruction], gdma: Sequence[Instruction], where: str) -> list[Instruction]:
    """One order in which every command comes after what it waits for.

    Raises:
        InputError: there is none.
    """
    order: list[Instruction] = []
    done = [0, 0]
    streams = (tiu, gdma)
    while done[0] < len(tiu) or done[1] < len(gdma):
        before = len(order)
        for mine, stream in enumerate(streams):
            while done[mine] < len(stream) and stream[done[mine]].wait <= done[1 - mine]:
                order.append(stream[done[mine]])
                done[mine] += 1
        if len(order) == before:
            stuck = next(stream[done[k]] for k, stream in enumerate(streams) if done[k] < len(stream))
            other = ENGINES[1 - ENGINES.index(stuck.engine)]
            raise InputError(
                f"{where}: {stuck} waits for {other} command {stuck.wait}, which never completes before it; the file is damaged"
            )
    return order
