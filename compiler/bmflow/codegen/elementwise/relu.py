"""Relu alone: y = max(x, 0), for floats also min(y, relu_limit)."""

from __future__ import annotations

from collections.abc import Sequence

from bmflow.codegen.assembler import Arith, Assembler
from bmflow.codegen.elementwise.base import ElementwiseEmitter
from bmflow.codegen.operand import Constant, Local
from bmflow.ir.layer import LayerOp


class ReluEmitter(ElementwiseEmitter):
    """One maximum; both types are floats of one kind or 8-bit integers without zero point."""

    def emit(
        self, asm: Assembler, op: LayerOp, out: Local, inputs: Sequence[Local], scratch: Sequence[Local], resident: Sequence[Local]
    ) -> None:
        """Emit the commands of one tile."""
        (x,) = inputs
        if x.dtype.is_float:
            asm.arith(Arith.MAX, out, x, Constant(0.0, x.dtype))
            limit = float(op.settings().get("relu_limit", -1.0))  # pyright: ignore[reportArgumentType]
            if limit > 0:
                asm.arith(Arith.MIN, out, out, Constant(limit, out.dtype))
        elif x.dtype.signed:
            # what is left is 0..127, the same byte in both signednesses
            asm.arith(Arith.MAX, out.as_dtype(x.dtype), x, Constant(0, x.dtype))
        else:
            asm.requant_const(out, x, 1, 0)
