"""Add and Mul of any number of tensors, in integers and in floats.

INT8 Add: y = sat(sum of rshift_round((x_i - zp_i) * multipliers[i], rshifts[i]) + zp_y); INT8 Mul: one product, one requantization.
Floats are computed in f32 and rounded once: directly in the 16-bit type for two plain operands, else in f32 buffers.
"""

from __future__ import annotations

from collections.abc import Sequence

from bmflow.codegen.assembler import Arith, Assembler
from bmflow.codegen.elementwise.base import ElementwiseEmitter, integer
from bmflow.codegen.elementwise.narrow import emit_centred, emit_narrow, emit_scaled
from bmflow.codegen.emit_conv import emit_relu
from bmflow.codegen.layer import zero_point
from bmflow.codegen.operand import Constant, Local
from bmflow.ir.layer import LayerOp
from bmflow.ir.types import DType, dtype_of
from bmflow.numerics.rounding import Rounding

MAX_FACTORS = 3
"""8-bit factors, zero points removed, whose product fits 32 bits."""


class AddEmitter(ElementwiseEmitter):
    """Weighted sum."""

    def scratch(self, op: LayerOp) -> list[DType]:
        """Sum and term: i16 holds two terms as long as the sum is narrowed at once, more need i32; f32 where 16 bits do not do."""
        if dtype_of(op.results[0]).is_float:
            return _float_scratch(op, _coefficients(op))
        return [DType.I16 if len(op.operands) <= 2 else DType.I32] * 2

    def emit(
        self, asm: Assembler, op: LayerOp, out: Local, inputs: Sequence[Local], scratch: Sequence[Local], resident: Sequence[Local]
    ) -> None:
        """Emit the commands of one tile."""
        if out.dtype.is_float:
            _emit_floats(asm, op, Arith.ADD, out, inputs, scratch, _coefficients(op))
            return
        total, term = scratch
        self._emit_terms(asm, op, inputs, total, term)
        zero = zero_point(op.results[0])
        if len(inputs) == 2 and zero == 0 and out.dtype.signed:
            asm.arith(Arith.ADDS, out, total, term)
        else:
            if len(inputs) > 1:
                asm.arith(Arith.ADDS, total, total, term)
            emit_narrow(asm, out, total, zero)
        emit_relu(asm, op, out, zero)

    @staticmethod
    def _emit_terms(asm: Assembler, op: LayerOp, inputs: Sequence[Local], total: Local, term: Local) -> None:
        """Leave the last term in `term` and the sum of those before it in `total`; a single one in `total`."""
        multipliers, rshifts = op.ints("multipliers"), op.ints("rshifts")
        for i, (x, multiplier, rshift) in enumerate(zip(inputs, multipliers, rshifts, strict=True)):
            asm.require(rshift >= 0, f"a sum whose operand {i} is shifted left by {-rshift}")
            if i > 1:
                asm.arith(Arith.ADDS, total, total, term)
            target = term if i else total
            centred = emit_centred(asm, x, zero_point(op.operands[i]), target)
            shift = Constant(-rshift, DType.I8)
            asm.arith(Arith.MULS, target, centred, Constant(multiplier, DType.I8), shift, rounding=Rounding.HALF_UP)


class MulEmitter(ElementwiseEmitter):
    """Product."""

    def scratch(self, op: LayerOp) -> list[DType]:
        """INT8: the i32 product, and two i16 buffers where there are zero points."""
        if dtype_of(op.results[0]).is_float:
            return _float_scratch(op, [1.0] * len(op.operands))
        zero_points = any(zero_point(value) for value in (*op.operands, op.results[0]))
        return [DType.I32, *([DType.I16] * 2 if zero_points else [])]

    def emit(
        self, asm: Assembler, op: LayerOp, out: Local, inputs: Sequence[Local], scratch: Sequence[Local], resident: Sequence[Local]
    ) -> None:
        """Emit the commands of one tile."""
        if out.dtype.is_float:
            _emit_floats(asm, op, Arith.MUL, out, inputs, scratch, [1.0] * len(inputs))
            return
        asm.require(2 <= len(inputs) <= MAX_FACTORS, f"a product of {len(inputs)} integer tensors")
        product, spares = scratch[0], [*scratch[1:], None, None]
        zeros = [zero_point(value) for value in op.operands]
        first = emit_centred(asm, inputs[0], zeros[0], spares[0])
        for x, zero in zip(inputs[1:], zeros[1:], strict=True):
            second = emit_centred(asm, x, zero, spares[1])
            target = product if first.dtype.signed or second.dtype.signed else product.as_dtype(DType.U32)
            asm.arith(Arith.MULS, target, first, second)
            first = product
        zero = zero_point(op.results[0])
        emit_scaled(asm, out, product, integer(op, "multiplier"), integer(op, "rshift"), zero, Rounding.HALF_UP, spares[0])
        emit_relu(asm, op, out, zero)


def _coefficients(op: LayerOp) -> list[float]:
    given = op["coeff"]
    assert isinstance(given, list)
    return [float(value) for value in given] if given else [1.0] * len(op.operands)  # pyright: ignore[reportArgumentType]


def _is_direct(op: LayerOp, factors: Sequence[float]) -> bool:
    """Whether one command on the stored type rounds only once."""
    types = {dtype_of(value) for value in (*op.operands, op.results[0])}
    return len(types) == 1 and len(factors) == 2 and set(factors) == {1.0}


def _float_scratch(op: LayerOp, factors: Sequence[float]) -> list[DType]:
    """None, or one f32 buffer for a term, and one for the result where that is not f32."""
    if _is_direct(op, factors):
        return []
    return [DType.F32] if dtype_of(op.results[0]) is DType.F32 else [DType.F32, DType.F32]


def _emit_floats(
    asm: Assembler, op: LayerOp, arith: Arith, out: Local, inputs: Sequence[Local], scratch: Sequence[Local], factors: Sequence[float]
) -> None:
    """out = factors[0] * x_0 arith factors[1] * x_1 ..., relu."""
    if not scratch:
        asm.arith(arith, out, inputs[0], inputs[1])
        emit_relu(asm, op, out)
        return
    total = out if out.dtype is DType.F32 else scratch[1]
    result = _emit_factor(asm, inputs[0], factors[0], total)
    for x, factor in zip(inputs[1:], factors[1:], strict=True):
        asm.arith(arith, total, result, _emit_factor(asm, x, factor, scratch[0]))
        result = total
    if result is not out:
        asm.arith(Arith.COPY if result.dtype is out.dtype else Arith.CAST, out, result)
    emit_relu(asm, op, out)


def _emit_factor(asm: Assembler, x: Local, factor: float, buffer: Local) -> Local:
    """factor * x in f32: `x` itself, or `buffer`."""
    if x.dtype is not DType.F32:
        asm.arith(Arith.CAST, buffer, x)
        x = buffer
    if factor == 1.0:
        return x
    asm.arith(Arith.MUL, buffer, x, Constant(factor, DType.F32))
    return buffer
