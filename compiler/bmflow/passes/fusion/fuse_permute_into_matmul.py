"""Let a matrix product read its right operand transposed, as attention does with its keys, so that rows are moved whole or not at all.

The transposition that is left keeps the innermost axis in place; it is named `<permute>_r_Permute`, because its values are not those
of the one before, and where nothing is left to move it goes. Exporters scale transposed keys by one number; that product stays in
between, as `<product>_r_Mul`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from bmflow.dialects.top.elementwise import TopMulOp
from bmflow.dialects.top.matmul import TopMatMulOp
from bmflow.dialects.top.shape import TopPermuteOp
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.ir.types import shape_of, tensor_type
from bmflow.passes.fusion.linear import split_constant
from bmflow.passes.rewrite import Rewrite, insert_before, producer, replace, single_user


@dataclass(frozen=True)
class FusePermuteIntoMatMul(Rewrite):
    """MatMul(x, s * Permute(r, [..., i, j])) -> MatMul(x, s * Permute(r, [..., j, i]), right_transpose), i the last axis of r."""

    pattern: ClassVar = (TopMatMulOp,)

    def check(self, op: LayerOp, module: Module) -> str:
        """See `Rewrite.check`."""
        scale, permute = _scale_and_permute(op)
        if permute is None:
            return "its right operand is no transposition"
        order = permute.ints("order")
        if order[-2] != len(order) - 1:
            return f"{permute.layer_name} does not make rows of columns"
        return single_user(op.operands[1]) or (single_user(permute.output) if scale else "")

    def rewrite(self, op: LayerOp, module: Module) -> None:
        """See `Rewrite.rewrite`."""
        scale, permute = _scale_and_permute(op)
        assert permute is not None
        kept, order = permute.operands[0], permute.ints("order")
        order = [*order[:-2], order[-1], order[-2]]
        kind = tensor_type([shape_of(kept)[axis] for axis in order])
        if order != sorted(order):
            kept = insert_before(op, TopPermuteOp.make(f"{permute.layer_name}_r_Permute", [kept], kind, {"order": order})).results[0]
        if scale is not None:
            operands = [kept if value is permute.output else value for value in scale.operands]
            kept = insert_before(op, TopMulOp.make(f"{scale.layer_name}_r_Mul", operands, kind, scale.settings())).results[0]
        settings = op.settings() | {"right_transpose": not op["right_transpose"]}
        new = TopMatMulOp.make(op.layer_name, [op.operands[0], kept, op.operands[2]], op.results[0].type, settings)
        replace(op, insert_before(op, new).results[0])


def _scale_and_permute(op: LayerOp) -> tuple[TopMulOp | None, TopPermuteOp | None]:
    """What makes the right operand: a transposition, or its product by one number."""
    source = producer(op.operands[1])
    operands = split_constant(source) if isinstance(source, TopMulOp) else None
    if operands is None or prod(shape_of(operands[1])) != 1:
        return None, source if isinstance(source, TopPermuteOp) else None
    assert isinstance(source, TopMulOp)
    inner = producer(operands[0])
    return source, inner if isinstance(inner, TopPermuteOp) else None
