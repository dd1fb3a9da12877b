"""Casts between floats and quantized integers, and among floats.

To integers: y = sat(round_half_away(x * 1/scale) + zp); from integers: y = scale * (x - zp). All in the float type of the
operand or result, each step rounded to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bmflow.codegen.assembler import Arith, Assembler
from bmflow.codegen.elementwise.base import ElementwiseEmitter
from bmflow.codegen.elementwise.narrow import emit_narrow
from bmflow.codegen.operand import Constant, Local
from bmflow.ir.layer import LayerOp
from bmflow.ir.types import DType, Quantization, dtype_of, quantization_of
from bmflow.ir.values import SSAValue
from bmflow.numerics.rounding import Rounding


class CastEmitter(ElementwiseEmitter):
    """One of the four directions, by the types."""

    def scratch(self, op: LayerOp) -> list[DType]:
        """To integers: the product, and an i16 buffer when there is a zero point."""
        x, y = dtype_of(op.operands[0]), dtype_of(op.results[0])
        if not x.is_float or y.is_float:
            return []
        return [x, *([DType.I16] if _quantization(op.results[0]).zero_point else [])]

    def emit(
        self, asm: Assembler, op: LayerOp, out: Local, inputs: Sequence[Local], scratch: Sequence[Local], resident: Sequence[Local]
    ) -> None:
        """Emit the commands of one tile."""
        (x,) = inputs
        asm.require(x.dtype.is_float or out.dtype.is_float, f"a cast of {x.dtype.value} to {out.dtype.value}")
        if x.dtype.is_float and out.dtype.is_float:
            asm.arith(Arith.COPY if x.dtype is out.dtype else Arith.CAST, out, x)
        elif x.dtype.is_float:
            _emit_quantize(asm, out, x, scratch, _quantization(op.results[0]))
        else:
            _emit_dequantize(asm, out, x, _quantization(op.operands[0]))


def _quantization(value: SSAValue) -> Quantization:
    quantization = quantization_of(value)
    assert quantization is not None, f"{value}: an integer without a scale"
    return quantization


def _emit_quantize(asm: Assembler, out: Local, x: Local, scratch: Sequence[Local], to: Quantization) -> None:
    product = scratch[0]
    asm.arith(Arith.MUL, product, x, Constant(float(np.float32(1.0 / to.scale)), x.dtype))
    if to.zero_point == 0:
        asm.arith(Arith.CAST, out, product, rounding=Rounding.HALF_AWAY)
        return
    asm.arith(Arith.CAST, scratch[1], product, rounding=Rounding.HALF_AWAY)
    emit_narrow(asm, out, scratch[1], to.zero_point)


def _emit_dequantize(asm: Assembler, out: Local, x: Local, source: Quantization) -> None:
    """An 8-bit integer is exact in every float type; a 16-bit one is rounded to F16 and BF16, and one without sign may be too large for F16."""
    asm.require((x.dtype, out.dtype) != (DType.U16, DType.F16), f"a cast of {x.dtype.value} to {out.dtype.value}")
    asm.arith(Arith.CAST, out, x)
    if source.zero_point:
        asm.arith(Arith.SUB, out, out, Constant(source.zero_point, out.dtype))
    asm.arith(Arith.MUL, out, out, Constant(source.scale, out.dtype))
