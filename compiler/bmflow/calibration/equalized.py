"""Ranges that follow from how a corrected module was made, whatever values the samples happen to have.

`--we` scales the argument of an activation to -1..1 channel by channel, with room for what the samples did not show. A range found by
looking at values over all channels would clip every channel a little, and take that room away again.

`--smc` divides the probabilities of attention by what their 8 bits shall reach; the range of the quotient is 0..1 (quantization notes, 2.8).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bmflow.dialects.top.elementwise import TopMulOp, TopScaledActiveOp, TopSoftmaxOp
from bmflow.dialects.top.pool import TopMaxPoolOp
from bmflow.dialects.top.shape import TopConcatOp, TopUpsampleOp
from bmflow.ir.layer import layer_name
from bmflow.ir.module import Module
from bmflow.passes.lowering.activation import FUNCTIONS
from bmflow.passes.lowering.propagate import activations
from bmflow.tables.calibration import Range

SILU_LOWEST = -1.2784645
"""Where SiLU has its minimum, -0.2784645: there x = -(1 + exp(-x))."""


def ranges_of_weights(module: Module, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """`ranges` with those around activations scaled per channel, and of scaled probabilities, replaced; a module without any keeps what it has.

    The argument reaches from -1 to 1, the result as far as the function carries that in the widest channel, a MaxPool or an Upsample of
    it as far, and a Concat of such results as far as the widest of them.
    """
    known: dict[str, Range] = {}
    for op in module.layers():
        sources = [known.get(layer_name(value)) for value in activations(op)]
        if isinstance(op, TopScaledActiveOp):
            known[layer_name(op.operands[0])] = Range(1.0, -1.0, 1.0)
            known[op.layer_name] = _result(module, op)
        elif isinstance(op, TopMaxPoolOp | TopUpsampleOp) and sources and sources[0]:
            known[op.layer_name] = sources[0]
        elif isinstance(op, TopConcatOp) and len(sources) == len(op.operands) and all(sources):
            known[op.layer_name] = _range([source.low for source in sources if source], [source.high for source in sources if source])
        elif isinstance(op, TopMulOp) and _scales_probabilities(op):
            known[op.layer_name] = Range(1.0, 0.0, 1.0)
    return {name: known.get(name, found) for name, found in ranges.items()}


def _scales_probabilities(op: TopMulOp) -> bool:
    """Whether a Softmax is all that a product reads beside constants."""
    sources = activations(op)
    return len(sources) == 1 and isinstance(sources[0].owner, TopSoftmaxOp)


def _result(module: Module, op: TopScaledActiveOp) -> Range:
    half, centre, factor = (module.weight(value).astype(np.float64).reshape(-1) for value in op.operands[1:])
    function = FUNCTIONS[str(op["mode"])]
    low, high = centre - half, centre + half
    turn = np.clip(SILU_LOWEST, low, high)  # the function falls before it and rises behind it; Sigmoid rises everywhere
    values = np.stack([function(low), function(high), function(turn)]) * factor
    return _range(values.min(0), values.max(0))


def _range(lows: np.ndarray | list[float], highs: np.ndarray | list[float]) -> Range:
    low, high = float(np.min(lows)), float(np.max(highs))
    return Range(max(abs(low), abs(high)), low, high)
