"""The verb of model_runner: feed an npz file to a network of any kind and save what comes out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bmflow import artifacts
from bmflow.errors import InputError, nearest_names

LOG = logging.getLogger("bmflow")
Arrays = dict[str, np.ndarray]
LARGE_BYTES = 256 << 20


@dataclass(frozen=True)
class RunOptions:
    """What model_runner was asked to do: every layer instead of the outputs; raw integers of a bmodel instead of real values."""

    input: str
    model: str
    output: str = "_output.npz"
    all_tensors: bool = False
    fixed: bool = False


def run(options: RunOptions) -> Arrays:
    """Run once, save the result to `output` and return it.

    Floats are float32. Keys: ONNX graph outputs by their own name, with all_tensors `<tensor>_<OpType>`; otherwise layer names, for a module
    the outputs and the values before their final Cast.
    Raises:
        InputError: a file cannot be used, or an input is missing or has another shape.
    """
    runners = {".onnx": _run_onnx, ".mlir": _run_mlir, ".bmodel": _run_bmodel}
    runner = runners.get(Path(options.model).suffix)
    if runner is None:
        raise InputError(f"--model {options.model}: cannot run this kind of file; expected one of {', '.join(runners)}")
    if not Path(options.model).is_file():
        raise InputError(f"--model {options.model}: no such file")
    if options.fixed and runner is not _run_bmodel:
        raise InputError(f"--out_fixed: only a compiled model has raw outputs, {options.model} is none")
    results = runner(options, artifacts.load_npz(options.input))
    artifacts.save_npz(options.output, results)
    return results


def match_inputs(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int | None, ...]], where: str) -> Arrays:
    """Choose and check the array of every network input; a lone array serves a lone input whatever its name.

    Args:
        shapes: expected shape by input name; None is a dimension of any size.
    Raises:
        InputError: naming what is missing or misshapen.
    """
    if len(arrays) == len(shapes) == 1:
        arrays = dict(zip(shapes, arrays.values(), strict=True))
    chosen: Arrays = {}
    for name, shape in shapes.items():
        if name not in arrays:
            hint = nearest_names(name, arrays) or f"it holds {', '.join(list(arrays)[:5]) or 'nothing'}"
            raise InputError(f"{where}: no array for the input {name}; {hint}")
        found = arrays[name].shape
        if len(found) != len(shape) or any(want not in (None, have) for want, have in zip(shape, found, strict=True)):
            wanted = ["any" if want is None else want for want in shape]
            raise InputError(f"{where}: input {name} has the shape {list(found)}, the network takes {wanted}")
        chosen[name] = arrays[name]
    return chosen


def _run_onnx(options: RunOptions, arrays: Arrays) -> Arrays:
    from bmflow.frontend.onnx.reader import dims_of, network_inputs, read_model
    from bmflow.frontend.onnx.reference import run_onnx

    model = read_model(options.model)
    shapes = {value.name: tuple(d if isinstance(d, int) and d > 0 else None for d in dims_of(value)) for value in network_inputs(model)}
    return run_onnx(model, match_inputs(arrays, shapes, options.input), options.all_tensors)


def _run_mlir(options: RunOptions, arrays: Arrays) -> Arrays:
    from bmflow.driver.validate import real_values
    from bmflow.ir.module import Module
    from bmflow.ir.types import shape_of

    module = Module.load(options.model)
    shapes = {op.layer_name: shape_of(op.output) for op in module.inputs}
    return real_values(module, match_inputs(arrays, shapes, options.input), options.all_tensors)


def _run_bmodel(options: RunOptions, arrays: Arrays) -> Arrays:
    from bmflow.container import bmodel
    from bmflow.driver import companions
    from bmflow.simulator import Simulator

    data = Path(options.model).read_bytes()
    if len(data) > LARGE_BYTES:
        LOG.warning("%s: %d MiB; simulating a model of this size takes minutes", options.model, len(data) >> 20)
    simulator = Simulator(bmodel.read(data, options.model))
    inputs = match_inputs(arrays, {tensor.name: tensor.shape for tensor in simulator.inputs}, options.input)
    simulation = simulator.run(inputs, check=False, layers="all" if options.all_tensors else None)
    tensors = {tensor.name: tensor for tensor in simulator.outputs} | {span.name: span.tensor for span in simulator.stage.layers}
    raw = simulation.tensors | simulation.outputs
    folder = Path(options.model).with_suffix("")
    if folder.is_dir():
        companions.write_references(folder, simulator, inputs, simulation.outputs)
    return {name: value if options.fixed else tensors[name].to_real(value) for name, value in raw.items()}
