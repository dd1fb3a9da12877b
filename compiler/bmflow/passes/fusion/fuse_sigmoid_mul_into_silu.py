"""Recognize the SiLU activation, which exporters write as a product with a sigmoid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bmflow.dialects.top.elementwise import TopMulOp, TopSigmoidOp, TopSiLUOp
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.ir.values import SSAValue
from bmflow.passes.rewrite import Rewrite, insert_before, producer, replace, single_user


@dataclass(frozen=True)
class FuseSigmoidMulIntoSiLU(Rewrite):
    """Mul(x, Sigmoid(x)) or Mul(Sigmoid(x), x) -> SiLU(x)."""

    pattern: ClassVar = (TopMulOp,)

    def check(self, op: LayerOp, module: Module) -> str:
        """See `Rewrite.check`."""
        gate = _gate(op)
        if gate is None:
            return "it is no product of x and Sigmoid(x)"
        if op["do_relu"]:
            return "it ends in a relu"
        return single_user(gate)

    def rewrite(self, op: LayerOp, module: Module) -> None:
        """See `Rewrite.rewrite`."""
        gate = _gate(op)
        sigmoid = None if gate is None else producer(gate)
        assert sigmoid is not None
        silu = TopSiLUOp.make(op.layer_name, [sigmoid.operands[0]], op.results[0].type)
        replace(op, insert_before(op, silu).results[0])


def _gate(op: LayerOp) -> SSAValue | None:
    """The operand that is the sigmoid of the other one."""
    if len(op.operands) != 2:
        return None
    for gate, x in (op.operands, op.operands[::-1]):
        source = producer(gate)
        if isinstance(source, TopSigmoidOp) and source.operands[0] is x:
            return gate
    return None
