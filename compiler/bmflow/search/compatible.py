"""The searches that users of this toolchain know, step by step as they are documented (quantization notes, section 5).

Every cosine here, limits included, is on the scale 0.5 + 0.5 * cosine of whole tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bmflow.ir.types import Quantization
from bmflow.search.journal import Scorer
from bmflow.search.plan import Candidate, Modes
from bmflow.search.scores import Score
from bmflow.search.sensitivity import Progress, no_progress
from bmflow.tables.calibration import CalibrationTable

LEAST_TYPE_COS = 0.999
"""An op type is sensitive when the outputs fall below this with only that type in 8 bits."""
SHARE = 5
"""A second round may lift a fifth of the layers looked at."""
NEVER_MIXED = ("top.Reshape", "top.Softmax", "top.MaxPool", "top.Slice", "top.Tile", "top.Permute", "top.Upsample")
"""Ops that mix_search passes by."""


@dataclass(frozen=True)
class Settings:
    """Limits on the scale above, layers to lift at first, the float type, whether losses are clustered instead of counted."""

    mode: str
    expected_cos: float = 0.99
    min_layer_cos: float = 0.99
    max_float_layers: int = 5
    cluster: bool = False


@dataclass(frozen=True)
class Mixed:
    """What a search settled on: modes, the table with its thresholds, scores before and after, and losses (or scores) by layer."""

    modes: Modes
    table: CalibrationTable
    before: Score
    after: Score
    losses: Mapping[str, float] = field(default_factory=dict[str, float])


def best_threshold_table(
    scorer: Scorer, tables: Mapping[str, CalibrationTable], modes: Modes, benchmark: str
) -> tuple[str, dict[str, Score]]:
    """search_threshold: the table whose INT8 outputs are closest to float; `benchmark` is "cos" or "snr"."""
    scores = {name: scorer.score(Candidate(table, modes)) for name, table in tables.items()}
    rank = (lambda name: -scores[name].compatible) if benchmark == "cos" else (lambda name: scores[name].snr_loss)
    return min(scores, key=rank), scores


@dataclass
class SearchQtable:
    """search_qtable: the layers of harmful op types that hurt most, lifted until the outputs are good enough.

    `first` scores on one sample; `given` are modes that stay. Lifting a convolution also lifts the Scale behind it in the original;
    here a Scale is part of its convolution.
    """

    scorer: Scorer
    first: Scorer
    tables: Mapping[str, CalibrationTable]
    base: str
    given: Modes
    settings: Settings
    progress: Progress = no_progress
    show: Callable[[str], None] = lambda line: None

    def run(self) -> Mixed:
        """Search."""
        table = self.tables[self.base]
        before = self.scorer.score(Candidate(table, {}))
        if before.compatible > self.settings.expected_cos:
            self.show(f"int8 outputs_cos:{before.compatible:.6f} exceeds expected_cos {self.settings.expected_cos:g}: nothing to search")
            return Mixed(dict(self.given), table, before, before)
        candidates = integer_layers(self.scorer, table)
        types = self._sensitive_types(table, candidates)
        self.show(f"sensitive op types: {', '.join(types)}")
        ops = self.scorer.evaluator.planner.ops
        sensitive = [name for name in candidates if ops[name].name in types]
        table, losses, seconds = self._losses(table, sensitive)
        chosen = self._cluster(losses, seconds) if self.settings.cluster else self._fewest(table, losses, len(candidates))
        modes = dict(self.given) | dict.fromkeys(chosen, self.settings.mode)
        return Mixed(modes, table, before, self.scorer.score(Candidate(table, modes)), losses)

    def _sensitive_types(self, table: CalibrationTable, candidates: Sequence[str]) -> list[str]:
        ops, bound = self.scorer.evaluator.planner.ops, max(LEAST_TYPE_COS, self.settings.expected_cos)
        types = list(dict.fromkeys(ops[name].name for name in candidates))
        found: dict[str, float] = {}
        for kind in self.progress(types, len(types), "op types alone in 8 bits"):
            modes = {name: self.settings.mode for name in candidates if ops[name].name != kind}
            found[kind] = self.first.score(Candidate(table, dict(self.given) | modes)).compatible
        return [kind for kind in types if found[kind] < bound] or [min(types, key=lambda kind: found[kind])]

    def _losses(self, table: CalibrationTable, sensitive: Sequence[str]) -> tuple[CalibrationTable, dict[str, float], dict[str, float]]:
        """Each layer alone in 8 bits among float ones of the sensitive types, with the best of the methods' thresholds, which it keeps."""
        floats = dict(self.given) | dict.fromkeys(sensitive, self.settings.mode)
        self.scorer.start_from(Candidate(table, floats))
        losses, seconds = dict[str, float](), dict[str, float]()
        work = [name for name in sensitive if name not in self.given]
        for name in self.progress(work, len(work), "loss of layer"):
            modes = {other: mode for other, mode in floats.items() if other != name}
            trials = [_with_row(table, other, name) for other in self.tables.values()]
            scores = [self.scorer.score(Candidate(trial, modes)) for trial in trials]
            best = max(range(len(trials)), key=lambda k: scores[k].compatible)
            table, losses[name], seconds[name] = trials[best], 1 - scores[best].compatible, scores[best].snr_loss
        return table, losses, seconds

    def _fewest(self, table: CalibrationTable, losses: Mapping[str, float], candidates: int) -> list[str]:
        """The worst layers, as few as reach `expected_cos`; if they do not and no second round is due, all of them."""
        ranking = sorted(losses, key=lambda name: -losses[name])
        low, high = self.settings.max_float_layers, candidates // SHARE
        if self._passes(table, ranking[:low]):
            return ranking[:low]
        if high <= low:
            return ranking
        if not self._passes(table, ranking[:high]):
            return ranking[:high]
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._passes(table, ranking[:middle]) else (middle, high)
        return ranking[:high]

    def _passes(self, table: CalibrationTable, chosen: Sequence[str]) -> bool:
        modes = dict(self.given) | dict.fromkeys(chosen, self.settings.mode)
        return self.scorer.score(Candidate(table, modes)).compatible > self.settings.expected_cos

    @staticmethod
    def _cluster(losses: Mapping[str, float], seconds: Mapping[str, float]) -> list[str]:
        """Two clusters of (cosine loss, SNR loss) by Lloyd's iteration from the extreme points; the one of larger cosine loss."""
        points = {name: (losses[name], seconds[name]) for name in losses}
        centres = [min(points.values()), max(points.values())]
        while True:
            sides = {name: _distance(point, centres[1]) < _distance(point, centres[0]) for name, point in points.items()}
            upper, lower = ([points[name] for name in points if sides[name] is side] for side in (True, False))
            moved = [_mean(lower) if lower else centres[0], _mean(upper) if upper else centres[1]]
            if moved == centres:
                return sorted((name for name in points if sides[name]), key=lambda name: -losses[name])
            centres = moved


