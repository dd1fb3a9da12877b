"""Layer normalization over the h axis of a tile, in f32 whatever the storage type, rounded once.

y = (x - mean) * rsqrt(mean of (x - mean)^2 + eps) * weight + bias; weight and bias lie in every lane as f32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bmflow.codegen.assembler import Arith, Assembler
from bmflow.codegen.elementwise.base import ElementwiseEmitter, Resident, number
from bmflow.codegen.elementwise.reduce import along_h, emit_mean, row_of
from bmflow.codegen.operand import Constant, Local
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.types import DType, dtype_of, is_none


class LayerNormEmitter(ElementwiseEmitter):
    """The normalized axes lie in one lane, so that a pool over h gives the mean."""

    reduce_h = True
    passes = 14
    reduce_trailing = True

    def resident(self, op: LayerOp, module: Module) -> list[Resident]:
        """Weight and bias, as far as there are any."""
        given = [value for value in op.operands[1:3] if not is_none(value)]
        return [Resident(layer_name(value), module.weight(value).reshape(-1).astype(np.float32), DType.F32) for value in given]

    def scratch(self, op: LayerOp) -> list[DType]:
        """Distance to the mean, its square, a row for the means; for 16-bit floats the distance cannot lie in the result."""
        return [DType.F32, DType.F32, *([] if dtype_of(op.results[0]) is DType.F32 else [DType.F32])]

    def emit(
        self, asm: Assembler, op: LayerOp, out: Local, inputs: Sequence[Local], scratch: Sequence[Local], resident: Sequence[Local]
    ) -> None:
        """Emit the commands of one tile."""
        (x,) = inputs
        asm.require(x.dtype is out.dtype and x.dtype.is_float, f"a layer normalization of {x.dtype.value} into {out.dtype.value}")
        square, buffer = scratch[:2]
        y = scratch[2] if len(scratch) > 2 else out
        size, row = out.shape[2], row_of(asm, buffer, out)
        if x.dtype is not DType.F32:
            asm.arith(Arith.CAST, y, x)
            x = y
        emit_mean(asm, row, x, size)
        asm.arith(Arith.SUB, y, x, along_h(row, out))
        asm.arith(Arith.MUL, square, y, y)
        emit_mean(asm, row, square, size)
        asm.arith(Arith.ADD, row, row, Constant(number(op, "eps"), DType.F32))
        asm.rsqrt(row, row)
        asm.arith(Arith.MUL, y, y, along_h(row, out))
        factors = iter(resident)
        for kind, value in zip((Arith.MUL, Arith.ADD), op.operands[1:3], strict=True):
            if not is_none(value):
                asm.arith(kind, y, y, replace(next(factors), shape=out.shape, strides=(0, 0, 1, 1)))
        if y is not out:
            asm.arith(Arith.CAST, out, y)
