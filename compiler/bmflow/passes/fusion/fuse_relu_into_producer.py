"""Fuse a relu into the op before it, where that op can clamp its own result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bmflow.dialects.top.conv import TopBatchNormOp, TopConvOp
from bmflow.dialects.top.elementwise import TopAddOp, TopMulOp, TopReluOp
from bmflow.dialects.top.matmul import TopMatMulOp
from bmflow.dialects.top.pool import TopAvgPoolOp, TopMaxPoolOp
from bmflow.dialects.top.shape import TopConcatOp
from bmflow.ir.attributes import to_attribute
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.passes.rewrite import Rewrite, merge_into, producer, single_user

_CLAMPS = (TopConvOp, TopMatMulOp, TopBatchNormOp, TopAddOp, TopMulOp, TopConcatOp, TopMaxPoolOp, TopAvgPoolOp)


@dataclass(frozen=True)
class FuseReluIntoProducer(Rewrite):
    """Relu(Op(x), limit) -> Op(x, do_relu, limit) for Conv, MatMul, BatchNorm, Add, Mul, Concat and pools."""

    pattern: ClassVar = (TopReluOp,)

    def check(self, op: LayerOp, module: Module) -> str:
        """See `Rewrite.check`."""
        source = producer(op.operands[0])
        if not isinstance(source, _CLAMPS):
            return f"its input is {source.name if source else 'an argument'}, which takes no relu"
        return single_user(op.operands[0])

    def rewrite(self, op: LayerOp, module: Module) -> None:
        """See `Rewrite.rewrite`."""
        source = producer(op.operands[0])
        assert isinstance(source, LayerOp)
        limits = [limit for limit in (op["relu_limit"], source["relu_limit"]) if isinstance(limit, float) and limit > 0]
        source.attributes["do_relu"] = to_attribute(True)
        if limits:
            source.attributes["relu_limit"] = to_attribute(min(limits))
        merge_into(op, source)
