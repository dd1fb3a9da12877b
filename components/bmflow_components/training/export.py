"""A trained detector as an ONNX file that says of itself how its outputs are read."""

# pyright: reportMissingImports=false
# (PyTorch and matplotlib belong to the extra `train`)

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from bmflow import artifacts
from bmflow.errors import CompileError
from bmflow.evaluation.spec import METADATA_KEY, DetectorSpec

from bmflow_components.training.network import STRIDES, Detector

OPSET = 13
LARGEST_DIFFERENCE = 1e-3  # of raw outputs, which are logits of a few units


def export_onnx(network: Detector, spec: DetectorSpec, size: int, path: Path) -> None:
    """Write the network (batch normalisation folded, input 1x3xSIZExSIZE) and compare it with PyTorch on one random picture.

    Raises:
        CompileError: the file does not compute what the network computes.
    """
    network = network.eval().to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]  (its stub forgets this form)
    picture = torch.rand((1, 3, size, size), generator=torch.Generator().manual_seed(0))
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)  # the newer exporter needs packages that torch does not bring
        torch.onnx.export(
            network, (picture,), buffer, dynamo=False,  # pyright: ignore[reportArgumentType]  (only the newer exporter wants a path)
            opset_version=OPSET,
            input_names=["images"], output_names=[f"head{stride}" for stride in STRIDES],
        )  # fmt: skip
        expected = [out.numpy() for out in network(picture)]
    model = onnx.load_from_string(buffer.getvalue())
    model.graph.name = "detector"
    _name_layers(model.graph)
    onnx.helper.set_model_props(model, {METADATA_KEY: spec.text()})
    onnx.checker.check_model(model, full_check=True)
    _compare(model, picture.numpy(), expected)
    artifacts.write_bytes(path, model.SerializeToString(deterministic=True))


def _name_layers(graph: onnx.GraphProto) -> None:
    """Name every inner tensor after its module and operator (`stage2.1/join/conv/Conv`) and weights after their node: reports join on them."""
    ends = {value.name for value in (*graph.input, *graph.output)}
    names = {name: _short(name) for node in graph.node for name in node.output if name not in ends}
    weights = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        owned = [name for name in node.input if name in weights and name not in names]
        names |= {name: f"{_short(node.name)}.{part}" for name, part in zip(owned, ("weight", "bias"), strict=False)}
    if len(set(names.values())) < len(names):
        return  # two layers would share a name: the exporter's own are unique
    for node in graph.node:
        node.name = _short(node.name)
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    del graph.value_info[:]


def _short(name: str) -> str:
    """`/stage2/stage2.1/join/conv/Conv_output_0` -> `stage2.1/join/conv/Conv`: a container's name is already in its members'."""
    parts = name.removesuffix("_output_0").strip("/").split("/")
    return "/".join(part for k, part in enumerate(parts) if k + 1 == len(parts) or not parts[k + 1].startswith(f"{part}."))


def _compare(model: onnx.ModelProto, picture: np.ndarray, expected: list[np.ndarray]) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for node, found, wanted in zip(session.get_outputs(), session.run(None, {"images": picture}), expected, strict=True):
        difference = float(np.abs(np.asarray(found) - wanted).max())
        if not difference <= LARGEST_DIFFERENCE:
            raise CompileError(
                f"output {node.name} of the exported ONNX differs from PyTorch by {difference:g}; expected at most {LARGEST_DIFFERENCE:g}"
            )
