"""The verbs of model_tool: look into bmodel files, cut them, join them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bmflow import artifacts, target
from bmflow.container import bmodel, edit, image, report
from bmflow.container.flat import Table
from bmflow.container.model import Net, Stage
from bmflow.errors import InputError
from bmflow.isa import tables
from bmflow.isa.decode import decode_stream
from bmflow.isa.disassemble import disassemble
from bmflow.isa.tables import ENGINES, Engine

COMPILED, INPUTS, OUTPUTS = "compilation.bmodel", "input_ref_data.dat", "output_ref_data.dat"
"""Files of the folder that the vendor's test program runs."""


def read_bytes(path: str | Path) -> bytes:
    """Content of a file.

    Raises:
        InputError: it is missing or cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a file") from error


def _load(path: str | Path) -> Table:
    return image.load(read_bytes(path), str(path))


def info(path: str) -> str:
    """The short form: processor, nets, stages, inputs, outputs, memory."""
    return report.info(_load(path))


def describe(path: str) -> str:
    """The whole description as json."""
    _load(path)
    return report.description(image.load_description(read_bytes(path), path))


def weights(path: str) -> str:
    """Where each weight lies."""
    return report.weights(_load(path))


def chip(path: str) -> str:
    """Name of the processor, alone."""
    return str(_load(path)["chip"])


def dump(path: str, start: int, size: int, out: str) -> None:
    """Write `size` bytes of the binary section from `start` on to a file.

    Raises:
        InputError: the range is not inside the binary section.
    """
    _, pool = image.sections(read_bytes(path), path)
    if start < 0 or size < 1 or start + size > len(pool):
        raise InputError(
            f"{path}: bytes {start}..{start + size} were asked for, the binary section has 0..{len(pool)}; see --print for what lies where"
        )
    artifacts.write_bytes(out, bytes(pool[start : start + size]))


def extract(path: str, folder: str) -> list[Path]:
    """Write one file per net and stage into `folder`; returns their paths."""
    parts = edit.extract(_load(path))
    if not parts:
        raise InputError(f"{path}: holds no stage to extract; is it the right file?")
    written: list[Path] = []
    for part in parts:
        written.append(Path(folder) / part.file_name)
        artifacts.write_bytes(written[-1], image.store(part.model))
    return written


def combine(paths: Sequence[str], out: str) -> str:
    """Join files into one; returns its short form."""
    model = edit.combine([(path, _load(path)) for path in paths], bmodel.creation_time())
    artifacts.write_bytes(out, image.store(model))
    return report.info(model)


def combine_folders(folders: Sequence[str], out: str) -> str:
    """Join folders of a bmodel with its reference inputs and outputs into one such folder; returns the short form.

    Raises:
        InputError: a file is missing, or reference data are not as long as the model's tensors.
    """
    models = [(str(Path(folder) / COMPILED), _load(Path(folder) / COMPILED)) for folder in folders]
    model = edit.combine(models, bmodel.creation_time())
    data = {name: _joined_references(folders, [table for _, table in models], model, name, ports) for name, ports in _REFERENCES.items()}
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot make this folder ({error.strerror}); choose another -o") from error
    for name, content in {COMPILED: image.store(model), **data}.items():
        artifacts.write_bytes(Path(out) / name, content)
    return report.info(model)


_REFERENCES = {INPUTS: "input_tensor", OUTPUTS: "output_tensor"}


def _joined_references(folders: Sequence[str], models: Sequence[Table], combined: Table, name: str, ports: str) -> bytes:
    """Reference tensors of all stages, in the order of the combined file: net by net, stage by stage."""
    pieces: dict[str, list[bytes]] = {net["name"]: [] for net in combined["net"]}
    for folder, model in zip(folders, models, strict=True):
        path = Path(folder) / name
        data = read_bytes(path)
        sizes = [
            (net["name"], sum(tensor["size"] for tensor in stage[ports])) for net in model["net"] for stage in net.get("parameter", [])
        ]
        if len(data) != sum(size for _, size in sizes):
            raise InputError(
                f"{path}: {len(data)} bytes, the tensors of {COMPILED} beside it take {sum(size for _, size in sizes)}; make the folder anew"
            )
        for net, size in sizes:
            pieces[net].append(data[:size])
            data = data[size:]
    return b"".join(piece for stages in pieces.values() for piece in stages)


def listing(path: str) -> str:
    """All commands of all nets and stages as text, with the layers they belong to where the file says so.

    Raises:
        InputError: the processor has no instruction table, or a stream cannot be decoded.
    """
    model = bmodel.read(read_bytes(path), path)
    name = next((name for name in target.names() if target.load(name).chip == model.chip and target.load(name).isa), "")
    if not name:
        raise InputError(
            f"{path}: is for {model.chip}, whose instructions this version does not know; it knows those of {', '.join(_readable())}"
        )
    return "\n".join(
        text for net in model.nets for number, stage in enumerate(net.stages) for text in _stage_listing(path, net, number, stage, name)
    )


def _readable() -> list[str]:
    return [target.load(name).chip for name in target.names() if target.load(name).isa]


def _stage_listing(path: str, net: Net, number: int, stage: Stage, processor: str) -> list[str]:
    described = target.load(processor)
    isa = tables.load(described.isa)
    texts: list[str] = []
    for index, group in enumerate(stage.groups):
        for engine, data in zip(ENGINES, (group.tiu, group.gdma), strict=True):
            where = f"net {net.name}, stage {number}, group {index}, {engine}"
            commands = decode_stream(isa, engine, data, f"{path}: {where}")
            notes = _layer_notes(stage, engine) if len(stage.groups) == 1 else {}
            texts += [f"# {where}: {len(commands)} commands, {len(data)} bytes", disassemble(isa, commands, described.memory, notes), ""]
    return texts


def _layer_notes(stage: Stage, engine: Engine) -> Mapping[int, str]:
    """By the id of its first command: name and operator of each layer that has commands of this engine."""
    firsts = [(layer.first_tiu if engine == "TIU" else layer.first_gdma, layer) for layer in stage.layers]
    return {first: f"{layer.name} ({layer.op})" for first, layer in firsts if first}
