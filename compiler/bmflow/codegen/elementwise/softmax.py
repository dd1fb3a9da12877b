"""Softmax over the h axis of a tile: largest value, exp of the distance to it, sum, quotient; in f32 whatever the storage type.

INT8: y = sat(trunc(E / (sum * s_y) + 0.5) + zp_y) with E = exp(-s_x * beta * (max - x)); the table E of the op is not used, its
entries are computed, so a result may differ by one step where it lies next to a tie.
"""

from __future__ import annotations

from collections.abc import Sequence

from bmflow.codegen.assembler import Arith, Assembler
from bmflow.codegen.elementwise.base import ElementwiseEmitter, Resident, number
from bmflow.codegen.elementwise.exponential import EXP_LIMIT, emit_exp, exp_series
from bmflow.codegen.elementwise.narrow import emit_narrow
from bmflow.codegen.elementwise.reduce import along_h, emit_maximum, emit_mean, row_of
from bmflow.codegen.operand import Constant, Local, aligned
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.ir.types import DType, quantization_of
from bmflow.numerics.rounding import Rounding


class SoftmaxEmitter(ElementwiseEmitter):
    """The whole axis lies in one lane, so that a pool over h gives maximum and sum."""

    reduce_h = True
    passes = 45

    def resident(self, op: LayerOp, module: Module) -> list[Resident]:
        """The series of exp(x)."""
        return [exp_series(1)]

    def scratch(self, op: LayerOp) -> list[DType]:
        """Distance to the maximum, power of two, exp, and a row for maximum and sum."""
        return [DType.F32, DType.I32, DType.F32, DType.F32]

    def emit(
        self, asm: Assembler, op: LayerOp, out: Local, inputs: Sequence[Local], scratch: Sequence[Local], resident: Sequence[Local]
    ) -> None:
        """Emit the commands of one tile."""
        asm.require(not op["log"], "the logarithm of a softmax")
        distance, power, exponential, buffer = scratch
        row = row_of(asm, buffer, out)
        every = along_h(row, out)
        source = quantization_of(op.operands[0])
        self._emit_distance(asm, distance, inputs[0], row, every, number(op, "beta") * (source.scale if source else 1.0))
        emit_exp(asm, exponential, distance, power, resident[0], 1)
        emit_mean(asm, row, exponential, 1.0)
        if out.dtype is DType.F32:
            asm.arith(Arith.DIV, out, exponential, every)
        elif out.dtype.is_float:
            asm.arith(Arith.DIV, distance, exponential, every)
            asm.arith(Arith.CAST, out, distance)
        else:
            self._emit_quantized(asm, op, out, exponential, row, every, power)

    @staticmethod
    def _emit_distance(asm: Assembler, distance: Local, x: Local, row: Local, every: Local, factor: float) -> None:
        """distance = max(factor * (x - largest x), -EXP_LIMIT)."""
        if x.dtype is not DType.F32:
            asm.arith(Arith.CAST, distance, x)
            x = distance
        emit_maximum(asm, row, x)
        asm.arith(Arith.SUB, distance, x, every)
        if factor != 1.0:
            asm.arith(Arith.MUL, distance, distance, Constant(factor, DType.F32))
        asm.arith(Arith.MAX, distance, distance, Constant(-EXP_LIMIT, DType.F32))

    @staticmethod
    def _emit_quantized(asm: Assembler, op: LayerOp, out: Local, exponential: Local, row: Local, every: Local, spare: Local) -> None:
        """out = sat(trunc(exponential / (sum * s_y) + 0.5) + zp_y)."""
        to = quantization_of(op.results[0])
        assert to is not None
        asm.arith(Arith.MUL, row, row, Constant(to.scale, DType.F32))
        asm.arith(Arith.DIV, exponential, exponential, every)
        asm.arith(Arith.ADD, exponential, exponential, Constant(0.5, DType.F32))
        if to.zero_point == 0:
            asm.arith(Arith.CAST, out, exponential, rounding=Rounding.TOWARD_ZERO)
            return
        wide = aligned(asm.memory, spare.address, out.shape, DType.I16, spare.lane)
        asm.arith(Arith.CAST, wide, exponential, rounding=Rounding.TOWARD_ZERO)
        emit_narrow(asm, out, wide, to.zero_point)
