"""Pooling over h and w."""

from __future__ import annotations

from bmflow.dialects.top.pool import TopAvgPoolOp, TopMaxPoolOp
from bmflow.frontend.onnx.converters.window import Window, read_window
from bmflow.frontend.onnx.graph import Converter, Node, Unsupported
from bmflow.ir.layer import LayerOp


def convert_max_pool(node: Node) -> None:
    """MaxPool -> top.MaxPool; zeros padded before it count as padding only where no value is negative."""
    if node.used(1):
        raise Unsupported("its second output (indices) is used")
    window = _read(node)
    if window.folded and not window.folded.never_negative:
        raise Unsupported("the Pad before it adds zeros that could win over negative values")
    node.bind(node.emit(TopMaxPoolOp, [window.value], _settings(node, window)))


def convert_average_pool(node: Node) -> None:
    """AveragePool -> top.AvgPool."""
    window = _read(node)
    include = bool(node.int("count_include_pad"))
    if window.folded and not include:
        if any(node.ints("pads", [0, 0, 0, 0])) or node.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            raise Unsupported("it has pads that do not count, after a Pad whose zeros do")
        include = True
    node.bind(node.emit(TopAvgPoolOp, [window.value], _settings(node, window) | {"count_include_pad": include}))


def _read(node: Node) -> Window:
    node.require_rank(4)
    window = read_window(node, node.ints("kernel_shape"))
    if window.dilations != [1, 1]:
        raise Unsupported(f"dilations {window.dilations}")
    if any(pad >= kernel for pad, kernel in zip(window.pads, window.kernel * 2, strict=True)):
        raise Unsupported(f"pads {window.pads} not smaller than the kernel {window.kernel}")
    return window


def _settings(node: Node, window: Window) -> dict[str, list[int] | bool]:
    return {
        "kernel_shape": window.kernel,
        "strides": window.strides,
        "pads": window.pads,
        "ceil_mode": bool(node.int("ceil_mode")),
    }


def _convert_global(node: Node, kind: type[LayerOp]) -> None:
    node.require_rank(4)
    settings = {"kernel_shape": list(node.shape()[2:]), "strides": [1, 1], "pads": [0, 0, 0, 0]}
    node.bind(node.emit(kind, [node.value()], settings))


def convert_global_average_pool(node: Node) -> None:
    """GlobalAveragePool -> top.AvgPool over the whole picture."""
    _convert_global(node, TopAvgPoolOp)


def convert_global_max_pool(node: Node) -> None:
    """GlobalMaxPool -> top.MaxPool over the whole picture."""
    _convert_global(node, TopMaxPoolOp)


CONVERTERS: dict[str, Converter] = {
    "MaxPool": convert_max_pool,
    "AveragePool": convert_average_pool,
    "GlobalAveragePool": convert_global_average_pool,
    "GlobalMaxPool": convert_global_max_pool,
}
