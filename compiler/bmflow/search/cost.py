"""What a candidate costs: estimated cycles and bytes, put together from layers that are compiled one by one.

Code runs layer after layer through external memory, so the cycles of layers add up to those of the network but for what one layer's
transfers hide behind another's computing; candidates that a search returns are estimated as a whole. Figures come from the simulator's
estimate, which rests on assumed rates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bmflow.ir.module import Module
from bmflow.ir.types import DType
from bmflow.search.piece import Piece, cast_module
from bmflow.search.plan import Plan


@dataclass(frozen=True)
class Cost:
    """Estimated cycles of one inference, bytes of the file, and the cycles of each layer of the lowered module by name."""

    cycles: int
    bytes: int
    layers: Mapping[str, int]


Estimator = Callable[[Module], Cost]
"""Compiles a lowered module and estimates it. Raises CompileError: a layer cannot be compiled."""


class CostModel:
    """Estimates plans; a piece is compiled once."""

    def __init__(self, estimator: Estimator, outputs: Sequence[str]):
        """`estimator` is asked about modules of one layer and its casts; `outputs` are those of the network."""
        self._estimator, self._outputs = estimator, list(dict.fromkeys(outputs))
        self._known: dict[tuple[int, bool], Mapping[str, int]] = {}

    def cycles(self, plan: Plan) -> int:
        """Estimated cycles of a plan: its layers, every cast once for all who need it, and the casts of the outputs."""
        total, casts = 0, dict[object, int]()
        for piece in plan.pieces.values():
            layers = self._layers(piece)
            total += sum(cycles for layer, cycles in layers.items() if layer not in piece.casts)
            for cast, (operand, form) in piece.casts.items():
                casts.setdefault((operand, form), layers[cast])
        ends = (plan.pieces[name] for name in self._outputs if name in plan.pieces)
        return total + sum(casts.values()) + sum(sum(self._layers(end, True).values()) for end in ends if end.form is not DType.F32)

    def _layers(self, piece: Piece, cast: bool = False) -> Mapping[str, int]:
        """Cycles of the layers of a piece, or of the cast to F32 behind it, by name."""
        key = (piece.index, cast)
        if key not in self._known:
            self._known[key] = self._estimator(cast_module(piece) if cast else piece.module).layers
        return self._known[key]
