"""Remove ops that nobody reads: weights that were folded away, branches no output needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.passes.rewrite import Rewrite, erase, is_dead


@dataclass(frozen=True)
class RemoveDeadOps(Rewrite):
    """op(x), unread -> nothing."""

    pattern: ClassVar = (LayerOp,)
    explains: ClassVar = False

    def check(self, op: LayerOp, module: Module) -> str:
        """See `Rewrite.check`."""
        return "" if is_dead(op) else "it is read"

    def rewrite(self, op: LayerOp, module: Module) -> None:
        """See `Rewrite.rewrite`."""
        erase(op)
