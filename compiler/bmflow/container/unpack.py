"""The tables of the flatbuffer into values, refusing what a simulator of one core with static shapes cannot run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bmflow.container import layer_table
from bmflow.container.flat import Table
from bmflow.container.model import DATA_TYPES, Bmodel, CommandGroup, Net, Stage
from bmflow.errors import InputError
from bmflow.isa.program import ProgramTensor, WeightSpan

_MAX_DIMS = 8
_MAX_BYTES = 1 << 34
"""No known processor has as much memory as that; more means a damaged file."""
_BASIC = 0
"""`addr_mode` in which inputs and outputs lie in the activation memory."""


def bmodel_of(model: Table, where: str) -> Bmodel:
    """Values of a root table.

    Raises:
        InputError: naming net, stage and what this version cannot read.
    """
    nets = tuple(_net(net, f"{where}: net {net['name']}") for net in model["net"])
    if not nets:
        raise InputError(f"{where}: holds no network; is it the right file?")
    return Bmodel(model["version"], model["time"], model["chip"], nets)


def _net(net: Table, where: str) -> Net:
    stages = net.get("parameter", [])
    if not stages:
        raise InputError(f"{where}: has no stage; the file is damaged or made for a device this version does not know")
    mode: int = net["addr_mode"]
    return Net(net["name"], tuple(_stage(stage, mode, f"{where}, stage {index}") for index, stage in enumerate(stages)), mode)


def _stage(stage: Table, addr_mode: int, where: str) -> Stage:
    _require_static(stage, where)
    ctx_address, ctx_bytes = stage["ctx_addr"], sum(stage.get("ctx_sizes", [stage["ctx_size"]]))
    if ctx_bytes > _MAX_BYTES:
        raise InputError(f"{where}: wants {ctx_bytes} bytes of activation memory, no processor has that; the file is damaged")
    layers, ports = layer_table.from_json(stage.get("tensor_loc", b""), where)
    exact = {port.name: port.scale for port in ports}
    inputs = tuple(_tensor(tensor, True, exact, where) for tensor in stage["input_tensor"])
    outputs = tuple(_tensor(tensor, False, exact, where) for tensor in stage["output_tensor"])
    if addr_mode == _BASIC:
        for tensor in (*inputs, *outputs):
            _require_inside(tensor, ctx_address, ctx_bytes, where)
    coeff: Table = stage.get("coeff_mem", {})
    image: bytes = coeff.get("binary_coeff", b"")
    return Stage(
        inputs, outputs, ctx_address, ctx_bytes, image, coeff.get("address", ctx_address), _groups(stage, where), layers,
        tuple(_weight(span, len(image), where) for span in coeff.get("location", [])),
    )  # fmt: skip


def _require_static(stage: Table, where: str) -> None:
    subnets: Sequence[Table] = stage.get("sub_net", [])
    lacks = "this version runs static networks of one core whose layers all run on the processor"
    if stage["is_dynamic"] or any(subnet["is_dynamic"] for subnet in subnets):
        raise InputError(f"{where}: was compiled for dynamic shapes; {lacks}")
    if any(subnet["subnet_mode"] for subnet in subnets):
        raise InputError(f"{where}: has parts that run on the host; {lacks}")
    if stage["core_num"] > 1:
        raise InputError(f"{where}: was compiled for {stage['core_num']} cores; {lacks}")
    if stage.get("coeff_mem", {}).get("encrypt_mode"):
        raise InputError(f"{where}: its weights are encrypted; decrypt the file with the tools of its author first")


def _tensor(tensor: Table, is_input: bool, exact: Mapping[str, float], where: str) -> ProgramTensor:
    where = f"{where}, tensor {tensor['name']}"
    shapes: Sequence[Table] = tensor.get("shape", [])
    dims: Sequence[int] = shapes[0].get("dim", []) if shapes else []
    shape = tuple(dims)
    if len(shape) > _MAX_DIMS or not all(shape):
        raise InputError(f"{where}: shape {list(shape)[: _MAX_DIMS + 1]}, expected up to {_MAX_DIMS} positive sizes; the file is damaged")
    dtype = DATA_TYPES.get(tensor["data_type"])
    if dtype is None:
        raise InputError(f"{where}: type code {tensor['data_type']}, this version knows {', '.join(t.name for t in DATA_TYPES.values())}")
    if tensor["gmem_stmode"]:
        raise InputError(f"{where}: is stored with interleaved batches (mode {tensor['gmem_stmode']}); this version reads plain NCHW only")
    found = ProgramTensor(tensor["name"], shape, dtype, tensor["device_addr"], _scale(tensor, is_input, exact, where), tensor["zero_point"])
    if tensor["size"] != found.size_bytes:
        raise InputError(f"{where}: {tensor['size']} bytes, its shape and type need {found.size_bytes}; the file is damaged")
    return found


def _scale(tensor: Table, is_input: bool, exact: Mapping[str, float], where: str) -> float:
    """Real value of one step; in full precision where the table of layers has it and agrees."""
    stored: float = tensor["scale"]
    if not (math.isfinite(stored) and stored > 0):
        raise InputError(f"{where}: scale {stored}, expected a positive number; the file is damaged")
    known = exact.get(tensor["name"], 0.0)
    if known > 0 and np.float32(1 / known if is_input else known) == np.float32(stored):
        return known
    return 1 / stored if is_input else stored


def _require_inside(tensor: ProgramTensor, start: int, size: int, where: str) -> None:
    if not start <= tensor.address <= start + size - tensor.size_bytes:
        raise InputError(
            f"{where}, tensor {tensor.name}: lies at {tensor.address:#x}, outside of the activation memory "
            f"{start:#x}..{start + size:#x}; the file is damaged"
        )


def _weight(span: Mapping[str, Any], image_bytes: int, where: str) -> WeightSpan:
    if span["offset"] + span["size"] > image_bytes:
        raise InputError(f"{where}: weight {span['name']} ends after the weight image of {image_bytes} bytes; the file is damaged")
    return WeightSpan(span["name"], span["offset"], span["size"])


def _groups(stage: Table, where: str) -> tuple[CommandGroup, ...]:
    """The command groups as the runtime takes them: from the core of subnet 0 if it has one, else from the stage."""
    subnets: Sequence[Table] = stage.get("sub_net", [])
    cores: Sequence[Table] = subnets[0].get("core_commands", []) if subnets else []
    if any(cores[0].get(extra) for extra in ("sdma_commands", "hau_commands", "cdma_commands")) if cores else False:
        raise InputError(f"{where}: has commands for engines other than TIU and GDMA; this version runs those two")
    tables: Sequence[Table] = cores[0].get("gdma_tiu_commands", []) if cores else stage.get("cmd_group", [])
    if not tables:
        raise InputError(f"{where}: has no commands; the file is damaged, or its layers all run on the host")
    return tuple(_group(group, f"{where}, command group {index}") for index, group in enumerate(tables))


def _group(group: Table, where: str) -> CommandGroup:
    tiu, gdma = group.get("binary_bdc", b""), group.get("binary_gdma", b"")
    for engine, stream, size in (("TIU", tiu, group["bdc_cmd_byte"]), ("GDMA", gdma, group["gdma_cmd_byte"])):
        if len(stream) != size:
            raise InputError(f"{where}: its {engine} stream has {len(stream)} bytes, {size} are announced; the file is damaged")
    return CommandGroup(tiu, gdma, group["bdc_num"], group["gdma_num"])
