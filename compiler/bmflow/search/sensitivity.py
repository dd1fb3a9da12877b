"""How much a layer hurts: the output noise when it alone is in 8 bits and everything else in float.

Measuring each source of noise by itself, instead of lifting single layers out of an 8-bit network, keeps the figure free of what the
other layers add, which is larger. Noises of independent roundings add up at the outputs (Lin, Talathi, Annapureddy 2016, "Fixed point
quantization of deep convolutional networks", sections 3 and 4), so a few figures tell the noise of any combination; Wu et al. 2020,
"Integer quantization for deep learning inference", section 5, find layers to leave in float by the same one-at-a-time measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bmflow.passes.lowering.heads import is_argument
from bmflow.search.journal import Scorer
from bmflow.search.piece import ROUNDED, operand_names
from bmflow.search.plan import Candidate
from bmflow.search.scores import Score
from bmflow.search.unit import Unit
from bmflow.tables.calibration import CalibrationTable

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]
FLOAT = "F32"


def no_progress(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    """No bar."""
    return items


def alone(scorer: Scorer, table: CalibrationTable, groups: Sequence[Unit], bar: Progress = no_progress) -> dict[Unit, Score]:
    """Score of the outputs when a group of layers is in 8 bits (its inputs included) and everything else in F32."""
    names = list(scorer.evaluator.planner.ops)
    scorer.start_from(Candidate(table, dict.fromkeys(names, FLOAT)))
    return {
        group: scorer.score(Candidate(table, {name: FLOAT for name in names if name not in group}))
        for group in bar(groups, len(groups), "layers alone in 8 bits")
    }  # fmt: skip


def rounded(scorer: Scorer, table: CalibrationTable, tensors: Iterable[str]) -> Score:
    """Score of the outputs when some values are rounded to 8 bits and everything is computed in F32."""
    modes = dict.fromkeys(scorer.evaluator.planner.ops, FLOAT) | dict.fromkeys(tensors, ROUNDED)
    return scorer.score(Candidate(table, modes))


@dataclass(frozen=True)
class NoiseModel:
    """Noise of any choice of float units, from noises measured one at a time.

    `inside` is a unit's own: weights, biases, values between its layers. `between` is that of the value of a layer which other units
    read: it is there unless the layer's unit and all readers are float. `units_of` gives for each such value the units concerned.
    """

    inside: Mapping[Unit, float]
    between: Mapping[str, float]
    units_of: Mapping[str, tuple[Unit, ...]]

    def noise(self, lifted: set[Unit]) -> float:
        """Predicted noise with some units in float and the others in 8 bits."""
        own = sum(noise for unit, noise in self.inside.items() if unit not in lifted)
        return own + sum(noise for name, noise in self.between.items() if any(unit not in lifted for unit in self.units_of[name]))


def noise_model(scorer: Scorer, table: CalibrationTable, groups: Sequence[Unit], bar: Progress = no_progress) -> NoiseModel:
    """Measure what the model needs: every unit alone, and every value between units alone."""
    single = alone(scorer, table, groups, bar)
    floor = scorer.score(Candidate(table, dict.fromkeys(scorer.evaluator.planner.ops, FLOAT))).noise  # 0 but for corrected modules
    concerned = _between(scorer, groups)
    known = scorer.evaluator.planner.decision(table).ranges
    names = [name for name in concerned if name in known]
    between = {
        name: max(rounded(scorer, table, [name]).noise - floor, 0.0) for name in bar(names, len(names), "values between layers in 8 bits")
    }
    inside = {
        unit: max(single[unit].noise - floor - sum(noise for name, noise in between.items() if unit in concerned[name]), 0.0) for unit in groups
    }  # fmt: skip
    return NoiseModel(inside, between, {name: concerned[name] for name in between})


def _between(scorer: Scorer, groups: Sequence[Unit]) -> dict[str, tuple[Unit, ...]]:
    """Values that leave their unit, with that unit and those that read them; an argument of a scaled activation concerns that alone."""
    home = {name: unit for unit in groups for name in unit}
    found: dict[str, list[Unit]] = {}
    for name, op in scorer.evaluator.planner.ops.items():
        for operand in operand_names(op):
            if operand in home and home[operand] != home.get(name):
                own = [] if is_argument(scorer.evaluator.planner.ops[operand]) else [home[operand]]
                found.setdefault(operand, own).extend([home[name]] if name in home else [])
    for name in scorer.evaluator.planner.module.output_names:
        if name in home:
            found.setdefault(name, [home[name]])
    return {name: tuple(dict.fromkeys(members)) for name, members in found.items()}
