"""Convolution and batch normalization."""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import ArrayAttr
from xdsl.irdl import attr_def, irdl_op_definition, operand_def, result_def, var_operand_def

from bmflow.ir.layer import LayerOp

RELU = {"do_relu": False, "relu_limit": -1.0}


@irdl_op_definition
class TopConvOp(LayerOp):
    """y[n,oc,y,x] = sum over ic,ky,kx of x * w, plus b[oc]; then relu.

    input (n, c, h, w); filter (oc, c / group, kh, kw); bias (oc) or none. pads are top, left, bottom, right.
    for_int8: nothing, or the filter and the bias that 8-bit forms take instead; corrections make them, and no other tool knows them.
    """

    name = "top.Conv"
    DEFAULTS: ClassVar = {"group": 1, "dilations": [1, 1], "weight_is_coeff": 1, **RELU}
    input = operand_def()
    filter = operand_def()
    bias = operand_def()
    for_int8 = var_operand_def()
    kernel_shape = attr_def(ArrayAttr)
    strides = attr_def(ArrayAttr)
    pads = attr_def(ArrayAttr)
    output = result_def()


@irdl_op_definition
class TopBatchNormOp(LayerOp):
    """y = (x - mean) / sqrt(variance + epsilon) * gamma + beta per channel; all four are weights of shape (c)."""

    name = "top.BatchNorm"
    DEFAULTS: ClassVar = {"epsilon": 1e-5, **RELU}
    input = operand_def()
    mean = operand_def()
    variance = operand_def()
    gamma = operand_def()
    beta = operand_def()
    output = result_def()


OPS = (TopConvOp, TopBatchNormOp)
