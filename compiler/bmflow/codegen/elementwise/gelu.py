"""GELU in f32: x / 2 * (1 + erf(x / sqrt(2))) = max(x, 0) - |x| / 2 * erfc(|x| / sqrt(2)).

erfc(z) = t * exp(-z^2 + p(t)) with t = 1 / (1 + z / 2), p of degree 9, for z >= 0: relative error below 1.2e-7 (Press et al., Numerical
Recipes, function erfcc). The form with erfc loses no digits where x is far below zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

from bmflow.codegen.assembler import Arith, Assembler
from bmflow.codegen.elementwise.base import Resident
from bmflow.codegen.elementwise.exponential import EXP_LIMIT, emit_exp
from bmflow.codegen.operand import Constant, Local
from bmflow.ir.types import DType

ERFC = (
    -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277,
)  # fmt: skip
"""Coefficients of p, constant first."""


def erfc_series() -> Resident:
    """Coefficients of p."""
    return Resident("erfc_series", np.array(ERFC, np.float32), DType.F32)


def emit_gelu(asm: Assembler, out: Local, x: Local, spare: tuple[Local, Local, Local], series: Sequence[Local]) -> None:
    """out = GELU(x), both f32; x is kept.

    Args:
        spare: two f32 buffers and an i32 one.
        series: the constants of `exp_series(1)` and `erfc_series()`.
    """
    argument, t, power = spare
    asm.arith(Arith.ABS, out, x)
    asm.arith(Arith.MUL, t, out, Constant(1 / (2 * sqrt(2)), DType.F32))
    asm.arith(Arith.ADD, t, t, Constant(1.0, DType.F32))
    asm.arith(Arith.DIV, t, Constant(1.0, DType.F32), t)
    asm.taylor(argument, t, series[1], len(ERFC))
    asm.arith(Arith.MUL, out, out, out)
    asm.arith(Arith.MUL, out, out, Constant(0.5, DType.F32))
    asm.arith(Arith.SUB, argument, argument, out)
    asm.arith(Arith.MAX, argument, argument, Constant(-EXP_LIMIT, DType.F32))
    emit_exp(asm, out, argument, power, series[0], 1)
    asm.arith(Arith.MUL, out, out, t)
    asm.arith(Arith.ABS, t, x)
    asm.arith(Arith.MUL, out, out, t)
    asm.arith(Arith.MUL, out, out, Constant(0.5, DType.F32))
    asm.arith(Arith.MAX, t, x, Constant(0.0, DType.F32))
    asm.arith(Arith.SUB, out, t, out)
