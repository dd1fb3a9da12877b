"""Pooling over h and w, and means over other axes."""

from __future__ import annotations

import math

from bmflow.dialects.top.pool import TopAvgPoolOp, TopMaxPoolOp
from bmflow.dialects.top.shape import TopReshapeOp
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


def convert_reduce_mean(node: Node) -> None:
    """ReduceMean over neighbouring axes -> top.AvgPool over h and w, or over h of the tensor seen as (n, c, h, w)."""
    shape = node.shape()
    axes = _reduced_axes(node, len(shape))
    if axes != list(range(axes[0], axes[-1] + 1)):
        raise Unsupported(f"axes {axes}; only neighbouring ones are supported")
    first, behind = axes[0], axes[-1] + 1
    batch, window = math.prod(shape[: min(first, 1)]), math.prod(shape[first:behind])
    seen, kernel = (batch, math.prod(shape[1:first]), window, math.prod(shape[behind:])), [window, 1]
    if len(shape) == 4 and first >= 2:
        seen, kernel = shape, [size if axis in axes else 1 for axis, size in enumerate(shape)][2:]
    pooled = (*seen[:2], *(size // k for size, k in zip(seen[2:], kernel, strict=True)))
    x, result = node.value(), node.output_shape()
    if not result:
        raise Unsupported("its result is a single number")
    if seen != shape:
        x = node.emit(TopReshapeOp, [x], {"shape": list(seen)}, seen, f"{node.name}_reshape")
    settings = {"kernel_shape": kernel, "strides": [1, 1], "pads": [0, 0, 0, 0]}
    y = node.emit(TopAvgPoolOp, [x], settings, pooled, node.name if pooled == result else f"{node.name}_pool")
    node.bind(y if pooled == result else node.emit(TopReshapeOp, [y], {"shape": list(result)}))


def _reduced_axes(node: Node, rank: int) -> list[int]:
    """Axes in rising order; all of them where none are given."""
    given = node.constant_ints(1, "its axes") if node.has(1) else node.ints("axes")
    if not given and node.int("noop_with_empty_axes"):
        raise Unsupported("no axes")
    return sorted(axis % rank for axis in given or range(rank))


CONVERTERS: dict[str, Converter] = {
    "MaxPool": convert_max_pool,
    "AveragePool": convert_average_pool,
    "GlobalAveragePool": convert_global_average_pool,
    "GlobalMaxPool": convert_global_max_pool,
    "ReduceMean": convert_reduce_mean,
}
