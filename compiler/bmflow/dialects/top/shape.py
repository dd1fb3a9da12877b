"""Ops that move values without changing them."""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import ArrayAttr, IntegerAttr
from xdsl.irdl import attr_def, irdl_op_definition, operand_def, result_def, var_operand_def

from bmflow.dialects.top.conv import RELU
from bmflow.ir.layer import LayerOp


@irdl_op_definition
class TopConcatOp(LayerOp):
    """Join inputs along `axis`; then relu."""

    name = "top.Concat"
    DEFAULTS: ClassVar = {"axis": 1, "only_merge": False, **RELU}
    inputs = var_operand_def()
    output = result_def()


@irdl_op_definition
class TopSliceOp(LayerOp):
    """y = x[offset : ends : steps] per dimension; offset, steps and ends have one entry per dimension, all resolved
    to 0 <= offset < ends <= dim and steps > 0; `axes` is empty. The three further operands are none."""

    name = "top.Slice"
    DEFAULTS: ClassVar = {"axes": []}
    input = operand_def()
    offset_tensor = operand_def()
    ends_tensor = operand_def()
    steps_tensor = operand_def()
    offset = attr_def(ArrayAttr)
    steps = attr_def(ArrayAttr)
    ends = attr_def(ArrayAttr)
    output = result_def()


@irdl_op_definition
class TopReshapeOp(LayerOp):
    """The same values in row-major order under another shape (Flatten, Squeeze and Unsqueeze become this too)."""

    name = "top.Reshape"
    DEFAULTS: ClassVar = {"shape": [], "flatten_start_dim": -1}
    input = operand_def()
    output = result_def()


@irdl_op_definition
class TopPermuteOp(LayerOp):
    """y = transpose(x, order)."""

    name = "top.Permute"
    input = operand_def()
    order = attr_def(ArrayAttr)
    output = result_def()


@irdl_op_definition
class TopDepth2SpaceOp(LayerOp):
    """is_inversed: y[n, (bh*block_w + bw)*c + ch, i, j] = x[n, ch, i*block_h + bh, j*block_w + bw] (space to depth, not CRD);
    otherwise the inverse permutation. is_CRD puts the block index after the channel: ch*block_h*block_w + bh*block_w + bw.
    swap_cr exchanges bh and bw in the block index."""

    name = "top.Depth2Space"
    DEFAULTS: ClassVar = {"is_CRD": False, "is_inversed": False, "in_is_NCHW": True, "out_is_NCHW": True, "swap_cr": False}
    input = operand_def()
    block_h = attr_def(IntegerAttr)
    block_w = attr_def(IntegerAttr)
    output = result_def()


@irdl_op_definition
class TopUpsampleOp(LayerOp):
    """y[h][w] = x[h // scale_h][w // scale_w]."""

    name = "top.Upsample"
    DEFAULTS: ClassVar = {**RELU}
    input = operand_def()
    scale_h = attr_def(IntegerAttr)
    scale_w = attr_def(IntegerAttr)
    output = result_def()


OPS = (TopConcatOp, TopSliceOp, TopReshapeOp, TopPermuteOp, TopDepth2SpaceOp, TopUpsampleOp)
