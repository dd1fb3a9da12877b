"""A candidate of a search, laid out layer by layer: which piece computes each layer, and a signature that tells equal values apart from others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.ir.structure import TopInputOp
from bmflow.ir.types import dtype_of
from bmflow.ir.values import Attribute
from bmflow.passes.lowering import LoweringOptions, decide
from bmflow.passes.lowering.base import Analysis, Choice
from bmflow.search.piece import ROUNDED, Form, Piece, Situation, make_piece, situation
from bmflow.tables.calibration import CalibrationTable
from bmflow.tables.precision import PrecisionTable

Modes = Mapping[str, str]
"""Modes of single layers by name; the others run in the mode of the network, INT8."""


@dataclass(frozen=True)
class Candidate:
    """What model_deploy would be given."""

    table: CalibrationTable
    modes: Modes

    def with_modes(self, modes: Modes) -> Candidate:
        """The same ranges with other modes."""
        return replace(self, modes=modes)


@dataclass(frozen=True)
class Plan:
    """The pieces of a candidate in program order, and a signature per layer.

    Two layers of any plans of one `Planner` with the same signature have the same value on the same sample.
    """

    pieces: Mapping[str, Piece]
    signatures: Mapping[str, int]


class Planner:
    """Plans candidates of one top module; what they share is made once."""

    def __init__(self, module: Module, options: LoweringOptions):
        """`options` are those of the deployment but for the tables."""
        self.module, self.options = module, options
        self.ops: dict[str, LayerOp] = {op.layer_name: op for op in module.layers() if not isinstance(op, TopInputOp)}
        self.inputs: dict[str, Attribute] = {op.layer_name: op.output.type for op in module.inputs}
        self._input_forms = {op.layer_name: dtype_of(op.output) for op in module.inputs}
        self._pieces: dict[Situation, Piece] = {}
        self._signatures: dict[tuple[object, ...], int] = {}
        self._decisions: dict[tuple[int, str], tuple[Analysis, dict[str, Choice]]] = {}
        self._tables: dict[int, CalibrationTable] = {}

    def plan(self, candidate: Candidate) -> Plan:
        """Lay a candidate out.

        Raises:
            InputError, CompileError: as `lower`.
        """
        pieces: dict[str, Piece] = {}
        signatures: dict[str, int] = {name: self._signature((name,)) for name in self.inputs}
        forms: dict[str, Form] = dict(self._input_forms)
        for name, op in self.ops.items():
            mode = candidate.modes.get(name, "")
            rounded = mode == ROUNDED
            analysis, choices = self.decision(candidate.table, "F32" if rounded else mode)
            piece = self._piece(op, choices[name], rounded, forms, pieces, analysis)
            pieces[name], forms[name] = piece, piece.form
            signatures[name] = self._signature((piece.index, *(signatures[operand] for operand in piece.operands)))
        return Plan(pieces, signatures)

    def _piece(
        self, op: LayerOp, choice: Choice, rounded: bool, forms: Mapping[str, Form], before: Mapping[str, Piece], analysis: Analysis
    ) -> Piece:
        key = situation(op, choice, rounded, forms, analysis)
        if key not in self._pieces:
            kinds = self.inputs | {name: piece.kind for name, piece in before.items()}
            self._pieces[key] = make_piece(len(self._pieces), op, choice, rounded, kinds, analysis)
        return self._pieces[key]

    def _signature(self, parts: tuple[object, ...]) -> int:
        return self._signatures.setdefault(parts, len(self._signatures))

    def decision(self, table: CalibrationTable, mode: str) -> tuple[Analysis, dict[str, Choice]]:
        """How every layer would be lowered if all were asked to have one mode; the empty mode asks for nothing."""
        key = (id(table), mode)
        if key not in self._decisions:
            if len(self._decisions) > _MOST_DECISIONS:
                self._decisions.clear()
                self._tables.clear()
            self._tables[id(table)] = table  # keeps it alive, so that its id stays its own
            precision = PrecisionTable(dict.fromkeys(self.ops, mode)) if mode else None
            self._decisions[key] = decide(self.module, replace(self.options, table=table, precision=precision))
        return self._decisions[key]


_MOST_DECISIONS = 64
