"""Fold a sum with one number per channel into the convolution before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bmflow.dialects.top.elementwise import TopAddOp
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.passes.fusion.linear import check_constant_operand, fold_into_conv, per_channel, split_constant
from bmflow.passes.rewrite import Rewrite


@dataclass(frozen=True)
class FoldAddIntoConv(Rewrite):
    """Add(Conv(x, w, b), t) -> Conv(x, w, b + t)."""

    pattern: ClassVar = (TopAddOp,)

    def check(self, op: LayerOp, module: Module) -> str:
        """See `Rewrite.check`."""
        return "it has coefficients" if op["coeff"] else check_constant_operand(op, module)

    def rewrite(self, op: LayerOp, module: Module) -> None:
        """See `Rewrite.rewrite`."""
        operands = split_constant(op)
        assert operands is not None
        shift = per_channel(module, operands[1], op.results[0])
        assert shift is not None
        fold_into_conv(module, op, operands[0], np.ones_like(shift), shift)
