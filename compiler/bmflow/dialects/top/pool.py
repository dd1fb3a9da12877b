"""Pooling over h and w."""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import ArrayAttr
from xdsl.irdl import attr_def, irdl_op_definition, operand_def, result_def

from bmflow.dialects.top.conv import RELU
from bmflow.ir.layer import LayerOp


class _PoolOp(LayerOp):
    """Attributes shared by both pools; pads are top, left, bottom, right; ceil_mode rounds the output size up."""

    DEFAULTS: ClassVar = {"ceil_mode": False, "count_include_pad": False, "pad_value": 0, "is_adaptive": False, "keepdims": True, **RELU}
    input = operand_def()
    kernel_shape = attr_def(ArrayAttr)
    strides = attr_def(ArrayAttr)
    pads = attr_def(ArrayAttr)
    output = result_def()


@irdl_op_definition
class TopMaxPoolOp(_PoolOp):
    """Largest value of each window; padding never wins."""

    name = "top.MaxPool"


@irdl_op_definition
class TopAvgPoolOp(_PoolOp):
    """Mean of each window, over kh*kw when count_include_pad, else over the elements inside the picture."""

    name = "top.AvgPool"


OPS = (TopMaxPoolOp, TopAvgPoolOp)
