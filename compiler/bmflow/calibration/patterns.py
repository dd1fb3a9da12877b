"""Layers that are better left in float, found by the shape of the network: the table written beside every calibration table.

A family is known by a run of op types somewhere in program order; the first family of `FAMILIES` that matches decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.passes.lowering.heads import is_head
from bmflow.tables.precision import PrecisionTable

PATTERN_LAYERS = "pattern layers"
FLOAT_OF_CHIP = {
    "bm1684": "F32", "bm1684x": "F16", "bm1688": "F16", "cv186x": "F16", "bm1690": "F16",
    "cv184x": "BF16", "cv183x": "BF16", "cv182x": "BF16", "cv181x": "BF16", "cv180x": "BF16",
}  # fmt: skip
"""The float type of single layers in an 8-bit network, by processor."""


@dataclass(frozen=True)
class Family:
    """A network family: the run of op types it is known by, and which of its layers stay float."""

    name: str
    run: tuple[str, ...]
    float_layers: Callable[[Module], list[str]]


def pattern_table(module: Module, chip: str) -> PrecisionTable:
    """The float layers of the family that the network belongs to; an empty table when it belongs to none."""
    family = find_family(module)
    names = family.float_layers(module) if family else []
    mode = FLOAT_OF_CHIP[chip]
    return PrecisionTable(dict.fromkeys(names, mode), dict.fromkeys(names, PATTERN_LAYERS), chip=chip, mix_mode=mode)


def find_family(module: Module) -> Family | None:
    """The first family whose run of op types occurs in the network."""
    types = [op.name.removeprefix("top.") for op in module.layers()]
    return next((family for family in FAMILIES if _occurs(family.run, types)), None)


def _occurs(run: Sequence[str], types: Sequence[str]) -> bool:
    return any(tuple(types[i : i + len(run)]) == tuple(run) for i in range(len(types) - len(run) + 1))


def detector_tail(module: Module) -> list[str]:
    """Every layer behind the head convolutions of a YOLO network; the convolutions themselves stay 8-bit."""
    tail: set[LayerOp] = set()
    for op in module.layers():  # program order: every operand is decided before its users
        if any(isinstance(operand.owner, LayerOp) and (operand.owner in tail or is_head(operand.owner)) for operand in op.operands):
            tail.add(op)
    return [op.layer_name for op in module.layers() if op in tail]


def one_sided(module: Module) -> tuple[str, ...]:
    """Layers worth a zero point: SiLUs that only convolutions read, and those convolutions (quantization notes, 2.10)."""
    found: list[str] = []
    for op in module.layers():
        users = _users(op)
        silu = op.name == "top.SiLU" or (op.name == "top.ScaledActive" and op["mode"] == "SILU")
        if silu and users and all(user.name == "top.Conv" for user in users):
            found += [op.layer_name, *(user.layer_name for user in users)]
    return tuple(dict.fromkeys(found))


def _users(op: LayerOp) -> list[LayerOp]:
    return [use.operation for use in op.results[0].uses if isinstance(use.operation, LayerOp)]


FAMILIES = (Family("yolo", ("MaxPool", "MaxPool", "MaxPool", "Concat"), detector_tail),)
