"""Fold a product by one number into the constant matrix before it.

Numbers that differ from column to column stay outside: one scale serves the whole matrix as integers, and they would coarsen it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bmflow.dialects.top.elementwise import TopMulOp
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.passes.fusion.linear import split_constant
from bmflow.passes.fusion.matrix import check_constant_operand, fold_into_matmul
from bmflow.passes.rewrite import Rewrite


@dataclass(frozen=True)
class FoldMulIntoMatMul(Rewrite):
    """Mul(MatMul(x, r, b), s) -> MatMul(x, r * s, b * s), r and s constant, s one number."""

    pattern: ClassVar = (TopMulOp,)

    def check(self, op: LayerOp, module: Module) -> str:
        """See `Rewrite.check`."""
        if reason := check_constant_operand(op, module):
            return reason
        operands = split_constant(op)
        assert operands is not None
        return "" if module.weight(operands[1]).size == 1 else "its factors differ from column to column"

    def rewrite(self, op: LayerOp, module: Module) -> None:
        """See `Rewrite.rewrite`."""
        operands = split_constant(op)
        assert operands is not None
        fold_into_matmul(module, op, scale=float(module.weight(operands[1]).item()))
