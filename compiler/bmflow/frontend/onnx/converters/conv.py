"""Convolution and batch normalization."""

from __future__ import annotations

from bmflow.dialects.top.conv import TopBatchNormOp, TopConvOp
from bmflow.frontend.onnx.converters.window import read_window
from bmflow.frontend.onnx.graph import Converter, Node, Unsupported


def convert_conv(node: Node) -> None:
    """Conv -> top.Conv; two dimensions, constant filter and bias."""
    node.require_rank(4)
    filter_shape = node.constant(1, "its filter").shape
    window = read_window(node, list(filter_shape[2:]))
    operands = [window.value, node.weight(1, "its filter"), node.optional_weight(2, "its bias", filter_shape[:1])]
    settings = {
        "kernel_shape": window.kernel,
        "strides": window.strides,
        "pads": window.pads,
        "dilations": window.dilations,
        "group": node.int("group", 1),
    }
    node.bind(node.emit(TopConvOp, operands, settings))


def convert_batch_normalization(node: Node) -> None:
    """BatchNormalization (inference form) -> top.BatchNorm."""
    if node.int("training_mode") or any(node.used(i) for i in range(1, len(node.proto.output))):
        raise Unsupported("training mode; export the model for inference")
    channels = node.shape()[1:2]
    gamma, beta, mean, variance = (node.weight(i, "a parameter", channels) for i in range(1, 5))
    settings = {"epsilon": node.float("epsilon", 1e-5)}
    node.bind(node.emit(TopBatchNormOp, [node.value(), mean, variance, gamma, beta], settings))


CONVERTERS: dict[str, Converter] = {
    "Conv": convert_conv,
    "BatchNormalization": convert_batch_normalization,
}
