"""Matrix products and the normalization that stands between them."""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import ArrayAttr, IntegerAttr
from xdsl.irdl import attr_def, irdl_op_definition, operand_def, result_def, var_operand_def

from bmflow.dialects.top.conv import RELU
from bmflow.ir.layer import LayerOp


@irdl_op_definition
class TopMatMulOp(LayerOp):
    """y[..., m, n] = sum over k of input[..., m, k] * right[..., k, n], plus bias[n]; then relu.

    Both have at least two dimensions, those before the last two broadcast as in numpy. right may be a weight; with right_transpose
    it is given as (..., n, k). bias: a weight (n) or none. for_int8: nothing, or the right operand
    and the bias that 8-bit forms take instead, as in top.Conv. left_transpose, output_transpose, hdim_is_batch and keep_dims have their
    defaults in what the front end makes; no other value is computed.
    """

    name = "top.MatMul"
    DEFAULTS: ClassVar = {"right_transpose": False, "left_transpose": False, "output_transpose": False, "hdim_is_batch": False,
                "keep_dims": True, **RELU}  # fmt: skip
    input = operand_def()
    right = operand_def()
    bias = operand_def()
    for_int8 = var_operand_def()
    output = result_def()


@irdl_op_definition
class TopLayerNormOp(LayerOp):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias; mean and variance over the dimensions from `axis` to the last.

    axis is at least 0; normalized_shape are the sizes of those dimensions; weight and bias have that shape, or are none.
    """

    name = "top.LayerNorm"
    DEFAULTS: ClassVar = {"eps": 1e-5}
    input = operand_def()
    weight = operand_def()
    bias = operand_def()
    normalized_shape = attr_def(ArrayAttr)
    axis = attr_def(IntegerAttr)
    output = result_def()


OPS = (TopMatMulOp, TopLayerNormOp)
