"""The files beside a compiled model: where its tensors lie, the time estimate, and the folder the board's test program takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bmflow import artifacts
from bmflow.codegen.coefficients import storage_bits
from bmflow.container import layer_table
from bmflow.errors import InputError
from bmflow.ir.attributes import to_attribute

if TYPE_CHECKING:
    from bmflow.ir.module import Module
    from bmflow.isa.program import Program, ProgramTensor
    from bmflow.simulator import Simulator


def addressed(lowered: Module, program: Program) -> str:
    """Text of the lowered module with the place of everything in DDR: memory blocks on the module, `address` on each layer."""
    module = lowered.clone()
    module.set("module.state", "TPU_ADDRESSED")
    module.set("module.coeff_addr", program.coeff_address)
    module.set("module.coeff_size", len(program.coeff))
    module.set("module.neuron_addr", program.ctx_address)
    module.set("module.neuron_size", program.ctx_bytes)
    places = {tensor.name: tensor.address for tensor in (*program.inputs, *(span.tensor for span in program.layers))}
    for op in module.layers():
        op.attributes["address"] = to_attribute(places[op.layer_name])
    return str(module)


def write(model: Path, data: bytes, program: Program, estimate: str) -> None:
    """Write `<model>.json`, `<model>.compiler_profile_0.txt` and the folder for the board with the model and the places of its tensors."""
    places = layer_table.to_json(program.layers, [*program.inputs, *program.outputs])
    artifacts.write_bytes(f"{model}.json", places)
    artifacts.write_text(f"{model}.compiler_profile_0.txt", estimate)
    folder = _folder(model)
    artifacts.write_bytes(folder / "compilation.bmodel", data)
    artifacts.write_bytes(folder / "tensor_location.json", places)


def _folder(model: Path) -> Path:
    folder = model.with_suffix("")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot make this folder ({error.strerror}); choose a writable place for --model") from error
    return folder


def write_references(folder: Path, simulator: Simulator, given: Mapping[str, np.ndarray], raw: Mapping[str, np.ndarray]) -> None:
    """Write input_ref_data.dat and output_ref_data.dat: the tensors in order, dense, in their own types.

    Args:
        given: inputs by name, real values or already in the input's type.
        raw: raw outputs by name.
    """
    inputs = b"".join(_bytes(tensor, _raw(tensor, given[tensor.name])) for tensor in simulator.inputs)
    artifacts.write_bytes(folder / "input_ref_data.dat", inputs)
    artifacts.write_bytes(folder / "output_ref_data.dat", b"".join(_bytes(tensor, raw[tensor.name]) for tensor in simulator.outputs))


def _raw(tensor: ProgramTensor, values: np.ndarray) -> np.ndarray:
    return values if values.dtype == tensor.dtype.numpy else tensor.from_real(values)


def _bytes(tensor: ProgramTensor, raw: np.ndarray) -> bytes:
    return storage_bits(raw, tensor.dtype).tobytes()
