"""Element by element: arithmetic with broadcasting, activations, softmax."""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import IntegerAttr, StringAttr
from xdsl.irdl import attr_def, irdl_op_definition, operand_def, result_def, var_operand_def

from bmflow.dialects.top.conv import RELU
from bmflow.ir.layer import LayerOp


@irdl_op_definition
class TopAddOp(LayerOp):
    """y = sum of coeff[i] * inputs[i] (coeff [] means all 1), numpy broadcasting; then relu. Inputs may be weights."""

    name = "top.Add"
    DEFAULTS: ClassVar = {"coeff": [], **RELU}
    inputs = var_operand_def()
    output = result_def()


@irdl_op_definition
class TopMulOp(LayerOp):
    """y = product of inputs, numpy broadcasting; then relu. Inputs may be weights."""

    name = "top.Mul"
    DEFAULTS: ClassVar = {**RELU}
    inputs = var_operand_def()
    output = result_def()


@irdl_op_definition
class TopReluOp(LayerOp):
    """y = max(x, 0), clamped above at relu_limit when it is positive."""

    name = "top.Relu"
    DEFAULTS: ClassVar = {"relu_limit": -1.0}
    input = operand_def()
    output = result_def()


@irdl_op_definition
class TopSigmoidOp(LayerOp):
    """y = 1 / (1 + exp(-x))."""

    name = "top.Sigmoid"
    input = operand_def()
    output = result_def()


@irdl_op_definition
class TopSiLUOp(LayerOp):
    """y = x / (1 + exp(-x))."""

    name = "top.SiLU"
    input = operand_def()
    output = result_def()


@irdl_op_definition
class TopGELUOp(LayerOp):
    """y = x / 2 * (1 + erf(x / sqrt(2))), approx_mode normal; the forms tanh and sigm are not computed."""

    name = "top.GELU"
    DEFAULTS: ClassVar = {"approx_mode": "normal"}
    input = operand_def()
    output = result_def()


@irdl_op_definition
class TopScaledActiveOp(LayerOp):
    """y = f(x * scale_in + shift_in) * scale_out per channel, f = SILU or SIGMOID by `mode`.

    input (n, c, h, w); the three others are weights (1, c, 1, 1). Made by weight equalization only; no other tool knows it.
    """

    name = "top.ScaledActive"
    input = operand_def()
    scale_in = operand_def()
    shift_in = operand_def()
    scale_out = operand_def()
    mode = attr_def(StringAttr)
    output = result_def()


@irdl_op_definition
class TopSoftmaxOp(LayerOp):
    """y = exp(beta * (x - max)) / sum over the axis (negative axes are resolved by the front end)."""

    name = "top.Softmax"
    DEFAULTS: ClassVar = {"log": False, "beta": 1.0}
    input = operand_def()
    axis = attr_def(IntegerAttr)
    output = result_def()


OPS = (TopAddOp, TopMulOp, TopReluOp, TopSigmoidOp, TopSiLUOp, TopGELUOp, TopScaledActiveOp, TopSoftmaxOp)
