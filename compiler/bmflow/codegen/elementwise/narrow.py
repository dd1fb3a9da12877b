"""From a wide integer to the 8-bit result: scale, zero point, saturation, without ever saturating too early.

A 16-bit saturation on the way is harmless: what it cuts is far outside 8 bits even after a zero point (|zp| <= 255) is added.
Zero points are added by ARITH, not by the requantization itself, whose constant form has no confirmed place for one.
"""

from __future__ import annotations

from bmflow.codegen.assembler import Arith, Assembler
from bmflow.codegen.operand import Constant, Local
from bmflow.ir.types import DType
from bmflow.numerics.rounding import Rounding


def emit_narrow(asm: Assembler, out: Local, wide: Local, zero_point: int) -> None:
    """out = sat(wide + zero_point); `wide` is i16 or i32 and is overwritten when the result is unsigned."""
    if zero_point == 0:
        asm.requant_const(out, wide, 1, 0)
        return
    shift = Constant(zero_point, wide.dtype)
    if out.dtype.signed:
        asm.arith(Arith.ADDS, out, wide, shift)
        return
    asm.arith(Arith.ADDS, wide, wide, shift)
    asm.requant_const(out, wide, 1, 0)


def emit_scaled(
    asm: Assembler, out: Local, x: Local, multiplier: int, rshift: int, zero_point: int, rounding: Rounding, spare: Local | None
) -> None:
    """out = sat(rshift_round(x * multiplier, rshift) + zero_point); `spare` is an i16 buffer, needed with a zero point."""
    if zero_point == 0:
        asm.requant_const(out, x, multiplier, rshift, rounding=rounding)
        return
    assert spare is not None
    asm.requant_const(spare, x, multiplier, rshift, rounding=rounding)
    emit_narrow(asm, out, spare, zero_point)


def emit_centred(asm: Assembler, x: Local, zero_point: int, spare: Local | None) -> Local:
    """x - zero_point in an i16 buffer, or x itself."""
    if zero_point == 0:
        return x
    assert spare is not None
    assert spare.dtype in (DType.I16, DType.I32)
    asm.arith(Arith.SUBS, spare, x, Constant(zero_point, spare.dtype))
    return spare
