"""A linear op behind a convolution, y = x * scale + shift per output channel, folded into its filter and bias.

Products are computed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bmflow.dialects.top.conv import TopBatchNormOp, TopConvOp
from bmflow.ir.attributes import Python
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.structure import TopWeightOp
from bmflow.ir.types import DType, is_none, shape_of
from bmflow.ir.values import SSAValue
from bmflow.passes.rewrite import insert_before, merge_into, producer, replace, single_user


def foldable_conv(value: SSAValue) -> str:
    """Say why the producer of a value is no convolution that a linear op can be folded into; empty when it is."""
    conv = producer(value)
    if not isinstance(conv, TopConvOp):
        return "its input is no convolution"
    if conv["do_relu"]:
        return f"{conv.layer_name} ends in a relu"
    if not isinstance(producer(conv.filter), TopWeightOp):
        return f"the filter of {conv.layer_name} is not constant"
    if not is_none(conv.bias) and not isinstance(producer(conv.bias), TopWeightOp):
        return f"the bias of {conv.layer_name} is not constant"
    return single_user(value)


def split_constant(op: LayerOp) -> tuple[SSAValue, SSAValue] | None:
    """(activation, constant) of a two-operand op with one constant operand, in either order."""
    if len(op.operands) != 2:
        return None
    constant = [isinstance(producer(value), TopWeightOp) for value in op.operands]
    if sum(constant) != 1:
        return None
    return op.operands[constant.index(False)], op.operands[constant.index(True)]


def per_channel(module: Module, constant: SSAValue, result: SSAValue) -> np.ndarray | None:
    """A constant that broadcasts over all but the channel axis of `result` (n, c, ...), as (c) float64; else None."""
    shape = shape_of(result)
    array = module.weight(constant).astype(np.float64)
    aligned = array.reshape((1,) * (len(shape) - array.ndim) + array.shape) if array.ndim <= len(shape) else None
    if aligned is None or len(shape) < 2 or aligned.size not in (1, shape[1]) or aligned.size != aligned.shape[1]:
        return None
    return np.broadcast_to(aligned.ravel(), shape[1:2])


def check_constant_operand(op: LayerOp, module: Module) -> str:
    """Say why an Add or Mul is no per-channel linear op behind a convolution; empty when it is."""
    operands = split_constant(op)
    if operands is None:
        return "it has not exactly one constant operand"
    if reason := foldable_conv(operands[0]):
        return reason
    if per_channel(module, operands[1], op.results[0]) is None or shape_of(operands[0]) != shape_of(op.results[0]):
        return f"the constant {layer_name(operands[1])} is not one number per channel"
    return ""


def fold_into_conv(module: Module, op: LayerOp, activation: SSAValue, scale: np.ndarray, shift: np.ndarray) -> None:
    """Replace `op`, which computes activation * scale + shift per channel, by the convolution that makes the activation."""
    conv = producer(activation)
    assert isinstance(conv, TopConvOp)
    weights = module.weight(conv.filter).astype(np.float64) * scale.reshape(-1, 1, 1, 1)
    bias = shift if is_none(conv.bias) else module.weight(conv.bias).astype(np.float64) * scale + shift
    relu = {name: op[name] for name in ("do_relu", "relu_limit")}
    new = _make_conv(module, conv, conv.input, weights, bias, conv.settings() | relu)
    replace(conv, new.results[0])
    merge_into(op, new)


def _make_conv(
    module: Module, before: LayerOp, x: SSAValue, weights: np.ndarray, bias: np.ndarray, settings: Mapping[str, Python]
) -> TopConvOp:
    """A convolution with new constants, placed before an op, under its name and with its result type."""
    filter_value = module.new_weight(f"{before.layer_name}_filter", weights.astype(np.float32), DType.F32, before)
    bias_value = module.new_weight(f"{before.layer_name}_bias", bias.astype(np.float32), DType.F32, before)
    conv = TopConvOp.make(before.layer_name, [x, filter_value, bias_value], before.results[0].type, settings)
    insert_before(before, conv)
    return conv


def depthwise_conv(module: Module, op: LayerOp, scale: np.ndarray, shift: np.ndarray) -> None:
    """Replace `op`, which computes x * scale + shift per channel of (n, c, h, w), by a 1x1 depthwise convolution."""
    settings = {
        "kernel_shape": [1, 1], "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": scale.size,
        "do_relu": op["do_relu"], "relu_limit": op["relu_limit"],
    }  # fmt: skip
    conv = _make_conv(module, op, op.operands[0], scale.reshape(-1, 1, 1, 1), shift, settings)
    replace(op, conv.results[0])


def batch_norm_coefficients(op: TopBatchNormOp, module: Module) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) of shape (c) with y = x * scale + shift."""
    mean, variance, gamma, beta = (module.weight(v).astype(np.float64) for v in (op.mean, op.variance, op.gamma, op.beta))
    epsilon = op["epsilon"]
    assert isinstance(epsilon, float)
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale
