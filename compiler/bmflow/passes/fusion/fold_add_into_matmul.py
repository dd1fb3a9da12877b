"""Fold a sum with one number per column into the matrix product before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bmflow.dialects.top.elementwise import TopAddOp
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.passes.fusion.linear import split_constant
from bmflow.passes.fusion.matrix import check_constant_operand, fold_into_matmul, per_column
from bmflow.passes.rewrite import Rewrite


@dataclass(frozen=True)
class FoldAddIntoMatMul(Rewrite):
    """Add(MatMul(x, r, b), t) -> MatMul(x, r, b + t), r constant."""

    pattern: ClassVar = (TopAddOp,)

    def check(self, op: LayerOp, module: Module) -> str:
        """See `Rewrite.check`."""
        return "it has coefficients" if op["coeff"] else check_constant_operand(op, module)

    def rewrite(self, op: LayerOp, module: Module) -> None:
        """See `Rewrite.rewrite`."""
        operands = split_constant(op)
        assert operands is not None
        fold_into_matmul(module, op, shift=per_column(module, operands[1], op.results[0]))
