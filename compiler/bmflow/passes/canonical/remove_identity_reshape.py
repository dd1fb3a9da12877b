"""Remove reshapes to the shape that is there already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bmflow.dialects.top.shape import TopReshapeOp
from bmflow.ir.layer import LayerOp
from bmflow.ir.types import shape_of
from bmflow.passes.canonical.identity import RemoveIdentity


@dataclass(frozen=True)
class RemoveIdentityReshape(RemoveIdentity):
    """Reshape(x, shape of x) -> x."""

    pattern: ClassVar = (TopReshapeOp,)

    def difference(self, op: LayerOp) -> str:
        """See `RemoveIdentity.difference`."""
        before, after = shape_of(op.operands[0]), shape_of(op.results[0])
        return "" if before == after else f"{list(before)} becomes {list(after)}"
