"""What the removals of ops that change nothing have in common."""

from __future__ import annotations

from abc import abstractmethod

from bmflow.ir.layer import LayerOp, layer_name, set_layer_name
from bmflow.ir.module import Module
from bmflow.ir.structure import TopInputOp, TopWeightOp
from bmflow.passes.rewrite import Rewrite, is_output, producer, replace, single_user


class RemoveIdentity(Rewrite):
    """Identity(x) -> x. At a network output the producer of x takes the name, which it can only when nobody else reads x."""

    @abstractmethod
    def difference(self, op: LayerOp) -> str:
        """Say what the op changes; empty when it changes nothing."""

    def check(self, op: LayerOp, module: Module) -> str:
        """See `Rewrite.check`."""
        source = producer(op.operands[0])
        if reason := self.difference(op):
            return reason
        if not is_output(op.results[0], module):
            return ""
        if not isinstance(source, LayerOp) or isinstance(source, TopInputOp | TopWeightOp):
            return f"it is an output and {layer_name(op.operands[0])} cannot be renamed"
        return single_user(op.operands[0])

    def rewrite(self, op: LayerOp, module: Module) -> None:
        """See `Rewrite.rewrite`."""
        name, rename, source = op.layer_name, is_output(op.results[0], module), producer(op.operands[0])
        replace(op, op.operands[0])
        if rename:
            assert source is not None
            set_layer_name(source, name)
