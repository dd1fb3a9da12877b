"""Turn a batch normalization that follows no convolution into one of its own, so that one op kind fewer has to be lowered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bmflow.dialects.top.conv import TopBatchNormOp
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.ir.types import shape_of
from bmflow.passes.fusion.linear import batch_norm_coefficients, depthwise_conv
from bmflow.passes.rewrite import Rewrite


@dataclass(frozen=True)
class TurnBatchNormIntoConv(Rewrite):
    """BatchNorm(x) -> Conv(x, s, t), 1x1, group = channels."""

    pattern: ClassVar = (TopBatchNormOp,)

    def check(self, op: LayerOp, module: Module) -> str:
        """See `Rewrite.check`."""
        rank = len(shape_of(op.operands[0]))
        return "" if rank == 4 else f"its input has {rank} dimensions, not 4"

    def rewrite(self, op: LayerOp, module: Module) -> None:
        """See `Rewrite.rewrite`."""
        assert isinstance(op, TopBatchNormOp)
        depthwise_conv(module, op, *batch_norm_coefficients(op, module))
