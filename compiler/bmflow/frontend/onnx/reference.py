"""Run the original ONNX graph in onnxruntime, every inner tensor exposed when asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, helper

from bmflow.errors import InputError
from bmflow.frontend.onnx.reader import network_inputs, read_model

_HIDDEN = ("Cast", "Constant", "Dropout", "Loop")


def run_onnx(
    model: ModelProto | str | Path,
    inputs: Mapping[str, np.ndarray],
    all_tensors: bool = False,
    threads: int | None = None,
    fused: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, np.ndarray]:
    """Run an ONNX graph once.

    Args:
        inputs: arrays by input name; converted to the type that the graph declares.
        all_tensors: return the network inputs and every node's outputs under `<output>_<OpType>` instead of the graph outputs by name.
        fused: operator by output, where a chain of nodes counts as one (`Imported.fused`).
    Returns:
        floats as float32, other types as they are.
    Raises:
        InputError: a missing input, or onnxruntime refuses the graph or the arrays.
    """
    graph = read_model(model) if isinstance(model, str | Path) else model
    keys = _layer_keys(graph, fused) if all_tensors else {value.name: value.name for value in graph.graph.output}
    feeds = _feeds(graph, inputs)
    try:
        session = _session(_with_outputs(graph, list(keys)), threads)
        values = session.run(list(keys), feeds)
    except Exception as error:  # onnxruntime's errors share no base
        raise InputError(f"onnxruntime cannot run the original model: {str(error).splitlines()[0]}") from error
    results = {keys[name]: _real(np.asarray(value)) for name, value in zip(keys, values, strict=True)}
    return {name: _real(array) for name, array in feeds.items()} | results if all_tensors else results


def _layer_keys(model: ModelProto, fused: Mapping[str, str]) -> dict[str, str]:
    made = {name: node.op_type for node in model.graph.node if node.op_type not in _HIDDEN for name in node.output if name}
    return {name: f"{name}_{kind}" for name, kind in (made | dict(fused)).items()}


def _with_outputs(model: ModelProto, names: list[str]) -> ModelProto:
    result = ModelProto()
    result.CopyFrom(model)
    del result.graph.output[:]
    result.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return result


def _session(model: ModelProto, threads: int | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _feeds(model: ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    feeds = {}
    for value in network_inputs(model):
        if value.name not in inputs:
            raise InputError(f"no array for the input {value.name}; found {', '.join(inputs) or 'none'}")
        feeds[value.name] = inputs[value.name].astype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    return feeds


def _real(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if np.issubdtype(array.dtype, np.floating) else array
