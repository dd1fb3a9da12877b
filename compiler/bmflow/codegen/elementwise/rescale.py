"""MulShift and RequantInt: one scale to another. y = sat(rshift_round((x - zp_x) * multiplier, rshift) + zp_y)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bmflow.codegen.assembler import Assembler
from bmflow.codegen.elementwise.base import ElementwiseEmitter, integer
from bmflow.codegen.elementwise.narrow import emit_centred, emit_scaled
from bmflow.codegen.layer import zero_point
from bmflow.codegen.operand import Local
from bmflow.ir.layer import LayerOp
from bmflow.ir.types import DType
from bmflow.numerics.rounding import Rounding


@dataclass(frozen=True)
class RescaleEmitter(ElementwiseEmitter):
    """One requantization; with zero points a subtraction before and an addition after it."""

    rounding: Rounding

    def scratch(self, op: LayerOp) -> list[DType]:
        """An i16 buffer when there is a zero point."""
        return [DType.I16] if zero_point(op.operands[0]) or zero_point(op.results[0]) else []

    def emit(
        self, asm: Assembler, op: LayerOp, out: Local, inputs: Sequence[Local], scratch: Sequence[Local], resident: Sequence[Local]
    ) -> None:
        """Emit the commands of one tile."""
        spare = scratch[0] if scratch else None
        x = emit_centred(asm, inputs[0], zero_point(op.operands[0]), spare)
        multiplier, rshift = integer(op, "multiplier"), integer(op, "rshift")
        emit_scaled(asm, out, x, multiplier, rshift, zero_point(op.results[0]), self.rounding, spare)
