"""Ops that move values without changing them; operands and attributes as in the top dialect."""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import ArrayAttr, IntegerAttr
from xdsl.irdl import attr_def, irdl_op_definition, operand_def, result_def, var_operand_def

from bmflow.dialects.top.conv import RELU
from bmflow.ir.layer import LayerOp


@irdl_op_definition
class TpuConcatOp(LayerOp):
    """Join inputs of one type along `axis`."""

    name = "tpu.Concat"
    DEFAULTS: ClassVar = {"axis": 1, "only_merge": False, **RELU}
    inputs = var_operand_def()
    output = result_def()


@irdl_op_definition
class TpuSliceOp(LayerOp):
    """y = x[offset : ends : steps] per dimension, as top.Slice; the four further operands are none."""

    name = "tpu.Slice"
    DEFAULTS: ClassVar = {"axes": []}
    input = operand_def()
    offset_tensor = operand_def()
    ends_tensor = operand_def()
    steps_tensor = operand_def()
    buffer = operand_def()
    offset = attr_def(ArrayAttr)
    steps = attr_def(ArrayAttr)
    ends = attr_def(ArrayAttr)
    output = result_def()


@irdl_op_definition
class TpuReshapeOp(LayerOp):
    """The same values in row-major order under another shape."""

    name = "tpu.Reshape"
    DEFAULTS: ClassVar = {"shape": [], "flatten_start_dim": -1}
    input = operand_def()
    output = result_def()


@irdl_op_definition
class TpuPermuteOp(LayerOp):
    """y = transpose(x, order); the further operand is none."""

    name = "tpu.Permute"
    input = operand_def()
    buffer = operand_def()
    order = attr_def(ArrayAttr)
    output = result_def()


@irdl_op_definition
class TpuDepth2SpaceOp(LayerOp):
    """As top.Depth2Space."""

    name = "tpu.Depth2Space"
    DEFAULTS: ClassVar = {"is_CRD": False, "is_inversed": False, "in_is_NCHW": True, "out_is_NCHW": True, "swap_cr": False}
    input = operand_def()
    block_h = attr_def(IntegerAttr)
    block_w = attr_def(IntegerAttr)
    output = result_def()


@irdl_op_definition
class TpuUpsampleOp(LayerOp):
    """As top.Upsample; the further operand is none."""

    name = "tpu.Upsample"
    DEFAULTS: ClassVar = {**RELU}
    input = operand_def()
    buffer = operand_def()
    scale_h = attr_def(IntegerAttr)
    scale_w = attr_def(IntegerAttr)
    output = result_def()


OPS = (TpuConcatOp, TpuSliceOp, TpuReshapeOp, TpuPermuteOp, TpuDepth2SpaceOp, TpuUpsampleOp)
