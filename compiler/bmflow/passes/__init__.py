"""Rewrites of modules: canonical forms and fusions of the top dialect, lowering to tpu, memory planning.

`optimize_top` runs the rewrites below, in this order, until none applies any more. Canonical forms come first, so that
fusions see chains without gaps; what is linear is folded into convolutions and matrix products before activations are, because
nothing can be folded behind an activation.
"""

from __future__ import annotations

from bmflow.ir.module import Module
from bmflow.passes.canonical import CANONICAL
from bmflow.passes.fusion import FUSIONS
from bmflow.passes.rewrite import Trace, apply_rewrites

TOP_REWRITES = (*CANONICAL, *FUSIONS)

__all__ = ["TOP_REWRITES", "Trace", "optimize_top"]


def optimize_top(module: Module) -> Trace:
    """Bring a top module, fresh from a front end, into the form that calibration and lowering expect; in place."""
    trace = Trace()
    apply_rewrites(module, TOP_REWRITES, trace)
    module.op.verify()
    return trace
