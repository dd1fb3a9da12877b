"""Merge transpositions in a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bmflow.dialects.top.shape import TopPermuteOp
from bmflow.ir.attributes import Python
from bmflow.ir.layer import LayerOp
from bmflow.passes.canonical.chain import MergeChain


@dataclass(frozen=True)
class MergePermutes(MergeChain):
    """Permute(Permute(x, p), q) -> Permute(x, p[q[0]], p[q[1]], ...)."""

    pattern: ClassVar = (TopPermuteOp,)

    def combine(self, first: LayerOp, second: LayerOp) -> dict[str, Python]:
        """See `MergeChain.combine`."""
        order = first.ints("order")
        return {"order": [order[axis] for axis in second.ints("order")]}
