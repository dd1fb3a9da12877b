"""Read an ONNX file and give it the input shapes and outputs the user asked for, before anything is converted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, NodeProto, ValueInfoProto

from bmflow.errors import InputError, nearest_names

OLDEST_OPSET, NEWEST_OPSET = 9, 21


def read_model(path: str | Path) -> ModelProto:
    """Load an ONNX model with its external data.

    Raises:
        InputError: missing or unreadable file, not a model, truncated, or of an opset outside 9 to 21.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; expected an ONNX model")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise InputError(f"{path}: not an ONNX model, or cut short while copying ({error}); fetch or export it again") from error
    _check_graph(model, path)
    _load_external(model, path)
    return model


def _load_external(model: ModelProto, path: str | Path) -> None:
    try:
        onnx.load_external_data_for_model(model, str(Path(path).parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise InputError(f"{path}: its external weights cannot be read ({error}); keep the data files beside the model") from error


def _check_graph(model: ModelProto, path: str | Path) -> None:
    if not model.graph.node or not model.graph.output:
        raise InputError(f"{path}: not an ONNX model: it holds no operators; was it cut short while copying?")
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions or not OLDEST_OPSET <= versions[0] <= NEWEST_OPSET:
        found = versions[0] if versions else "none"
        raise InputError(f"{path}: opset {found}; expected {OLDEST_OPSET} to {NEWEST_OPSET}; export the model with another opset")
    known = {value.name for value in (*model.graph.input, *model.graph.initializer)} | {""}
    known |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    for node in model.graph.node:
        if not isinstance(node.op_type, str) or not isinstance(node.domain, str):  # bytes: what protobuf gives for broken UTF-8
            raise InputError(f"{path}: an operator's name is no text; the file is damaged")
        missing = [name for name in node.input if name not in known]
        if missing:
            raise InputError(f"{path}: {label(node)} reads {missing[0]}, which nothing before it makes; the file is cut short or damaged")
        known |= set(node.output)
    absent = [value.name for value in model.graph.output if value.name not in known]
    if absent:
        raise InputError(f"{path}: nothing makes the output {absent[0]}; the file is cut short or damaged")


def opset_of(model: ModelProto) -> int:
    """Version of the default operator set."""
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def label(node: NodeProto) -> str:
    """Layer name of a node: `<first output>_<OpType>`."""
    return f"{next((name for name in node.output if name), node.name)}_{node.op_type}"


def network_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """Graph inputs that are no initializers, in order."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def dims_of(value: ValueInfoProto) -> list[int | str]:
    """Dimensions of a declared tensor; a dynamic one is its symbol, or `?`."""
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in value.type.tensor_type.shape.dim]


def set_input_shapes(model: ModelProto, shapes: Sequence[Sequence[int]]) -> None:
    """Fix the shapes of the network inputs, in order; without `shapes` they must be static already.

    Raises:
        InputError: wrong number of shapes, wrong rank, dimension below 1, or a dynamic dimension left over.
    """
    inputs = network_inputs(model)
    if shapes and len(shapes) != len(inputs):
        names = ", ".join(value.name for value in inputs)
        raise InputError(f"--input_shapes: expected {len(inputs)} shapes, one for each of {names}; found {len(shapes)}")
    for value, shape in zip(inputs, shapes, strict=False):
        _set_shape(value, shape)
    for value in inputs:
        dims = dims_of(value)
        if any(isinstance(d, str) or d < 1 for d in dims):
            text = ",".join(str(d) for d in dims)
            raise InputError(f"input {value.name} has the dynamic shape [{text}]; fix it with --input_shapes, e.g. {_example(dims)}")
    if shapes:
        del model.graph.value_info[:]
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")


def _set_shape(value: ValueInfoProto, shape: Sequence[int]) -> None:
    declared = value.type.tensor_type.shape.dim
    known_rank = value.type.tensor_type.HasField("shape")
    if known_rank and len(shape) != len(declared):
        raise InputError(f"--input_shapes: input {value.name} has {len(declared)} dimensions, found {list(shape)}")
    if any(d < 1 for d in shape):
        raise InputError(f"--input_shapes: input {value.name} needs dimensions of at least 1, found {list(shape)}")
    del declared[:]
    for d in shape:
        declared.add().dim_value = d


def _example(dims: Sequence[int | str]) -> str:
    return "[[" + ",".join("1" if isinstance(d, str) or d < 1 else str(d) for d in dims) + "]]"


def select_outputs(model: ModelProto, names: Sequence[str]) -> None:
    """Make `names` (any tensors of the graph) the outputs, in this order.

    Raises:
        InputError: an unknown name, with the nearest ones.
    """
    if not names:
        return
    made = [name for node in model.graph.node for name in node.output if name]
    for name in names:
        if name not in made:
            hint = nearest_names(name, made) or f"the model's own outputs are {', '.join(v.name for v in model.graph.output)}"
            raise InputError(f"--output_names: no tensor named {name}; {hint}")
    declared = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    chosen = [declared.get(name) or onnx.ValueInfoProto(name=name) for name in names]
    kept = [ValueInfoProto.FromString(value.SerializeToString()) for value in chosen]
    del model.graph.output[:]
    model.graph.output.extend(kept)


def prune(model: ModelProto) -> None:
    """Drop nodes, weights and declared shapes that no output needs; inputs stay."""
    needed = {value.name for value in model.graph.output}
    kept: list[NodeProto] = []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input) | _captured(node)
    _keep(model.graph.node, list(reversed(kept)))
    _keep(model.graph.initializer, [t for t in model.graph.initializer if t.name in needed])
    _keep(model.graph.value_info, [v for v in model.graph.value_info if v.name in needed])


def _captured(node: NodeProto) -> set[str]:
    """Tensors that the subgraphs of If and Loop read."""
    graphs = [a.g for a in node.attribute if a.HasField("g")]
    return {name for graph in graphs for inner in graph.node for name in (*inner.input, *_captured(inner))}


def _keep(field: object, kept: list) -> None:  # pyright: ignore[reportMissingTypeArgument]
    copies = [type(item).FromString(item.SerializeToString()) for item in kept]
    del field[:]  # pyright: ignore[reportIndexIssue]
    field.extend(copies)  # pyright: ignore[reportAttributeAccessIssue]
