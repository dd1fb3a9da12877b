"""Fold a batch normalization into the convolution before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bmflow.dialects.top.conv import TopBatchNormOp
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.passes.fusion.linear import batch_norm_coefficients, fold_into_conv, foldable_conv
from bmflow.passes.rewrite import Rewrite


@dataclass(frozen=True)
class FuseBatchNormIntoConv(Rewrite):
    """BatchNorm(Conv(x, w, b)) -> Conv(x, w * s, b * s + t), s = gamma / sqrt(variance + epsilon), t = beta - mean * s."""

    pattern: ClassVar = (TopBatchNormOp,)

    def check(self, op: LayerOp, module: Module) -> str:
        """See `Rewrite.check`."""
        return foldable_conv(op.operands[0])

    def rewrite(self, op: LayerOp, module: Module) -> None:
        """See `Rewrite.rewrite`."""
        assert isinstance(op, TopBatchNormOp)
        fold_into_conv(module, op, op.input, *batch_norm_coefficients(op, module))
