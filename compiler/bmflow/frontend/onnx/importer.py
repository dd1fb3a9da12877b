"""From an ONNX file to a top module: one op per node (or known chain of nodes), named `<output>_<OpType>`, nothing optimized yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from onnx import ModelProto, NodeProto

from bmflow.errors import InputError
from bmflow.frontend.onnx import reader
from bmflow.frontend.onnx.converters import CONVERTERS
from bmflow.frontend.onnx.fuse import Fused, fuse_chains
from bmflow.frontend.onnx.graph import Graph, Node, Unsupported
from bmflow.frontend.onnx.resolve import Resolved, Shape, exported_shapes, resolve, resolved_model
from bmflow.ir.attributes import Python
from bmflow.ir.module import Module, ModuleBuilder


class InputRecord(Protocol):
    """Says what is recorded on each top.Input."""

    def __call__(self, number: int, shape: Shape) -> dict[str, Python]:
        """Attributes of input `number` (from 1) with this shape; empty for an input that is no picture."""
        ...


@dataclass(frozen=True)
class Imported:
    """A top module straight from the front end, and the ONNX graph it was converted from, shapes fixed and constants folded.

    `fused` names the operator of the tensors that chains of nodes of `model` make, which became one op each.
    """

    module: Module
    model: ModelProto
    fused: Mapping[str, str]


@dataclass
class _Refusals:
    """Nodes that cannot be converted, by operator and reason."""

    found: dict[tuple[str, str], list[str]]

    def add(self, node: NodeProto, reason: str = "") -> None:
        self.found.setdefault((node.op_type, reason), []).append(reader.label(node))

    def raise_if_any(self, path: str | Path) -> None:
        if not self.found:
            return
        total = sum(len(names) for names in self.found.values())
        listed = "; ".join(_describe(op, reason, names) for (op, reason), names in self.found.items())
        raise InputError(
            f"{path}: {total} nodes cannot be converted yet: {listed}. "
            "Cut the model before them with --output_names, or export it without these operators"
        )


def _describe(op: str, reason: str, names: list[str]) -> str:
    return f"{op} x{len(names)}{f' ({reason})' if reason else ''}: {', '.join(names)}"


def import_onnx(
    path: str | Path,
    name: str,
    input_shapes: Sequence[Sequence[int]] = (),
    output_names: Sequence[str] = (),
    record: InputRecord | None = None,
) -> Imported:
    """Convert an ONNX file.

    Args:
        input_shapes: one shape per network input, in order; may change static dimensions.
        output_names: tensors that become the outputs, in this order; what they do not need is left out.
        record: attributes of each top.Input.
    Raises:
        InputError: the file is no usable model, shapes or names do not fit, or operators are not supported (all are listed).
    """
    model = reader.read_model(path)
    reader.select_outputs(model, output_names)
    reader.prune(model)
    exported = exported_shapes(model, input_shapes) if input_shapes else None
    reader.set_input_shapes(model, input_shapes)
    known = resolve(model, exported)
    simplified = resolved_model(model, known)
    reader.prune(simplified)
    fused = fuse_chains(simplified, known)
    return Imported(_convert(fused, known, name, record, path), simplified, fused.kinds)


def _convert(fused: Fused, known: Resolved, name: str, record: InputRecord | None, path: str | Path) -> Module:
    model = fused.model
    graph = Graph(model, known, ModuleBuilder(name, "ONNX"))
    for number, value in enumerate(reader.network_inputs(model), 1):
        shape = known.shape(value.name)
        assert shape is not None
        graph.values[value.name] = graph.builder.input(value.name, shape, record(number, shape) if record else None)
    refusals = _Refusals({})
    for node in model.graph.node:
        _convert_node(node, graph, fused, refusals)
    refusals.raise_if_any(path)
    for output in model.graph.output:
        if output.name not in graph.values:
            raise InputError(f"{path}: output {output.name} is a constant; choose outputs that depend on the input with --output_names")
    _check_names(graph, path)
    return graph.builder.finish([graph.values[output.name] for output in model.graph.output])


def _convert_node(node: NodeProto, graph: Graph, fused: Fused, refusals: _Refusals) -> None:
    """Convert one node; one that cannot be is noted, and a stand-in lets the nodes behind it be judged too."""
    try:
        if node.domain not in ("", "ai.onnx") or node.op_type not in CONVERTERS:
            raise Unsupported(f"domain {node.domain}" if node.domain not in ("", "ai.onnx") else "")
        if all(name in graph.values or name in graph.known.constants for name in node.input if name):
            CONVERTERS[node.op_type](Node(node, graph))
    except Unsupported as verdict:
        refusals.add(node, fused.why_not(node) or str(verdict))
        for name in node.output:
            shape = graph.known.shape(name) if name else None
            if shape is not None:
                graph.values[name] = graph.builder.input(f"{name}_stand_in", shape)


def _check_names(graph: Graph, path: str | Path) -> None:
    seen: set[str] = set()
    for op in graph.builder.module.layers():
        if op.layer_name in seen:
            raise InputError(f"{path}: two layers would be called {op.layer_name}; rename one of the tensors in the model")
        seen.add(op.layer_name)
