"""Merge reshapes in a row; only the last shape counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bmflow.dialects.top.shape import TopReshapeOp
from bmflow.ir.attributes import Python
from bmflow.ir.layer import LayerOp
from bmflow.passes.canonical.chain import MergeChain


@dataclass(frozen=True)
class MergeReshapes(MergeChain):
    """Reshape(Reshape(x, s), t) -> Reshape(x, t)."""

    pattern: ClassVar = (TopReshapeOp,)

    def combine(self, first: LayerOp, second: LayerOp) -> dict[str, Python]:
        """See `MergeChain.combine`."""
        return {"shape": second["shape"]}
