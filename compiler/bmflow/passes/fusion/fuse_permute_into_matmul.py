"""Let a matrix product read its right operand transposed, as attention does with its keys, so that rows are moved whole or not at all.

The transposition that is left keeps the innermost axis in place; it is named `<permute>_r_Permute`, because its values are not those
of the one before, and where nothing is left to move it goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bmflow.dialects.top.matmul import TopMatMulOp
from bmflow.dialects.top.shape import TopPermuteOp
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.ir.types import shape_of, tensor_type
from bmflow.passes.rewrite import Rewrite, insert_before, producer, replace, single_user


@dataclass(frozen=True)
class FusePermuteIntoMatMul(Rewrite):
    """MatMul(x, Permute(r, [..., i, j])) -> MatMul(x, Permute(r, [..., j, i]), right_transpose), i the last axis of r."""

    pattern: ClassVar = (TopMatMulOp,)

    def check(self, op: LayerOp, module: Module) -> str:
        """See `Rewrite.check`."""
        permute = producer(op.operands[1])
        if not isinstance(permute, TopPermuteOp):
            return "its right operand is no transposition"
        order = permute.ints("order")
        if order[-2] != len(order) - 1:
            return f"{permute.layer_name} does not make rows of columns"
        return single_user(op.operands[1])

    def rewrite(self, op: LayerOp, module: Module) -> None:
        """See `Rewrite.rewrite`."""
        permute = producer(op.operands[1])
        assert isinstance(permute, TopPermuteOp)
        source, order = permute.operands[0], permute.ints("order")
        order = [*order[:-2], order[-1], order[-2]]
        kept = source
        if order != sorted(order):
            shape = [shape_of(source)[axis] for axis in order]
            moved = TopPermuteOp.make(f"{permute.layer_name}_r_Permute", [source], tensor_type(shape), {"order": order})
            kept = insert_before(permute, moved).results[0]
        settings = op.settings() | {"right_transpose": not op["right_transpose"]}
        new = TopMatMulOp.make(op.layer_name, [op.operands[0], kept, op.operands[2]], op.results[0].type, settings)
        replace(op, insert_before(op, new).results[0])
