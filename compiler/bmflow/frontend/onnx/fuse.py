"""Find layer normalization and GELU where exporters wrote them as chains of arithmetic (before opsets 17 and 20), and make one node of each.

A chain is taken only as a whole: where anything else reads one of its inner values it stays as it is, and the importer says so.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, NodeProto, helper

from bmflow.frontend.onnx.reader import label, opset_of
from bmflow.frontend.onnx.resolve import Resolved, Shape

LAYER_NORM, GELU = "LayerNormalization", "GELU"
_CLOSE = 1e-3
"""Relative difference that constants rounded to F16 may have from the numbers of a formula."""
_DEEPEST_PRODUCT = 3
_NORM_TEXT = "layer normalization (x - mean) / sqrt(variance + eps) over the last dimensions"
_GELU_TEXT = "GELU x / 2 * (1 + erf(x / sqrt(2)))"
_PART_OF = {"Pow": _NORM_TEXT, "Sqrt": _NORM_TEXT, "Erf": _GELU_TEXT}


@dataclass(frozen=True)
class Fused:
    """The graph with its chains replaced; `kinds` names the operator that a tensor comes from now, `reasons` why a node was left."""

    model: ModelProto
    kinds: dict[str, str]
    reasons: dict[str, str]

    def why_not(self, node: NodeProto) -> str:
        """Why a node was not taken into a chain, though it belongs to one or is known inside one only; empty for other nodes."""
        where = _PART_OF.get(node.op_type)
        return self.reasons.get(label(node), f"only inside {where} is it supported" if where else "")


@dataclass(frozen=True)
class _Chain:
    """Nodes that together are one operator; the last one makes its result."""

    kind: str
    nodes: Sequence[NodeProto]
    inputs: Sequence[str]
    axis: int = 0
    epsilon: float = 0.0

    @property
    def result(self) -> str:
        return self.nodes[-1].output[0]

    def node(self) -> NodeProto:
        attributes = {"axis": self.axis, "epsilon": self.epsilon} if self.kind == LAYER_NORM else {}
        return helper.make_node(self.kind, list(self.inputs), [self.result], self.nodes[-1].name, None, None, None, **attributes)


def fuse_chains(model: ModelProto, known: Resolved) -> Fused:
    """Replace every chain by one node at the place of its last one; the model given stays as it is.

    Requires: constants folded. Nodes of kind LayerNormalization may lack their second input, the scale.
    """
    links = _Links(model, known)
    taken: dict[str, _Chain] = {}
    reasons: dict[str, str] = {}
    for chain in (*_layer_norms(links), *_gelus(links)):
        if reader := links.foreign_reader(chain):
            reasons |= dict.fromkeys((label(node) for node in chain.nodes), f"part of a {chain.kind}, but {reader}")
        else:
            taken[chain.result] = chain
    inner = {name for chain in taken.values() for node in chain.nodes[:-1] for name in node.output}
    nodes = [_replaced(node, taken) for node in model.graph.node if node.output[0] not in inner]
    result = ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return Fused(result, {name: chain.kind for name, chain in taken.items()}, reasons)


def _replaced(node: NodeProto, taken: dict[str, _Chain]) -> NodeProto:
    chain = taken.get(node.output[0])
    return chain.node() if chain else node


class _Links:
    """Who makes and who reads which tensor."""

    def __init__(self, model: ModelProto, known: Resolved):
        self.model, self.known, self.opset = model, known, opset_of(model)
        self.outputs = {value.name for value in model.graph.output}
        self.producers = {name: node for node in model.graph.node for name in node.output if name}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)

    def nodes(self, kind: str) -> list[NodeProto]:
        """All nodes of an operator."""
        return [node for node in self.model.graph.node if node.op_type == kind]

    def maker(self, name: str, kind: str) -> NodeProto | None:
        """The node that makes a tensor, if it is of this operator."""
        node = self.producers.get(name)
        return node if node is not None and node.op_type == kind else None

    def read_by(self, name: str, kind: str) -> list[NodeProto]:
        """Nodes of an operator that read a tensor."""
        return [node for node in self.readers.get(name, ()) if node.op_type == kind]

    def constant(self, name: str) -> np.ndarray | None:
        """Value of a constant."""
        return self.known.constants.get(name)

    def number(self, name: str) -> float | None:
        """Value of a constant that holds one number."""
        array = self.constant(name)
        return float(array.item()) if array is not None and array.size == 1 else None

    def with_constant(self, node: NodeProto) -> tuple[str, str] | None:
        """(computed, constant) inputs of a node that has one of each, in either order."""
        if len(node.input) != 2:
            return None
        flags = [name in self.known.constants for name in node.input]
        return (node.input[flags.index(False)], node.input[flags.index(True)]) if sum(flags) == 1 else None

    def same(self, left: str, right: str, depth: int = 2) -> bool:
        """Whether two tensors are one, or made by twin nodes (up to `depth` in a row) of the same inputs."""
        a, b = self.producers.get(left), self.producers.get(right)
        if left == right or a is None or b is None or depth == 0:
            return left == right
        if a.op_type != b.op_type or len(a.input) != len(b.input) or list(a.attribute) != list(b.attribute):
            return False
        return all(self.same(x, y, depth - 1) for x, y in zip(a.input, b.input, strict=True))

    def foreign_reader(self, chain: _Chain) -> str:
        """Say who else reads an inner value of a chain; empty when nobody does."""
        members = {node.output[0] for node in chain.nodes}
        for name in members - {chain.result}:
            if name in self.outputs:
                return f"its inner value {name} is an output of the network"
            for reader in self.readers.get(name, ()):
                if reader.output[0] not in members:
                    return f"its inner value {name} is read by {label(reader)}, too"
        return ""

    def read_once(self, name: str) -> bool:
        """Whether exactly one node reads a tensor, and nothing else does."""
        return name not in self.outputs and len(self.readers.get(name, ())) == 1


def _layer_norms(links: _Links) -> Iterator[_Chain]:
    for root in links.nodes("Sqrt"):
        for division in links.read_by(root.output[0], "Div"):
            chain = _layer_norm(division, root, links)
            if chain is not None:
                yield _with_affine(chain, links)


def _layer_norm(division: NodeProto, root: NodeProto, links: _Links) -> _Chain | None:
    """(x - mean) / sqrt(mean((x - mean)^2) + eps), up to the division."""
    guard = links.maker(root.input[0], "Add")
    parts = links.with_constant(guard) if guard is not None else None
    eps = links.number(parts[1]) if parts else None
    variance = links.maker(parts[0], "ReduceMean") if parts else None
    square = _square(variance.input[0], links) if variance is not None else None
    if guard is None or variance is None or square is None or eps is None:
        return None
    centred = [links.maker(name, "Sub") for name in (division.input[0], square.input[0])]
    means = [links.maker(node.input[1], "ReduceMean") if node is not None else None for node in centred]
    if centred[0] is None or means[0] is None or not links.same(division.input[0], square.input[0]):
        return None
    x = centred[0].input[0]
    axes = _trailing_axes(means[0], links)
    if not axes or _trailing_axes(variance, links) != axes or means[0].input[0] != x or division.input[1] != root.output[0]:
        return None
    nodes = [node for node in (*means, *centred) if node is not None]
    unique = {node.output[0]: node for node in (*nodes, square, variance, guard, root, division)}
    return _Chain(LAYER_NORM, list(unique.values()), [x, "", ""], axes[0], eps)


def _square(name: str, links: _Links) -> NodeProto | None:
    """The node that squares its first input."""
    power, product = links.maker(name, "Pow"), links.maker(name, "Mul")
    if power is not None:
        return power if links.number(power.input[1]) == 2.0 else None
    return product if product is not None and product.input[0] == product.input[1] else None


def _trailing_axes(node: NodeProto, links: _Links) -> list[int]:
    """Axes of a ReduceMean that keeps its dimensions, when they are the last ones; else none."""
    shape = links.known.shape(node.input[0])
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    given = attributes.get("axes")
    if links.opset >= 18 and len(node.input) > 1 and node.input[1]:
        given = links.constant(node.input[1])
    if shape is None or given is None or not attributes.get("keepdims", 1):
        return []
    axes = sorted(int(axis) % len(shape) for axis in given)
    return axes if axes and axes == list(range(len(shape) - len(axes), len(shape))) else []


def _with_affine(chain: _Chain, links: _Links) -> _Chain:
    """The chain with the product and the sum behind it, where these are by constants of the normalized shape."""
    shape = links.known.shape(chain.inputs[0])
    assert shape is not None
    for index, kind in ((1, "Mul"), (2, "Add")):
        readers = links.read_by(chain.result, kind)
        operands = links.with_constant(readers[0]) if len(readers) == 1 and links.read_once(chain.result) else None
        if operands is None or not _has_shape(links.constant(operands[1]), shape[chain.axis :]):
            continue
        inputs = [operands[1] if i == index else name for i, name in enumerate(chain.inputs)]
        chain = replace(chain, nodes=[*chain.nodes, readers[0]], inputs=inputs)
    return chain


def _has_shape(array: np.ndarray | None, shape: Shape) -> bool:
    """Whether an array has a shape, but for ones before it."""
    return array is not None and array.size == math.prod(shape) and array.shape[-len(shape) :] == shape


def _gelus(links: _Links) -> Iterator[_Chain]:
    for error in links.nodes("Erf"):
        argument = links.producers.get(error.input[0])
        x = _divided_by_root_two(argument, links) if argument is not None else ""
        for one_more in links.read_by(error.output[0], "Add"):
            parts = links.with_constant(one_more)
            if argument is None or not x or parts is None or links.number(parts[1]) != 1.0:
                continue
            for product in _products(x, one_more.output[0], links):
                yield _Chain(GELU, [argument, error, one_more, *product], [x])


def _divided_by_root_two(node: NodeProto, links: _Links) -> str:
    """x of x / sqrt(2), written as a quotient or a product; empty for anything else."""
    parts = links.with_constant(node) if node.op_type in ("Mul", "Div") else None
    number = links.number(parts[1]) if parts else None
    if parts is None or not number or (node.op_type == "Div" and node.input[0] != parts[0]):
        return ""
    return parts[0] if math.isclose(number if node.op_type == "Mul" else 1 / number, 0.5**0.5, rel_tol=_CLOSE) else ""


def _products(x: str, one_more: str, links: _Links) -> Iterator[list[NodeProto]]:
    """Every way in which products and quotients make x * one_more / 2; of each the nodes, the result last."""
    reached, stop = [one_more], (x, one_more)
    for _ in range(_DEEPEST_PRODUCT):
        reached = [node.output[0] for name in reached for node in links.readers.get(name, ()) if node.op_type in ("Mul", "Div")]
        for name in dict.fromkeys(reached):
            product = _factors(name, stop, links)
            if sorted(product.factors) == sorted(stop) and math.isclose(product.scale, 0.5, rel_tol=_CLOSE):
                yield list(product.nodes)


@dataclass(frozen=True)
class _Product:
    """scale times the tensors `factors`, computed by `nodes`."""

    scale: float
    factors: tuple[str, ...]
    nodes: tuple[NodeProto, ...]


def _factors(name: str, stop: Collection[str], links: _Links, depth: int = _DEEPEST_PRODUCT) -> _Product:
    """Take a product apart, down to the tensors in `stop` and to what is no product."""
    node, number = links.producers.get(name), links.number(name)
    if number is not None:
        return _Product(number, (), ())
    if node is None or name in stop or depth == 0 or not (node.op_type == "Mul" or (node.op_type == "Div" and links.number(node.input[1]))):
        return _Product(1.0, (name,), ())
    left, right = (_factors(part, stop, links, depth - 1) for part in node.input)
    scale = left.scale * right.scale if node.op_type == "Mul" else left.scale / right.scale
    return _Product(scale, (*left.factors, *right.factors), (*left.nodes, *right.nodes, node))
