"""Find the shape of every tensor and the value of every tensor that does not depend on the network inputs.

One walk in program order: constants are computed by onnxruntime, shape arithmetic (Shape, Gather, Concat, ... -> Reshape)
collapses on the way, and target shapes that were frozen when the model was exported follow an overridden input shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from bmflow.errors import InputError
from bmflow.frontend.onnx.reader import dims_of, label, network_inputs, opset_of

Shape = tuple[int, ...]
_SMALL = 256  # elements; larger constants never hold shapes


@dataclass
class Resolved:
    """What is known before the network runs: types with shapes, and constant values by tensor name."""

    types: dict[str, TypeProto] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def shape(self, name: str) -> Shape | None:
        """Static shape of a tensor; None when it is not known."""
        if name in self.constants:
            return self.constants[name].shape
        kind = self.types.get(name)
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        dims = kind.tensor_type.shape.dim
        return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None


def resolve(model: ModelProto, exported: Resolved | None = None) -> Resolved:
    """Walk the graph once; `exported` is the same walk with the shapes the model was exported with.

    Raises:
        InputError: shapes that do not fit together, with the layer name.
    """
    result = Resolved(constants={t.name: numpy_helper.to_array(t) for t in model.graph.initializer})
    result.types = {value.name: TypeProto.FromString(value.type.SerializeToString()) for value in network_inputs(model)}
    for node in model.graph.node:
        if exported is not None:
            _follow_new_shape(node, result, exported)
        values = _constant_outputs(node, result, model)
        if values is None:
            result.types |= _infer(node, result, model)
        else:
            result.constants |= values
    return result


def exported_shapes(model: ModelProto, shapes: Sequence[Sequence[int]]) -> Resolved | None:
    """`resolve` with the declared input shapes, dynamic dimensions taken from `shapes`; None when those do not fit the inputs."""
    filled = ModelProto.FromString(model.SerializeToString())
    inputs = network_inputs(filled)
    if len(shapes) != len(inputs):
        return None
    for value, shape in zip(inputs, shapes, strict=True):
        declared = dims_of(value)
        if len(declared) != len(shape):
            return None
        for dim, old, new in zip(value.type.tensor_type.shape.dim, declared, shape, strict=True):
            dim.dim_value = old if isinstance(old, int) and old > 0 else new
    return resolve(filled)


def _constant_outputs(node: NodeProto, known: Resolved, model: ModelProto) -> dict[str, np.ndarray] | None:
    """Values of a node's outputs when they follow from constants and shapes alone."""
    if node.op_type == "Constant":
        return {node.output[0]: _constant(node)}
    if node.op_type in ("Shape", "Size"):
        return _shape_value(node, known)
    if any(name and name not in known.constants for name in node.input) or node.op_type.startswith("Random"):
        return None
    return _compute(node, known, model)


def _constant(node: NodeProto) -> np.ndarray:
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if attribute.name not in kinds:
        raise InputError(f"{label(node)}: a constant of kind {attribute.name}; expected numbers")
    return np.array(value, kinds[attribute.name])


def _shape_value(node: NodeProto, known: Resolved) -> dict[str, np.ndarray] | None:
    shape = known.shape(node.input[0])
    if shape is None:
        return None
    if node.op_type == "Size":
        return {node.output[0]: np.array(math.prod(shape), np.int64)}
    attributes = {a.name: a.i for a in node.attribute}
    return {node.output[0]: np.array(shape[attributes.get("start", 0) : attributes.get("end", len(shape))], np.int64)}


def _compute(node: NodeProto, known: Resolved, model: ModelProto) -> dict[str, np.ndarray] | None:
    """Run one node on constants in onnxruntime; None when onnxruntime cannot."""
    names = list(dict.fromkeys(name for name in node.input if name))
    arrays = {name: known.constants[name] for name in names}
    outputs = [name for name in node.output if name]
    graph = helper.make_graph(
        [node],
        "constant",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in arrays.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )
    single = helper.make_model(graph, opset_imports=model.opset_import, ir_version=min(model.ir_version, 10))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        session = onnxruntime.InferenceSession(single.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return {name: np.asarray(value) for name, value in zip(outputs, session.run(None, arrays), strict=True)}
    except Exception:  # onnxruntime's errors share no base; the node stays in the graph and is judged by its converter
        return None


def _infer(node: NodeProto, known: Resolved, model: ModelProto) -> dict[str, TypeProto]:
    """Types of a node's outputs; empty when an input or the operator is unknown."""
    names = [name for name in node.input if name]
    types = {
        n: known.types[n] if n in known.types else _type_of(known.constants[n]) for n in names if n in known.types or n in known.constants
    }
    if len(types) < len(set(names)) or not onnx.defs.has(node.op_type, opset_of(model), node.domain):
        return {}
    schema = onnx.defs.get_schema(node.op_type, opset_of(model), node.domain)
    data = {n: _tensor(known.constants[n], n) for n in names if n in known.constants and known.constants[n].size <= _SMALL}
    try:
        return onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=list(model.opset_import))
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        shapes = ", ".join(f"{name} {list(known.shape(name) or ())}" for name in names)
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"{label(node)}: its inputs ({shapes}) do not fit: {reason}; check the model and --input_shapes") from error


