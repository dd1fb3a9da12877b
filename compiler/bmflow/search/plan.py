"""A candidate of a search, laid out layer by layer: which piece computes each layer, and a signature that tells equal values apart from others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b

from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.ir.structure import TopInputOp
from bmflow.ir.types import dtype_of
from bmflow.ir.values import Attribute
from bmflow.passes.lowering import LoweringOptions, decide
from bmflow.passes.lowering.base import Analysis, Choice
from bmflow.passes.lowering.heads import Heads, is_argument
from bmflow.search.piece import ROUNDED, Form, Piece, Quantizations, Situation, make_piece, operand_names, situation
from bmflow.tables.calibration import CalibrationTable
from bmflow.tables.precision import PrecisionTable

_Decision = tuple[Analysis, dict[str, Choice], Quantizations]
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

    Layers of any plans of one module with the same signature have the same value on the same sample. It is a digest of how the layer
    and all before it are computed, the same in every run.
    """

    pieces: Mapping[str, Piece]
    signatures: Mapping[str, str]


class Planner:
    """Plans candidates of one top module; what they share is made once."""

    def __init__(self, module: Module, options: LoweringOptions):
        """`options` are those of the deployment but for the tables."""
        self.module, self.options = module, options
        self.ops: dict[str, LayerOp] = {op.layer_name: op for op in module.layers() if not isinstance(op, TopInputOp)}
        self.inputs: dict[str, Attribute] = {op.layer_name: op.output.type for op in module.inputs}
        self._input_forms = {op.layer_name: dtype_of(op.output) for op in module.inputs}
        self._heads = Heads(module)
        self._reads = {name: operand_names(op) for name, op in self.ops.items()}
        self._pieces: dict[Situation, tuple[Piece, str]] = {}
        self._decisions: dict[tuple[int, str], _Decision] = {}
        self._tables: dict[int, CalibrationTable] = {}

    def plan(self, candidate: Candidate) -> Plan:
        """Lay a candidate out.

        Raises:
            InputError, CompileError: as `lower`.
        """
        pieces: dict[str, Piece] = {}
        signatures = {name: _digest(name) for name in self.inputs}
        forms: dict[str, Form] = dict(self._input_forms)
        decisions: dict[str, _Decision] = {}
        wide = self._heads.wide(candidate.modes)
        narrow = self._heads.narrow({name: "F32" if mode == ROUNDED else mode for name, mode in candidate.modes.items()})
        for name, op in self.ops.items():
            mode = candidate.modes.get(name, "")
            rounded = mode == ROUNDED
            analysis, choices, known = (
                decisions[mode] if mode in decisions else decisions.setdefault(mode, self._decide(candidate.table, mode))
            )
            is_wide = name in wide and not (rounded and is_argument(op))  # what rounding to 8 bits does is asked for then
            about = replace(analysis, wide={name: wide[name]} if is_wide else {}, narrow=narrow & {name} & analysis.ranges.keys())
            stored = about.quantization(name) if about.wide or about.narrow else None
            key = situation(name, self._reads[name], choices[name], rounded, forms, known, stored)
            if key not in self._pieces:
                kinds = self.inputs | {before: piece.kind for before, piece in pieces.items()}
                self._pieces[key] = (make_piece(len(self._pieces), op, choices[name], rounded, kinds, about), _digest(repr(key)))
            pieces[name], digest = self._pieces[key]
            forms[name] = pieces[name].form
            signatures[name] = _digest(digest, *[signatures[operand] for operand in self._reads[name]])
        return Plan(pieces, signatures)

    def decision(self, table: CalibrationTable) -> Analysis:
        """What layers are quantized with under a table."""
        return self._decide(table, "")[0]

    def _decide(self, table: CalibrationTable, mode: str) -> _Decision:
        """How every layer would be lowered if all were asked to have one mode; the empty mode asks for nothing."""
        key = (id(table), mode)
        if key not in self._decisions:
            if len(self._decisions) > _MOST_DECISIONS:
                self._decisions.clear()
                self._tables.clear()
            self._tables[id(table)] = table  # keeps it alive, so that its id stays its own
            wanted = "F32" if mode == ROUNDED else mode
            precision = PrecisionTable(dict.fromkeys(self.ops, wanted)) if wanted else None
            analysis, choices = decide(self.module, replace(self.options, table=table, precision=precision))
            self._decisions[key] = (analysis, choices, Quantizations(analysis))
        return self._decisions[key]


def _digest(*parts: str) -> str:
    return blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


_MOST_DECISIONS = 64