@dataclass
class MixSearch:
    """mix_search, the oldest: walk the network, and lift each layer whose own output is too far from float."""

    scorer: Scorer
    table: CalibrationTable
    given: Modes
    settings: Settings
    progress: Progress = no_progress

    def run(self) -> Mixed:
        """Search."""
        ops = self.scorer.evaluator.planner.ops
        before = self.scorer.score(Candidate(self.table, dict(self.given)))
        modes, after, passed = dict(self.given), before, list[str]()
        scores = self._scores(modes)
        losses: dict[str, float] = {}
        for name, op in self.progress(ops.items(), len(ops), "similarity of layer"):
            passed.append(name)
            if op.name in NEVER_MIXED or name in modes:
                continue
            losses[name] = scores[name]
            if scores[name] < self.settings.min_layer_cos and after.compatible <= self.settings.expected_cos:
                modes, after = self._lift(modes, passed, after, before)
                scores = self._scores(modes)
            passed = []
            if len(modes) - len(self.given) > self._most():
                break
        return Mixed(modes, self.table, before, after, losses)

    def _lift(self, modes: dict[str, str], block: Sequence[str], now: Score, before: Score) -> tuple[dict[str, str], Score]:
        """Lift a block unless that makes the outputs worse than INT8."""
        lifted = modes | {name: self.settings.mode for name in block if name not in modes}
        self.scorer.start_from(Candidate(self.table, modes))
        after = self.scorer.score(Candidate(self.table, lifted))
        return (modes, now) if after.compatible < before.compatible else (lifted, after)

    def _most(self) -> int:
        return min(len(self.scorer.evaluator.planner.ops) // 4, self.settings.max_float_layers)

    def _scores(self, modes: Modes) -> dict[str, float]:
        return self.scorer.evaluator.similarities(Candidate(self.table, modes))


def loss_table(scores: Mapping[str, float], header: Sequence[str]) -> str:
    """The text of a loss table: layers in ascending order of their score."""
    rows = sorted(scores.items(), key=lambda item: item[1])
    lines = [f"No.{index:<4} : Layer: {name:<50}\t\t\tCos: {value:.6f}" for index, (name, value) in enumerate(rows)]
    return "\n".join([*(f"# {line}" for line in header), "###", *lines]) + "\n"


def integer_layers(scorer: Scorer, table: CalibrationTable) -> list[str]:
    """Layers whose value is an integer when everything is asked to be INT8."""
    plan = scorer.evaluator.planner.plan(Candidate(table, {}))
    return [name for name, piece in plan.pieces.items() if isinstance(piece.form, Quantization)]


def _with_row(table: CalibrationTable, other: CalibrationTable, name: str) -> CalibrationTable:
    if name not in table.ranges or name not in other.ranges or table.ranges[name] == other.ranges[name]:
        return table
    return replace(table, ranges={**table.ranges, name: other.ranges[name]})


def _distance(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return (sum(p[0] for p in points) / len(points), sum(p[1] for p in points) / len(points))
