"""The conversion in progress: which top value stands for which ONNX tensor, and a comfortable view of one node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from onnx import ModelProto, NodeProto, helper

from bmflow.frontend.onnx.reader import label, opset_of
from bmflow.frontend.onnx.resolve import Resolved, Shape
from bmflow.ir.attributes import Python
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import ModuleBuilder
from bmflow.ir.types import tensor_type
from bmflow.ir.values import SSAValue


class Unsupported(Exception):  # noqa: N818 -- a verdict that the importer collects, never an error that leaves the room
    """This node cannot be converted; the text says why."""


@dataclass(frozen=True)
class Padding:
    """Zeros that a Pad node puts around a value, waiting to be folded into the op that reads it: top, left, bottom, right."""

    value: SSAValue
    pads: tuple[int, int, int, int]
    never_negative: bool


@dataclass
class Graph:
    """State of one conversion."""

    model: ModelProto
    known: Resolved
    builder: ModuleBuilder
    values: dict[str, SSAValue] = field(default_factory=dict)
    paddings: dict[str, Padding] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.opset = opset_of(self.model)
        self.producers = {name: node for node in self.model.graph.node for name in node.output}
        self.uses = Counter(name for node in self.model.graph.node for name in node.input)
        self.consumers: dict[str, list[NodeProto]] = {}
        for node in self.model.graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in self.model.graph.output}


class Node:
    """One ONNX node with its inputs as shapes, constants and top values."""

    def __init__(self, proto: NodeProto, graph: Graph):
        self.proto = proto
        self.graph = graph
        self.name = label(proto)
        self.attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}

    def has(self, index: int) -> bool:
        """Whether the optional input is there."""
        return len(self.proto.input) > index and bool(self.proto.input[index])

    def int(self, name: str, default: int = 0) -> int:
        """An integer attribute."""
        return int(self.attributes.get(name, default))

    def ints(self, name: str, default: list[int] | None = None) -> list[int]:
        """A list-of-integers attribute."""
        return [int(v) for v in self.attributes.get(name, default or [])]

    def float(self, name: str, default: float) -> float:
        """A float attribute."""
        return float(self.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def shape(self, index: int = 0) -> Shape:
        """Static shape of an input."""
        shape = self.graph.known.shape(self.proto.input[index])
        if shape is None:
            raise Unsupported(f"the shape of {self.proto.input[index]} depends on the data")
        return shape

    def output_shape(self, index: int = 0) -> Shape:
        """Static shape of an output."""
        shape = self.graph.known.shape(self.proto.output[index])
        if shape is None:
            raise Unsupported("the output shape depends on the data")
        if 0 in shape:
            raise Unsupported(f"the output is empty, shape {list(shape)}")
        return shape

    def is_constant(self, index: int) -> bool:
        """Whether the value of an input is known."""
        return self.proto.input[index] in self.graph.known.constants

    def constant(self, index: int, what: str) -> np.ndarray:
        """Value of an input that must be constant."""
        value = self.graph.known.constants.get(self.proto.input[index])
        if value is None:
            raise Unsupported(f"{what} is not constant")
        return value

    def constant_ints(self, index: int, what: str) -> list[int]:
        """Value of a constant input as a list of integers."""
        return [int(v) for v in self.constant(index, what).ravel()]

    def value(self, index: int = 0) -> SSAValue:
        """Top value of an input; constants become top.Weight values of rank 1 or more."""
        name = self.proto.input[index]
        if name in self.graph.known.constants:
            array = self.graph.known.constants[name]
            return self.graph.builder.weight(name, array.reshape(array.shape or (1,)))
        return self.graph.values[name]

    def weight(self, index: int, what: str, shape: Shape | None = None) -> SSAValue:
        """Top value of an input that must be constant (and of this shape)."""
        array = self.constant(index, what)
        if shape is not None and array.shape != shape:
            raise Unsupported(f"{what} has shape {list(array.shape)}, expected {list(shape)}")
        return self.value(index)

    def optional_weight(self, index: int, what: str, shape: Shape | None = None) -> SSAValue:
        """`weight`, or top.None when the input is absent."""
        return self.weight(index, what, shape) if self.has(index) else self.none

    def reshaped_weight(self, index: int, what: str, shape: Shape) -> SSAValue:
        """Top value of a constant input that has this shape but for broadcasting; the node gives its name to a copy that differs."""
        array = self.constant(index, what)
        if array.shape == shape:
            return self.value(index)
        try:
            full = np.broadcast_to(array, np.broadcast_shapes((1,) * array.ndim, shape)).reshape(shape)
        except ValueError as error:
            raise Unsupported(f"{what} has shape {list(array.shape)}, expected {list(shape)}") from error
        return self.new_weight(what.split()[-1], full)

    def new_weight(self, what: str, array: np.ndarray) -> SSAValue:
        """A constant that the file does not hold in this form, named `<layer>_<what>`, of rank 1 or more."""
        name, taken = f"{self.name}_{what}", self.graph.builder.module.weights.keys() | self.graph.known.constants.keys()
        free = next(candidate for candidate in (name, *(f"{name}_{i}" for i in range(len(taken)))) if candidate not in taken)
        return self.graph.builder.weight(free, array.reshape(array.shape or (1,)))

    @property
    def none(self) -> SSAValue:
        """The absent operand."""
        return self.graph.builder.none

    def emit(
        self,
        kind: type[LayerOp],
        operands: list[SSAValue],
        attributes: Mapping[str, Python] | None = None,
        shape: Shape | None = None,
        name: str = "",
    ) -> SSAValue:
        """Append an op; by default it has the node's layer name and first output's shape."""
        result = tensor_type(self.output_shape() if shape is None else shape)
        return self.graph.builder.append(kind.make(name or self.name, operands, result, attributes)).results[0]

    def bind(self, value: SSAValue, index: int = 0) -> None:
        """Let `value` stand for an output of the node."""
        self.graph.values[self.proto.output[index]] = value

    def used(self, index: int) -> bool:
        """Whether anything reads an output."""
        if len(self.proto.output) <= index:
            return False
        name = self.proto.output[index]
        return bool(name) and (self.graph.uses[name] > 0 or name in self.graph.outputs)

    def require_rank(self, rank: int) -> None:
        """Refuse inputs of another rank."""
        if len(self.shape()) != rank:
            raise Unsupported(f"its input has {len(self.shape())} dimensions; only {rank} are supported")


Converter: TypeAlias = Callable[[Node], None]
