"""Layers that are best lifted to float together: what computes, the activation behind it, and the moves behind that.

Between a convolution and its activation lies a value that both would quantize; lifting one of them alone leaves that in place. Not so
with an activation scaled per channel: alone in float, it takes 16 bits from the convolution and gives 8.
"""

from __future__ import annotations

from bmflow.dialects.top.elementwise import TopGELUOp, TopReluOp, TopSigmoidOp, TopSiLUOp
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.ir.structure import TopInputOp
from bmflow.passes.lowering.ranges import COPIES
from bmflow.search.piece import operand_names

Unit = tuple[str, ...]
_ACTIVATIONS = (TopReluOp, TopSigmoidOp, TopSiLUOp, TopGELUOp)


def units(module: Module) -> list[Unit]:
    """Every layer but the inputs in exactly one unit, units in program order of their first layers."""
    ops = {op.layer_name: op for op in module.layers()}
    home: dict[str, list[str]] = {}
    found: list[list[str]] = []
    for name, op in ops.items():
        if isinstance(op, TopInputOp):
            continue
        operands = operand_names(op)
        source = ops[operands[0]] if len(operands) == 1 else None
        if source is not None and operands[0] in home and _joins(op, source):
            unit = home[operands[0]]
        else:
            unit = []
            found.append(unit)
        unit.append(name)
        home[name] = unit
    return [tuple(unit) for unit in found]


def _joins(op: LayerOp, source: LayerOp) -> bool:
    return isinstance(op, COPIES) or (isinstance(op, _ACTIVATIONS) and not isinstance(source, (*COPIES, *_ACTIVATIONS)))
