"""Matrix products and layer normalization; `rshift_round` and `sat` as in compute."""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import ArrayAttr
from xdsl.irdl import attr_def, irdl_op_definition, operand_def, result_def

from bmflow.dialects.top.conv import RELU
from bmflow.ir.layer import LayerOp


@irdl_op_definition
class TpuMatMulOp(LayerOp):
    """INT8: acc = sum of x * r + bias (i32); y = sat(max(rshift_round(acc * multipliers[0], rshifts[0]) + zp_y, zp_y if do_relu)).

    input (..., m, k), right (..., k, n), or (..., n, k) with right_transpose; dimensions before the last two broadcast. INT8: zp_x may
    differ from 0 only where right is a weight (-zp_x * its column sums are inside the bias then), right has none; bias: i32 (n), or none.
    Float: bias (n) in the type of the input, the sum and the bias in float32, relu, one rounding.
    """

    name = "tpu.MatMul"
    DEFAULTS: ClassVar = {"right_transpose": False, "left_transpose": False, "output_transpose": False, "hdim_is_batch": False,
                "keep_dims": True, "multipliers": [1], "rshifts": [0], "quant_mode": "MultiplierShift", **RELU}  # fmt: skip
    input = operand_def()
    right = operand_def()
    bias = operand_def()
    output = result_def()


@irdl_op_definition
class TpuLayerNormOp(LayerOp):
    """As top.LayerNorm, floats only; computed in float32 (weight and bias in the type of the input) and rounded once at the result."""

    name = "tpu.LayerNorm"
    DEFAULTS: ClassVar = {"eps": 1e-5}
    input = operand_def()
    weight = operand_def()
    bias = operand_def()
    normalized_shape = attr_def(ArrayAttr)
    axis = attr_def()
    output = result_def()


OPS = (TpuMatMulOp, TpuLayerNormOp)
