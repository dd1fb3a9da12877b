"""Remove pools over windows of one element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bmflow.dialects.top.pool import TopAvgPoolOp, TopMaxPoolOp
from bmflow.ir.layer import LayerOp
from bmflow.passes.canonical.identity import RemoveIdentity


@dataclass(frozen=True)
class RemoveUnitPool(RemoveIdentity):
    """Pool(x, 1x1, stride 1, no pads) -> x."""

    pattern: ClassVar = (TopMaxPoolOp, TopAvgPoolOp)

    def difference(self, op: LayerOp) -> str:
        """See `RemoveIdentity.difference`."""
        if op["do_relu"]:
            return "it has a relu"
        if op.ints("kernel_shape") != [1, 1] or op.ints("strides") != [1, 1] or any(op.ints("pads")):
            return "kernel, stride or pads are not 1, 1, 0"
        return ""
