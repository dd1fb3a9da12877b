"""Sigmoid 1 / (1 + exp(-x)), SiLU x / (1 + exp(-x)) and GELU (see gelu.py) in f32; 16-bit floats are widened first and rounded once at the end."""

from __future__ import annotations

from collections.abc import Sequence

from bmflow.codegen.assembler import Arith, Assembler
from bmflow.codegen.elementwise.base import ElementwiseEmitter, Resident
from bmflow.codegen.elementwise.exponential import EXP_LIMIT, emit_exp, exp_series
from bmflow.codegen.elementwise.gelu import emit_gelu, erfc_series
from bmflow.codegen.elementwise.narrow import emit_narrow
from bmflow.codegen.layer import zero_point
from bmflow.codegen.operand import Constant, Local
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.ir.types import DType, dtype_of
from bmflow.numerics.rounding import Rounding

MODES = ("SIGMOID", "SILU")


class ActiveEmitter(ElementwiseEmitter):
    """About fourteen commands a tile, twenty-two for GELU."""

    passes = 50

    def resident(self, op: LayerOp, module: Module) -> list[Resident]:
        """The series of exp(-x); for GELU those of exp(x) and erfc."""
        return [exp_series(1), erfc_series()] if _is_gelu(op) else [exp_series(-1)]

    def scratch(self, op: LayerOp) -> list[DType]:
        """Argument and power of two, for GELU |x|; for 16-bit floats also the input and the result in f32."""
        wide = [] if dtype_of(op.results[0]) is DType.F32 else [DType.F32, DType.F32]
        return [DType.F32, DType.I32, *([DType.F32] if _is_gelu(op) else []), *wide]

    def emit(
        self, asm: Assembler, op: LayerOp, out: Local, inputs: Sequence[Local], scratch: Sequence[Local], resident: Sequence[Local]
    ) -> None:
        """Emit the commands of one tile."""
        argument, power, *wide = scratch
        size = wide.pop(0) if _is_gelu(op) else None
        x, y = (inputs[0], out) if not wide else (wide[0], wide[1])
        if wide:
            asm.arith(Arith.CAST, x, inputs[0])
        if size is not None:
            emit_gelu(asm, y, x, (argument, size, power), resident)
        else:
            _emit_function(asm, op, y, x, argument, power, resident[0])
        if wide:
            asm.arith(Arith.CAST, out, y)


class ScaledActiveEmitter(ElementwiseEmitter):
    """f(x * scale_in + shift_in) * scale_out with scales per channel, from and to floats or integers."""

    passes = 50

    def resident(self, op: LayerOp, module: Module) -> list[Resident]:
        """The series of exp(-x)."""
        return [exp_series(-1)]

    def scratch(self, op: LayerOp) -> list[DType]:
        """Argument, its copy for the series, the power of two; the result in f32, and in i16 in front of a zero point."""
        y = dtype_of(op.results[0])
        return [DType.F32, DType.F32, DType.I32, *([] if y is DType.F32 else [DType.F32]), *([] if y.is_float else [DType.I16])]

    def emit(
        self, asm: Assembler, op: LayerOp, out: Local, inputs: Sequence[Local], scratch: Sequence[Local], resident: Sequence[Local]
    ) -> None:
        """Emit the commands of one tile."""
        x, scale_in, shift_in, scale_out = inputs
        argument, copy, power, *wide = scratch
        y = wide[0] if wide else out
        if x.dtype is not DType.F32:
            asm.arith(Arith.CAST, argument, x)
            x = argument
        asm.arith(Arith.MUL, argument, x, scale_in)
        asm.arith(Arith.ADD, argument, argument, shift_in)
        _emit_function(asm, op, y, argument, copy, power, resident[0])
        asm.arith(Arith.MUL, y, y, scale_out)
        if out.dtype.is_float:
            if wide:
                asm.arith(Arith.CAST, out, y)
            return
        asm.arith(Arith.CAST, wide[1], y, rounding=Rounding.HALF_AWAY)
        emit_narrow(asm, out, wide[1], zero_point(op.results[0]))


def _is_gelu(op: LayerOp) -> bool:
    return str(op["mode"]) == "GELU"


def _emit_function(asm: Assembler, op: LayerOp, out: Local, x: Local, spare: Local, power: Local, series: Local) -> None:
    """out = f(x), all f32 but the i32 buffer `power`; `spare` is overwritten, x is not."""
    mode = str(op["mode"])
    asm.require(mode in MODES, f"the function {mode}; only {' and '.join(MODES)} exist")
    asm.arith(Arith.MAX, spare, x, Constant(-EXP_LIMIT, DType.F32))
    asm.arith(Arith.MIN, spare, spare, Constant(EXP_LIMIT, DType.F32))
    emit_exp(asm, out, spare, power, series, -1)
    asm.arith(Arith.ADD, out, out, Constant(1.0, DType.F32))
    asm.arith(Arith.DIV, out, x if mode == "SILU" else Constant(1.0, DType.F32), out)
