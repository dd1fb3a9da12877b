"""What the mergers of two ops of one kind in a row have in common."""

from __future__ import annotations

from abc import abstractmethod

from bmflow.ir.attributes import Python
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.passes.rewrite import Rewrite, insert_before, producer, replace, single_user


class MergeChain(Rewrite):
    """Op(Op(x)) -> Op(x), under the name of the second; the first must have no other reader."""

    def check(self, op: LayerOp, module: Module) -> str:
        """See `Rewrite.check`."""
        if not isinstance(producer(op.operands[0]), self.pattern):
            return f"its input is no {op.name}"
        return single_user(op.operands[0])

    def rewrite(self, op: LayerOp, module: Module) -> None:
        """See `Rewrite.rewrite`."""
        first = producer(op.operands[0])
        assert isinstance(first, LayerOp)
        operands = [first.operands[0], *op.operands[1:]]
        merged = type(op).make(op.layer_name, operands, op.results[0].type, self.combine(first, op))
        replace(op, insert_before(op, merged).results[0])

    @abstractmethod
    def combine(self, first: LayerOp, second: LayerOp) -> dict[str, Python]:
        """Attributes of the op that does both."""
