"""exp in f32: exp(x) = 2^k * exp(r), k = round(x / ln 2), |r| <= ln(2) / 2, by a series of eight terms.

k * ln 2 is subtracted in two parts, the first of which has few enough digits that k times it is exact. 2^k is put together by
integer arithmetic on the exponent bits. The series stops where the next term is below 2^-27 of the result.
"""

from __future__ import annotations

from math import factorial, log, log2

import numpy as np

from bmflow.codegen.assembler import Arith, Assembler
from bmflow.codegen.elementwise.base import Resident
from bmflow.codegen.operand import Constant, Local
from bmflow.ir.types import DType
from bmflow.numerics.rounding import Rounding

EXP_LIMIT = 87.0
"""exp(-87) and exp(87) and the powers of two they are made of are normal f32 numbers."""
TERMS = 8
LN2_HIGH = 355 / 512
LN2_LOW = log(2.0) - LN2_HIGH
EXPONENT_BIAS, MANTISSA_BITS = 127, 23


def exp_series(sign: int) -> Resident:
    """Coefficients sign^k / k! of exp(sign * x)."""
    values = [sign**k / factorial(k) for k in range(TERMS)]
    return Resident("exp_series" if sign > 0 else "exp_series_of_minus", np.array(values, np.float32), DType.F32)


def emit_exp(asm: Assembler, out: Local, x: Local, power: Local, series: Local, sign: int) -> None:
    """out = exp(sign * x) for |x| <= EXP_LIMIT.

    Args:
        out: f32.
        x: f32, overwritten.
        power: an i32 buffer.
        series: the constants of `exp_series(sign)`.
    """
    asm.arith(Arith.MUL, out, x, Constant(sign * log2(np.e), DType.F32))
    asm.arith(Arith.CAST, power, out, rounding=Rounding.HALF_TO_EVEN)
    for part in (LN2_HIGH, LN2_LOW):
        asm.arith(Arith.CAST, out, power)
        asm.arith(Arith.MUL, out, out, Constant(sign * part, DType.F32))
        asm.arith(Arith.SUB, x, x, out)
    asm.taylor(out, x, series, TERMS)
    asm.arith(Arith.ADD, power, power, Constant(EXPONENT_BIAS, DType.I32), Constant(MANTISSA_BITS, DType.I8))
    asm.arith(Arith.MUL, out, out, power.as_dtype(DType.F32))
