"""Resize and Upsample by whole factors, nearest neighbour."""

from __future__ import annotations

import math

from bmflow.dialects.top.shape import TopUpsampleOp
from bmflow.frontend.onnx.graph import Converter, Node, Unsupported


def convert_resize(node: Node) -> None:
    """Resize, Upsample -> top.Upsample, where output element i is input element i // factor in h and w."""
    mode = node.text("mode", "nearest")
    if mode != "nearest":
        raise Unsupported(f"mode {mode}; only nearest is supported")
    factors = _factors(node)
    if len(factors) != 4 or factors[:2] != [1, 1] or any(f < 1 for f in factors):
        raise Unsupported(f"{list(node.shape())} to {list(node.output_shape())}; only whole factors of h and w are supported")
    for size, factor in zip(node.shape()[2:], factors[2:], strict=True):
        _require_floor(node, size, factor)
    if factors == [1, 1, 1, 1]:
        node.bind(node.value())
        return
    node.bind(node.emit(TopUpsampleOp, [node.value()], {"scale_h": factors[2], "scale_w": factors[3]}))


def _factors(node: Node) -> list[int]:
    """Output size over input size per dimension; 0 where it is not whole."""
    pairs = zip(node.shape(), node.output_shape(), strict=True)
    return [after // before if after % before == 0 else 0 for before, after in pairs]


def _require_floor(node: Node, size: int, factor: int) -> None:
    if node.proto.op_type == "Upsample" or node.graph.opset == 10:
        return  # i // factor by definition
    coordinates = node.text("coordinate_transformation_mode", "half_pixel")
    rounding = node.text("nearest_mode", "round_prefer_floor")
    if any(_source(i, size, factor, coordinates, rounding) != i // factor for i in range(size * factor)):
        raise Unsupported(f"coordinates {coordinates} with rounding {rounding} are not a plain repetition")


def _source(i: int, size: int, factor: int, coordinates: str, rounding: str) -> int:
    """Input element that ONNX takes for output element `i`."""
    match coordinates:
        case "asymmetric":
            x = i / factor
        case "half_pixel" | "half_pixel_symmetric":
            x = (i + 0.5) / factor - 0.5
        case "pytorch_half_pixel":
            x = (i + 0.5) / factor - 0.5 if size * factor > 1 else 0.0
        case "align_corners":
            x = i * (size - 1) / (size * factor - 1) if size * factor > 1 else 0.0
        case _:
            raise Unsupported(f"coordinate mode {coordinates}")
    rounded = {
        "floor": math.floor(x),
        "ceil": math.ceil(x),
        "round_prefer_floor": math.ceil(x - 0.5),
        "round_prefer_ceil": math.floor(x + 0.5),
    }[rounding]
    return min(max(rounded, 0), size - 1)


CONVERTERS: dict[str, Converter] = {"Resize": convert_resize, "Upsample": convert_resize}
