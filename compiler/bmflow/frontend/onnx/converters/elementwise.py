"""Arithmetic with broadcasting, activations, softmax."""

from __future__ import annotations

import math

import numpy as np

from bmflow.dialects.top.elementwise import TopAddOp, TopGELUOp, TopMulOp, TopReluOp, TopSigmoidOp, TopSoftmaxOp
from bmflow.dialects.top.shape import TopReshapeOp
from bmflow.frontend.onnx.fuse import GELU
from bmflow.frontend.onnx.graph import Converter, Node, Unsupported
from bmflow.ir.layer import LayerOp


def _convert_arithmetic(node: Node, kind: type[LayerOp]) -> None:
    operands = [node.value(i) for i in range(len(node.proto.input))]
    node.bind(node.emit(kind, operands) if len(operands) > 1 else operands[0])


def convert_add(node: Node) -> None:
    """Add, Sum -> top.Add."""
    _convert_arithmetic(node, TopAddOp)


def convert_mul(node: Node) -> None:
    """Mul -> top.Mul."""
    _convert_arithmetic(node, TopMulOp)


def convert_sub(node: Node) -> None:
    """Sub -> top.Add of the negated constant, or with the coefficients 1 and -1."""
    if node.is_constant(1):
        node.bind(node.emit(TopAddOp, [node.value(), node.new_weight("negated", -node.constant(1, "what it subtracts"))]))
        return
    node.bind(node.emit(TopAddOp, [node.value(0), node.value(1)], {"coeff": [1.0, -1.0]}))


def convert_div(node: Node) -> None:
    """Div by a constant -> top.Mul by its reciprocal."""
    divisor = node.constant(1, "what it divides by").astype(np.float64)
    if not divisor.all():
        raise Unsupported("it divides by 0")
    node.bind(node.emit(TopMulOp, [node.value(), node.new_weight("reciprocal", 1.0 / divisor)]))


def convert_gelu(node: Node) -> None:
    """Gelu (and the chain of nodes that is one) -> top.GELU."""
    approximate = node.text("approximate", "none")
    if approximate != "none":
        raise Unsupported(f"approximate {approximate}; only the exact form, none, is supported")
    node.bind(node.emit(TopGELUOp, [node.value()]))


def convert_relu(node: Node) -> None:
    """Relu -> top.Relu."""
    node.bind(node.emit(TopReluOp, [node.value()]))


def convert_clip(node: Node) -> None:
    """Clip(min 0, max) -> top.Relu with a limit."""
    low, high = _clip_bound(node, 1, "min", -math.inf), _clip_bound(node, 2, "max", math.inf)
    if low != 0 or high <= 0:
        raise Unsupported(f"range {low:g} to {high:g}; only ranges from 0 upwards are supported")
    node.bind(node.emit(TopReluOp, [node.value()], {"relu_limit": high} if high < 3.4e38 else {}))


def _clip_bound(node: Node, index: int, name: str, default: float) -> float:
    if node.graph.opset < 11:
        return node.float(name, default)
    return float(node.constant(index, name).item()) if node.has(index) else default


def convert_sigmoid(node: Node) -> None:
    """Sigmoid -> top.Sigmoid."""
    node.bind(node.emit(TopSigmoidOp, [node.value()]))


def convert_softmax(node: Node) -> None:
    """Softmax -> top.Softmax; before opset 13 the axes from `axis` on count as one."""
    shape = node.shape()
    flattens = node.graph.opset < 13
    axis = node.int("axis", 1 if flattens else -1) % len(shape)
    inner = math.prod(shape[axis:])
    if not flattens or inner == shape[axis]:
        node.bind(node.emit(TopSoftmaxOp, [node.value()], {"axis": axis}))
        return
    flat = (math.prod(shape[:axis]), inner)
    rows = node.emit(TopReshapeOp, [node.value()], {"shape": list(flat)}, flat, f"{node.name}_reshape")
    softmax = node.emit(TopSoftmaxOp, [rows], {"axis": 1}, flat, f"{node.name}_softmax")
    node.bind(node.emit(TopReshapeOp, [softmax], {"shape": list(shape)}))


CONVERTERS: dict[str, Converter] = {
    "Add": convert_add,
    "Sum": convert_add,
    "Sub": convert_sub,
    "Mul": convert_mul,
    "Div": convert_div,
    "Relu": convert_relu,
    "Clip": convert_clip,
    "Sigmoid": convert_sigmoid,
    "Gelu": convert_gelu,
    GELU: convert_gelu,
    "Softmax": convert_softmax,
}
