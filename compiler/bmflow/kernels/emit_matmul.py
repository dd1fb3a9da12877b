"""Matrix products and layer normalization."""

from __future__ import annotations

from math import prod

import numpy as np

from bmflow.ir.types import DType, is_none, shape_of
from bmflow.kernels.emission import Emission, Emitter
from bmflow.kernels.requant import requantize


def emit_matmul(e: Emission) -> str:
    """Both dialects, floats and 8-bit integers."""
    defaults = ("left_transpose", "output_transpose", "hdim_is_batch")
    e.require(not any(e.flag(name) for name in defaults) and e.flag("keep_dims"), "with " + ", ".join(defaults) + " or without keep_dims")
    return _emit_float(e) if e.result.is_float else _emit_integer(e)


def _emit_float(e: Emission) -> str:
    e.require(e.held(0).is_float and e.held(1).is_float, "from integers to floats")
    product = e.node("MatMul", e.input(0), _right(e))
    return e.finish(product if is_none(e.op.operands[2]) else e.node("Add", product, e.input(2)))


def _right(e: Emission) -> str:
    """The right operand as (..., k, n)."""
    if not e.flag("right_transpose"):
        return e.input(1)
    rank = len(shape_of(e.op.operands[1]))
    return e.node("Transpose", e.input(1), perm=[*range(rank - 2), rank - 1, rank - 2])


def _emit_integer(e: Emission) -> str:
    """acc = sum of x * r exactly; zp_x times the column sums is inside the bias, so x is taken from its zero point 0 on."""
    x, right, bias = e.held(0), e.held(1), e.weight(2)
    for held in (x, right):
        e.require(held.dtype in (DType.I8, DType.U8), f"with an operand of type {held.dtype.value}")
    e.require(right.zero_point == 0 and (x.zero_point == 0 or e.weight(1) is not None), "with zero points other than that of its input")
    zeros = [e.constant(np.uint8(held.offset)) for held in (x, right)]
    acc = e.node("MatMulInteger", e.input(0), _right(e), *zeros)
    bound = shape_of(e.op.operands[0])[-1] * max(map(abs, x.dtype.limits)) * max(map(abs, right.dtype.limits))
    if not is_none(e.op.operands[2]):
        e.require(bias is not None, "with a computed bias")
        assert bias is not None
        acc = e.node("Add", acc, e.constant(bias.reshape(-1).astype(np.int32)))
        bound += int(np.abs(bias.astype(np.int64)).max())
    return requantize(e, acc, [bound], e.ints("multipliers"), e.ints("rshifts"), [0])


def emit_layer_norm(e: Emission) -> str:
    """(x - mean) / sqrt(variance + eps) * weight + bias."""
    e.require(e.held().is_float and e.result.is_float, "on integers")
    size = e.ints("normalized_shape")
    weight = e.constant(np.ones(prod(size), np.float32).reshape(size)) if is_none(e.op.operands[1]) else e.input(1)
    operands = [e.input(), weight] if is_none(e.op.operands[2]) else [e.input(), weight, e.input(2)]
    return e.finish(e.node("LayerNormalization", *operands, axis=e.integer("axis"), epsilon=e.number("eps")))


EMITTERS: dict[str, Emitter] = {
    "top.MatMul": emit_matmul,
    "top.LayerNorm": emit_layer_norm,
    "tpu.MatMul": emit_matmul,
    "tpu.LayerNorm": emit_layer_norm,
}
