"""Remove transpositions that leave every axis in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bmflow.dialects.top.shape import TopPermuteOp
from bmflow.ir.layer import LayerOp
from bmflow.passes.canonical.identity import RemoveIdentity


@dataclass(frozen=True)
class RemoveIdentityPermute(RemoveIdentity):
    """Permute(x, 0 1 2 ...) -> x."""

    pattern: ClassVar = (TopPermuteOp,)

    def difference(self, op: LayerOp) -> str:
        """See `RemoveIdentity.difference`."""
        order = op.ints("order")
        return "" if order == sorted(order) else f"order {order} moves axes"
