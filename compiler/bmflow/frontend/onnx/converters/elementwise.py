"""Arithmetic with broadcasting, activations, softmax."""

from __future__ import annotations

import math

from bmflow.dialects.top.elementwise import TopAddOp, TopMulOp, TopReluOp, TopSigmoidOp, TopSoftmaxOp
from bmflow.dialects.top.shape import TopReshapeOp
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
    "Mul": convert_mul,
    "Relu": convert_relu,
    "Clip": convert_clip,
    "Sigmoid": convert_sigmoid,
    "Softmax": convert_softmax,
}
