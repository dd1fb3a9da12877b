"""Merge slices in a row; exporters write one slice per axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bmflow.dialects.top.shape import TopSliceOp
from bmflow.ir.attributes import Python
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.types import shape_of
from bmflow.passes.canonical.chain import MergeChain
from bmflow.passes.rewrite import producer, users


@dataclass(frozen=True)
class MergeSlices(MergeChain):
    """x[a:b:s][c:d:t] -> x[a + c*s : min(a + d*s, b) : s*t] per dimension."""

    pattern: ClassVar = (TopSliceOp,)

    def check(self, op: LayerOp, module: Module) -> str:
        """See `Rewrite.check`; here the first may have other readers, as long as all of them are slices and it vanishes."""
        if not isinstance(producer(op.operands[0]), TopSliceOp):
            return "its input is no top.Slice"
        others = [user for user in users(op.operands[0]) if not isinstance(user, TopSliceOp)]
        return f"{layer_name(op.operands[0])} is read by other ops than slices" if others else ""

    def combine(self, first: LayerOp, second: LayerOp) -> dict[str, Python]:
        """See `MergeChain.combine`."""
        offset, ends, steps = [], [], []
        for axis in range(len(shape_of(first.operands[0]))):
            begin, stop, step = (first.ints(name)[axis] for name in ("offset", "ends", "steps"))
            offset.append(begin + second.ints("offset")[axis] * step)
            ends.append(min(begin + second.ints("ends")[axis] * step, stop))
            steps.append(step * second.ints("steps")[axis])
        return {"offset": offset, "ends": ends, "steps": steps, "axes": []}
