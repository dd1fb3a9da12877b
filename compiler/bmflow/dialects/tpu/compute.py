"""Ops that compute: convolution, pooling, arithmetic, activations, softmax.

`rshift_round(v, n)` below rounds half up unless stated (quantization.md 1); `sat` clamps to the result's storage type;
zp_x, zp_y are the zero points of the input's and output's types. Float forms compute in float32 and round once, at the
result, to its type (round to nearest even).
"""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import ArrayAttr
from xdsl.irdl import attr_def, irdl_op_definition, operand_def, result_def, var_operand_def

from bmflow.dialects.top.conv import RELU
from bmflow.ir.layer import LayerOp


@irdl_op_definition
class TpuConv2DOp(LayerOp):
    """INT8: acc = sum (x padded with zp_x) * w + bias (i32); y = sat(max(rshift_round(acc * multiplier[oc], rshift[oc]) + zp_y, zp_y if do_relu)).

    input (n,c,h,w); filter (oc, c/group, kh, kw) si8/ui8/f16/bf16/f32; bias 1 x oc x 1 x 1 i32 for INT8 (zp_x * sum(w)
    is already inside), (oc) f32 for floats, or none. multiplier and rshift are lists of oc (INT8 only; a negative rshift
    shifts left).
    """

    name = "tpu.Conv2D"
    DEFAULTS: ClassVar = {"group": 1, "dilations": [1, 1], "weight_is_coeff": 1, "with_bias": False, "multiplier": [], "rshift": [],
                "quant_mode": "MultiplierShift", "do_winograd": False, **RELU}  # fmt: skip
    input = operand_def()
    filter = operand_def()
    bias = operand_def()
    kernel_shape = attr_def(ArrayAttr)
    strides = attr_def(ArrayAttr)
    pads = attr_def(ArrayAttr)
    output = result_def()


@irdl_op_definition
class TpuPool2DOp(LayerOp):
    """pool_mode Max: largest value, padding never wins. Avg, INT8 symmetric: y = sat(rshift_round(sum * multiplier, rshift)), relu before sat.

    Avg INT8 asymmetric carries f64 `scale` and `offset` instead: y = sat(round_half_away(sum * scale + offset)). Avg float: mean as in
    top.AvgPool. ceil_mode has been turned into bottom and right pads.
    """

    name = "tpu.Pool2D"
    DEFAULTS: ClassVar = {"count_include_pad": False, "pad_value": 0, "is_adaptive": False, "keepdims": True, "ceil_mode": False,
                "multiplier": 1, "rshift": 0, "scale": 0.0, "offset": 0.0, **RELU}  # fmt: skip
    input = operand_def()
    kernel_shape = attr_def(ArrayAttr)
    strides = attr_def(ArrayAttr)
    pads = attr_def(ArrayAttr)
    pool_mode = attr_def()
    output = result_def()


@irdl_op_definition
class TpuAddOp(LayerOp):
    """INT8: y = sat(sum over i of rshift_round((x_i - zp_i) * multipliers[i], rshifts[i]) + zp_y), relu (max with zp_y) before sat. Float: sum
    of coeff[i] * x_i. Numpy broadcasting; inputs may be weights (i8/u8 for INT8, zero point 0)."""

    name = "tpu.Add"
    DEFAULTS: ClassVar = {"coeff": [], "multipliers": [], "rshifts": [], **RELU}
    inputs = var_operand_def()
    output = result_def()


@irdl_op_definition
class TpuMulOp(LayerOp):
    """INT8: y = sat(rshift_round(product of (x_i - zp_i) * multiplier, rshift) + zp_y), relu before sat. Float: product."""

    name = "tpu.Mul"
    DEFAULTS: ClassVar = {"multiplier": 1, "rshift": 0, **RELU}
    inputs = var_operand_def()
    output = result_def()


@irdl_op_definition
class TpuReluOp(LayerOp):
    """y = max(x, 0), clamped above at relu_limit when positive (floats); INT8 symmetric only."""

    name = "tpu.Relu"
    DEFAULTS: ClassVar = {"relu_limit": -1.0}
    input = operand_def()
    output = result_def()


@irdl_op_definition
class TpuLutOp(LayerOp):
    """y = table[x & 0xff]: an 8-bit look-up indexed by the raw byte of x.

    table: weight of the result's storage type, 1x1x1x256, or 1xCx1x256 with a table of its own for every channel of an
    (n, C, h, w) input."""

    name = "tpu.Lut"
    input = operand_def()
    table = operand_def()
    output = result_def()


@irdl_op_definition
class TpuActiveOp(LayerOp):
    """A unary float function, `mode` #tpu<active_mode SIGMOID>, SILU or GELU."""

    name = "tpu.Active"
    input = operand_def()
    mode = attr_def()
    output = result_def()


@irdl_op_definition
class TpuScaledActiveOp(LayerOp):
    """y = f(x * scale_in + shift_in) * scale_out in float32, `mode` #tpu<active_mode SIGMOID> or SILU; input (n, c, h, w), the others 1xcx1x1.

    x and y are floats or integers. Of integers the stored numbers are meant: x goes in as it is, and y is sat(round_half_away(...) + zp_y);
    steps and the zero point of x are in the scales. The vendor's dialect has no such op."""

    name = "tpu.ScaledActive"
    input = operand_def()
    scale_in = operand_def()
    shift_in = operand_def()
    scale_out = operand_def()
    mode = attr_def()
    output = result_def()


@irdl_op_definition
class TpuSoftmaxOp(LayerOp):
    """Softmax over `axis`. Float: as top.Softmax. INT8 (axis 1, rank 4): table E (f32, 1x1x1x256, E[d] = exp(-s_x*d*beta));
    d = uint8(max - x); y = sat(trunc(E[d] / (sum * s_y) + 0.5) + zp_y), sum in float32 in channel order. The last four operands are none."""

    name = "tpu.Softmax"
    DEFAULTS: ClassVar = {"log": False, "beta": 1.0}
    input = operand_def()
    table = operand_def()
    slope_table = operand_def()
    reciprocal_table = operand_def()
    mantissa_table = operand_def()
    buffer = operand_def()
    axis = attr_def()
    output = result_def()


OPS = (TpuConv2DOp, TpuPool2DOp, TpuAddOp, TpuMulOp, TpuReluOp, TpuLutOp, TpuActiveOp, TpuScaledActiveOp, TpuSoftmaxOp)
