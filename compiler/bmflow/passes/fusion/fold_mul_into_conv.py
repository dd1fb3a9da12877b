"""Fold a product by one number per channel into the convolution before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bmflow.dialects.top.elementwise import TopMulOp
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.passes.fusion.linear import check_constant_operand, fold_into_conv, per_channel, split_constant
from bmflow.passes.rewrite import Rewrite


@dataclass(frozen=True)
class FoldMulIntoConv(Rewrite):
    """Mul(Conv(x, w, b), s) -> Conv(x, w * s, b * s)."""

    pattern: ClassVar = (TopMulOp,)

    def check(self, op: LayerOp, module: Module) -> str:
        """See `Rewrite.check`."""
        return check_constant_operand(op, module)

    def rewrite(self, op: LayerOp, module: Module) -> None:
        """See `Rewrite.rewrite`."""
        operands = split_constant(op)
        assert operands is not None
        scale = per_channel(module, operands[1], op.results[0])
        assert scale is not None
        fold_into_conv(module, op, operands[0], scale, np.zeros_like(scale))
