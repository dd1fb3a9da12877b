"""Remove concatenations of one tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bmflow.dialects.top.shape import TopConcatOp
from bmflow.ir.layer import LayerOp
from bmflow.passes.canonical.identity import RemoveIdentity


@dataclass(frozen=True)
class RemoveSingleConcat(RemoveIdentity):
    """Concat(x) -> x."""

    pattern: ClassVar = (TopConcatOp,)

    def difference(self, op: LayerOp) -> str:
        """See `RemoveIdentity.difference`."""
        if op["do_relu"]:
            return "it has a relu"
        return "" if len(op.operands) == 1 else f"it joins {len(op.operands)} tensors"
