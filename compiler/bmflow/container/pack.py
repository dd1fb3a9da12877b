"""Values into the tables of the flatbuffer. What is written follows the smallest working example of the format notes (9.3)."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from bmflow.container import layer_table
from bmflow.container.flat import Table
from bmflow.container.model import DATA_TYPES, Bmodel, CommandGroup, Net, Stage
from bmflow.isa import tables
from bmflow.isa.encode import encode_stream
from bmflow.isa.program import Program, ProgramTensor

_CODES = {dtype: code for code, dtype in DATA_TYPES.items()}
_INPUT, _OUTPUT = 1, 2
"""Values of `Tensor.hidden`."""
_USED_BY_TPU = 1


def stage_of(program: Program) -> Stage:
    """Encode the streams of a program.

    Raises:
        CompileError: a command cannot be encoded.
    """
    isa = tables.load(program.target.isa)
    group = CommandGroup(encode_stream(isa, program.tiu), encode_stream(isa, program.gdma), len(program.tiu), len(program.gdma))
    return Stage(
        tuple(program.inputs), tuple(program.outputs), program.ctx_address, program.ctx_bytes, program.coeff, program.coeff_address,
        (group,), tuple(program.layers), tuple(program.weights),
    )  # fmt: skip


def model_table(model: Bmodel) -> Table:
    """The root table of a file."""
    unused = {"file_name": "", "binary": b""}
    return {
        "type": "B", "version": model.version, "time": model.time, "chip": model.chip, "net": [_net_table(net) for net in model.nets],
        "neuron_size": max((stage.ctx_bytes for net in model.nets for stage in net.stages), default=0),
        "kernel_module": unused, "cpuop_module": unused,
    }  # fmt: skip


def _net_table(net: Net) -> Table:
    return {"name": net.name, "parameter": [_stage_table(stage) for stage in net.stages], "addr_mode": net.addr_mode}


def _stage_table(stage: Stage) -> Table:
    """A static stage for one core: the command groups stand here and, once more, in its only subnet."""
    inputs, outputs = _port_tables(stage.inputs, _INPUT), _port_tables(stage.outputs, _OUTPUT)
    groups = [_group_table(group) for group in stage.groups]
    subnet = {
        "subnet_mode": 0, "cmd_group": groups, "input_tensor": inputs, "output_tensor": outputs, "id": 0, "next_subnet_ids": [],
        "run_core": 1,
    }  # fmt: skip
    return {
        "input_tensor": inputs, "output_tensor": outputs, "ctx_addr": stage.ctx_address, "ctx_size": stage.ctx_bytes,
        "coeff_mem": _coeff_table(stage) if stage.coeff else None, "cmd_group": groups, "sub_net": [subnet],
        "ctx_sizes": [stage.ctx_bytes], "core_num": 1,
        "tensor_loc": layer_table.to_json(stage.layers, [*stage.inputs, *stage.outputs]) if stage.layers else None,
    }  # fmt: skip


def _coeff_table(stage: Stage) -> Table:
    location = [{"name": span.name, "offset": span.offset, "size": span.size} for span in stage.weights]
    return {
        "address": stage.coeff_address, "check_code": sha256(stage.coeff).digest(), "binary_coeff": stage.coeff,
        "location": location or None,
    }  # fmt: skip


def _group_table(group: CommandGroup) -> Table:
    return {
        "bdc_num": group.tiu_count, "gdma_num": group.gdma_count, "binary_bdc": group.tiu or None, "binary_gdma": group.gdma or None,
        "bdc_cmd_byte": len(group.tiu), "gdma_cmd_byte": len(group.gdma),
    }  # fmt: skip


def _port_tables(tensors: Sequence[ProgramTensor], role: int) -> list[Table]:
    return [_tensor_table(tensor, role, index) for index, tensor in enumerate(tensors)]


def _tensor_table(tensor: ProgramTensor, role: int, index: int) -> Table:
    """A network input or output; an input's scale multiplies real values, an output's multiplies integers."""
    return {
        "name": tensor.name, "data_type": _CODES[tensor.dtype], "gmem_stmode": 0, "device_addr": tensor.address,
        "size": tensor.size_bytes, "shape": [{"dim": list(tensor.shape)}], "mem_type": _USED_BY_TPU,
        "scale": 1 / tensor.scale if role == _INPUT else tensor.scale, "zero_point": tensor.zero_point, "hidden": role, "index": index,
    }  # fmt: skip
