"""The three ops every module is made of, whatever its state: inputs, weights, and the placeholder of absent operands."""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import NoneType
from xdsl.irdl import irdl_op_definition, operand_def, result_def

from bmflow.ir.layer import LayerOp


@irdl_op_definition
class TopNoneOp(LayerOp):
    """The absent operand; has no layer name."""

    name = "top.None"
    RESULT: ClassVar = NoneType()
    output = result_def(NoneType)


@irdl_op_definition
class TopInputOp(LayerOp):
    """A network input and the preprocessing recorded for it.

    mean and scale are in the order of pixel_format: y = (x - mean) * scale. An input with pixel_format "" takes
    tensors as they are.
    """

    name = "top.Input"
    DEFAULTS: ClassVar = {
        "pixel_format": "", "channel_format": "nchw", "resize_dims": [], "keep_aspect_ratio": False,
        "keep_ratio_mode": "letterbox", "pad_value": 0, "pad_type": "center", "mean": [], "scale": [], "yuv_type": "",
        "do_preprocess": False,
    }  # fmt: skip
    input = operand_def()
    output = result_def()


@irdl_op_definition
class TopWeightOp(LayerOp):
    """A constant; its layer name is the array's name in the weight npz. Optional `scale`: per-channel weight scales."""

    name = "top.Weight"
    output = result_def()


STRUCTURE_OPS = (TopNoneOp, TopInputOp, TopWeightOp)
