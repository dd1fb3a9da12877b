"""Kernel, strides and pads that convolution and pooling share, with the zeros of a Pad node before them."""

from __future__ import annotations

from dataclasses import dataclass

from bmflow.frontend.onnx.graph import Node, Padding, Unsupported
from bmflow.ir.values import SSAValue


@dataclass(frozen=True)
class Window:
    """A sliding window over h and w; pads are top, left, bottom, right; `folded` are those that came from a Pad node."""

    value: SSAValue
    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[int]
    folded: Padding | None


def read_window(node: Node, kernel: list[int]) -> Window:
    """Read the window attributes of a node on a rank-4 input, auto_pad resolved."""
    folded = node.graph.paddings.get(node.proto.input[0])
    strides, dilations = node.ints("strides", [1, 1]), node.ints("dilations", [1, 1])
    pads = _pads(node, kernel, strides, dilations)
    if folded:
        pads = [a + b for a, b in zip(pads, folded.pads, strict=True)]
    if min(pads) < 0:
        raise Unsupported(f"negative pads {pads}")
    return Window(folded.value if folded else node.value(), kernel, strides, dilations, pads, folded)


def _pads(node: Node, kernel: list[int], strides: list[int], dilations: list[int]) -> list[int]:
    mode = node.text("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return node.ints("pads", [0, 0, 0, 0])
    if mode == "VALID":
        return [0, 0, 0, 0]
    begin, end = [], []
    for size, k, stride, dilation in zip(node.shape()[2:], kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begin.append(small if mode == "SAME_UPPER" else large)
        end.append(large if mode == "SAME_UPPER" else small)
    return begin + end
