"""Ops that change the number type or the scale of a value."""

from __future__ import annotations

from typing import ClassVar

from xdsl.irdl import irdl_op_definition, operand_def, result_def

from bmflow.ir.layer import LayerOp


@irdl_op_definition
class TpuCastOp(LayerOp):
    """Float to integer: y = sat(round_half_away(x * float32(1/scale)) + zp_y); integer to float: y = float32(scale) * (x - zp_x);
    float to float: round to nearest even. From an F16 (BF16) value the reciprocal and the product are each rounded to
    f16 (bf16) first; to F16 the scale, the difference and the product are each rounded to f16, BF16 alike."""

    name = "tpu.Cast"
    input = operand_def()
    output = result_def()


@irdl_op_definition
class TpuMulShiftOp(LayerOp):
    """y = sat(rshift_round((x - zp_x) * multiplier, rshift) + zp_y), half up."""

    name = "tpu.MulShift"
    DEFAULTS: ClassVar = {"multiplier": 1, "rshift": 0}
    input = operand_def()
    output = result_def()


@irdl_op_definition
class TpuRequantIntOp(LayerOp):
    """y = sat(rshift_round((x - zp_x) * multiplier, rshift, half away from zero) + zp_y)."""

    name = "tpu.RequantInt"
    DEFAULTS: ClassVar = {"multiplier": 1, "rshift": 0, "quant_mode": "MultiplierShift"}
    input = operand_def()
    output = result_def()


OPS = (TpuCastOp, TpuMulShiftOp, TpuRequantIntOp)