def _type_of(array: np.ndarray) -> TypeProto:
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _tensor(array: np.ndarray, name: str) -> TensorProto:
    return numpy_helper.from_array(array, name)


def _follow_new_shape(node: NodeProto, new: Resolved, old: Resolved) -> None:
    """Rewrite a frozen Reshape target or Resize size after an input shape has changed; the constant becomes one of this node."""
    index = {"Reshape": 1, "Resize": 3}.get(node.op_type)
    if index is None or len(node.input) <= index or node.input[index] not in new.constants:
        return
    name = node.input[index]
    before, after = old.shape(node.input[0]), new.shape(node.input[0])
    if before is None or after is None or before == after or name not in old.constants:
        return
    if not np.array_equal(old.constants[name], new.constants[name]):
        return
    target = [int(d) for d in new.constants[name]]
    fixed = _fixed_target(target, before, after) if node.op_type == "Reshape" else _fixed_sizes(target, before, after)
    if fixed is None:
        raise InputError(
            f"{label(node)}: cannot bring {list(after)} into the shape {target} that the model was exported with; export it again"
        )
    node.input[index] = f"{name}_{node.output[0]}_shape"
    new.constants[node.input[index]] = np.array(fixed, np.int64)


def _fixed_sizes(target: Sequence[int], before: Shape, after: Shape) -> list[int] | None:
    scaled = [d * new / old for d, old, new in zip(target, before, after, strict=True)]
    return [int(d) for d in scaled] if all(d == int(d) for d in scaled) else None


def _fixed_target(target: Sequence[int], before: Shape, after: Shape) -> list[int] | None:
    """Target shape for the new input: the smallest groups of dimensions that a reshape regroups follow their sources one by one."""
    old = _explicit(target, before)
    if old is None or len(before) != len(after):
        return None
    result: list[int] = []
    for sources, targets in _groups(before, old):
        free = next((i - targets.start for i in targets if target[i] == -1), None)
        group = _fixed_group([old[i] for i in targets], math.prod(after[i] for i in sources), free)
        if group is None:
            return None
        result += group
    return result


def _explicit(target: Sequence[int], source: Shape) -> list[int] | None:
    """Target with 0 (copy) and -1 (the rest) written out; None when it does not fit the source."""
    copied = [source[i] if d == 0 and i < len(source) else d for i, d in enumerate(target)]
    rest, count = math.prod(d for d in copied if d != -1), math.prod(source)
    if rest < 1 or count % rest:
        return None
    filled = [count // rest if d == -1 else d for d in copied]
    return filled if math.prod(filled) == count else None


def _groups(before: Shape, after: Sequence[int]) -> list[tuple[range, range]]:
    """Cut two shapes of equal size into the shortest runs of dimensions with equal products."""
    groups, i, j = [], 0, 0
    while i < len(before) and j < len(after):
        start_i, start_j, left, right = i, j, before[i], after[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * before[i], i + 1
            else:
                right, j = right * after[j], j + 1
        groups.append((range(start_i, i), range(start_j, j)))
    if groups and (i < len(before) or j < len(after)):  # ones at the end of the longer shape
        first_i, first_j = groups.pop()
        groups.append((range(first_i.start, len(before)), range(first_j.start, len(after))))
    return groups


def _fixed_group(old: list[int], count: int, free: int | None) -> list[int] | None:
    """Dimensions of one group for a new count: as they were if it has not changed, else the free one (or the largest) takes the change."""
    if math.prod(old) == count:
        return old
    if not old:
        return None
    index = max(range(len(old)), key=old.__getitem__) if free is None else free
    rest = math.prod(old) // old[index]
    return None if count % rest else [count // rest if i == index else d for i, d in enumerate(old)]


def resolved_model(model: ModelProto, known: Resolved) -> ModelProto:
    """The graph that is converted: constants folded, shapes written down, unused parts gone."""
    result = ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.initializer[:], result.graph.value_info[:], result.graph.sparse_initializer[:]
    folded = set(known.constants)
    nodes = [node for node in model.graph.node if not all(name in folded for name in node.output if name)]
    used = {name for node in nodes for name in node.input} | {value.name for value in model.graph.output}
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in known.constants.items() if n in used)
    result.graph.value_info.extend(
        onnx.ValueInfoProto(name=name, type=kind) for name, kind in known.types.items() if _is_inner(name, model)
    )
    for output in result.graph.output:
        if output.name in known.types:
            output.type.CopyFrom(known.types[output.name])
    inputs = network_inputs(model)
    del result.graph.input[:]
    result.graph.input.extend(inputs)
    return result


def _is_inner(name: str, model: ModelProto) -> bool:
    return all(value.name != name for value in (*model.graph.input, *model.graph.output))
