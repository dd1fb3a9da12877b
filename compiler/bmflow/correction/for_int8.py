"""Constants that 8-bit forms of a layer take instead of its exact ones, so that a layer left in float stays exact."""

from __future__ import annotations

from collections.abc import Sequence

from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.matmul import TopMatMulOp
from bmflow.ir.layer import layer_name
from bmflow.ir.module import Module
from bmflow.ir.structure import TopWeightOp
from bmflow.ir.values import SSAValue
from bmflow.passes.rewrite import erase, users

Layer = TopConvOp | TopMatMulOp


def constants_for_int8(op: Layer) -> tuple[SSAValue, SSAValue]:
    """Filter (or right operand) and bias that an 8-bit form takes; the bias may be none."""
    weights, bias = op.for_int8 or op.operands[1:3]
    return weights, bias


def set_for_int8(module: Module, op: Layer, weights: SSAValue, bias: SSAValue) -> None:
    """Give a layer constants for 8 bits in place of those it has."""
    old = [value for value in op.for_int8 if value is not weights]
    op.operands = [*op.operands[:3], weights, bias]
    _erase_unread(module, old)


def drop_for_int8(module: Module, op: Layer) -> None:
    """Take them away from a layer whose exact constants change."""
    old = list(op.for_int8)
    op.operands = list(op.operands[:3])
    _erase_unread(module, old)


def _erase_unread(module: Module, values: Sequence[SSAValue]) -> None:
    for value in values:
        if isinstance(value.owner, TopWeightOp) and not users(value):
            module.weights.pop(layer_name(value))
            erase(value.owner)
