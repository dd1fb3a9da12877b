"""Remove slices that take everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bmflow.dialects.top.shape import TopSliceOp
from bmflow.ir.layer import LayerOp
from bmflow.ir.types import shape_of
from bmflow.passes.canonical.identity import RemoveIdentity


@dataclass(frozen=True)
class RemoveFullSlice(RemoveIdentity):
    """Slice(x, all of x) -> x."""

    pattern: ClassVar = (TopSliceOp,)

    def difference(self, op: LayerOp) -> str:
        """See `RemoveIdentity.difference`."""
        before, after = shape_of(op.operands[0]), shape_of(op.results[0])
        return "" if before == after else f"it takes {list(after)} of {list(before)}"
