"""Our own search: the fastest table whose outputs are good enough, and what else could be had for more or less time.

1. Noises of units and of the values between them are measured one at a time (`sensitivity`), cycles come from the cost model, and two
   chains of tables are predicted: from all in 8 bits, lifting the unit that takes away most noise per cycle, and from all in float,
   dropping the unit that adds the least noise per cycle. The second sees what the first does not: that a run of layers is worth
   lifting though none of its members is.
2. Where the bar lies on each chain is found by halving, with the noise that the whole table really gives.
3. The best table is improved until nothing helps or the time is over: layers go back to 8 bits while the bar holds, layers between
   float ones are lifted where that saves casts.

With a limit of cycles instead of a bar, the table of least noise within the limit is looked for the same way.

Every table that was scored competes for the Pareto set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bmflow.search.cost import CostModel
from bmflow.search.journal import Scorer
from bmflow.search.plan import Candidate
from bmflow.search.scores import Score
from bmflow.search.sensitivity import NoiseModel, Progress, no_progress, noise_model
from bmflow.search.unit import Unit, units
from bmflow.tables.calibration import CalibrationTable

Lifted = frozenset[str]
SPREAD = 6
"""Tables scored on each chain besides those that halving needs, to give the Pareto set its shape."""

PATIENCE = 16
"""Steps from one table that may fail before no better one is expected."""
TOLERANCE = 2
"""A step is tried if the noise it is predicted to add is at most this times what the bar leaves room for."""


@dataclass(frozen=True)
class Bar:
    """What the outputs must reach: plain cosine and SQNR in dB, means over output channels."""

    cosine: float = 0.0
    sqnr: float = -math.inf

    def passes(self, score: Score) -> bool:
        """Whether a score is good enough."""
        return score.cosine >= self.cosine and score.sqnr >= self.sqnr

    def noise(self, score: Score) -> float:
        """The noise at which a table like the one scored would just pass; 1 - cosine is taken as proportional to noise."""
        by_cosine = score.noise * (1 - self.cosine) / (1 - score.cosine) if score.cosine < 1 else math.inf
        return min(by_cosine, 10 ** (-self.sqnr / 10))

    def missing(self, score: Score) -> str:
        """Say by how much a score misses the bar; empty when it passes."""
        gaps = []
        if score.cosine < self.cosine:
            gaps.append(f"plain cosine {score.cosine:.6f}, expected {self.cosine:g}")
        if score.sqnr < self.sqnr:
            gaps.append(f"SQNR {score.sqnr:.2f} dB, expected {self.sqnr:g} dB")
        return " and ".join(gaps)


@dataclass(frozen=True)
class Point:
    """One table: layers in float besides the fixed ones, score, cycles by the cost model."""

    lifted: Lifted
    score: Score
    cycles: int


@dataclass(frozen=True)
class Found:
    """What a search gives: every point that was scored, by layers lifted; the fastest within the bar; what is known of each unit."""

    points: Mapping[Lifted, Point]
    best: Point | None
    model: NoiseModel
    units: tuple[Unit, ...]
    finished: bool

    @property
    def front(self) -> list[Point]:
        """Points none of which is better than another in both noise and cycles, fastest first."""
        return pareto(self.points.values())


def pareto(points: Iterable[Point]) -> list[Point]:
    """The points that no other one beats in noise and cycles, fastest first; of equals the one with fewer layers in float."""
    ordered = sorted(points, key=lambda p: (p.cycles, p.score.noise, len(p.lifted), sorted(p.lifted)))
    front: list[Point] = []
    for point in ordered:
        if not front or point.score.noise < front[-1].score.noise:
            front.append(point)
    return front


def knees(front: Sequence[Point]) -> list[Point]:
    """Where the Pareto set bends: the inner corners of the lower hull of log noise over cycles."""
    hull: list[tuple[float, float, Point]] = []
    for point in front:
        corner = (float(point.cycles), math.log10(max(point.score.noise, 1e-20)), point)
        while len(hull) > 1 and _turn(hull[-2], hull[-1], corner) <= 0:
            hull.pop()
        hull.append(corner)
    return [point for _, _, point in hull[1:-1]]


def _turn(a: tuple[float, float, Point], b: tuple[float, float, Point], c: tuple[float, float, Point]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


@dataclass
class Search:
    """One search.

    fixed: modes that stay. seconds: of scoring, after which improving ends, 0 for never; the measurements and the halving are made in
    any case, since without them there is nothing to choose from. limit: most cycles of a table, in place of the bar; 0 for none.
    """

    scorer: Scorer
    costs: CostModel
    table: CalibrationTable
    mode: str
    bar: Bar
    fixed: Mapping[str, str] = field(default_factory=dict[str, str])
    seconds: float = 0.0
    limit: int = 0
    progress: Progress = no_progress
    show: Callable[[str], None] = lambda line: None

    def __post_init__(self) -> None:
        """Group what is free to move."""
        planner = self.scorer.evaluator.planner
        groups = [tuple(name for name in unit if name not in self.fixed) for unit in units(planner.module)]
        self.units: list[Unit] = [unit for unit in groups if unit]
        self.points: dict[Lifted, Point] = {}
        self._cycles: dict[Lifted, int] = {}
        self._cut = False

    def run(self) -> Found:
        """Search until nothing improves or the time is over."""
        self.model = noise_model(self.scorer, self.table, self.units, self.progress)
        self.scorer.start_from(self.candidate(frozenset()))
        chains = [self._lifting(), self._dropping()]
        ends = [self.score(chain[0]) for chain in chains]
        self.show(f"all in INT8: {ends[0].score}; {ends[0].cycles} estimated cycles")
        self.show(f"all in {self.mode}: {ends[1].score}; {ends[1].cycles} estimated cycles")
        for chain in self.progress(chains, len(chains), "tables along the noise per cycle"):
            self._halve(chain)
            self._spread(chain)
        self._improve()
        return Found(self.points, self.best(), self.model, tuple(self.units), not self._cut)

    def candidate(self, lifted: Lifted) -> Candidate:
        """The table with some layers in float."""
        return Candidate(self.table, dict(self.fixed) | dict.fromkeys(lifted, self.mode))

    def cycles(self, lifted: Lifted) -> int:
        """Estimated cycles with some layers in float."""
        if lifted not in self._cycles:
            self._cycles[lifted] = self.costs.cycles(self.scorer.evaluator.planner.plan(self.candidate(lifted)))
        return self._cycles[lifted]

    def score(self, lifted: Lifted) -> Point:
        """The point of a table."""
        if lifted not in self.points:
            self.points[lifted] = Point(lifted, self.scorer.score(self.candidate(lifted)), self.cycles(lifted))
        return self.points[lifted]

    def best(self) -> Point | None:
        """The fastest point within the bar, or the one of least noise within the limit."""
        passing = [point for point in self.points.values() if self._passes(point)]
        return min(passing, key=self._order, default=None)

    def _passes(self, point: Point) -> bool:
        return point.cycles <= self.limit if self.limit else self.bar.passes(point.score)

    def _order(self, point: Point) -> tuple[float, float, int]:
        """Faster first, then less noise, then fewer layers in float; within a limit of cycles less noise first."""
        first, second = (point.score.noise, point.cycles) if self.limit else (point.cycles, point.score.noise)
        return first, second, len(point.lifted)

    def _is_over(self) -> bool:
        self._cut = self._cut or bool(self.seconds and self.scorer.seconds >= self.seconds)
        return self._cut

    def _lifting(self) -> list[Lifted]:
        """From all in 8 bits to all in float."""
        return self._chain(set(), lambda noise, cycles: (cycles > 0, -noise if cycles <= 0 else -noise / cycles))

    def _dropping(self) -> list[Lifted]:
        """From all in float to all in 8 bits."""
        return self._chain(set(self.units), lambda noise, cycles: (cycles >= 0, noise if cycles >= 0 else noise / -cycles))

    def _chain(self, state: set[Unit], rank: Callable[[float, int], tuple[bool, float]]) -> list[Lifted]:
        """Turn units over one by one, the one of the lowest rank first; `rank` is given what changes, noise and cycles."""
        chain, waiting = [_layers(state)], list(self.units)
        ranks: dict[Unit, tuple[bool, float]] = {}
        stale = set(waiting)
        while waiting:
            for unit in stale & set(waiting):
                turned = state ^ {unit}
                lost = self.model.noise(state) - self.model.noise(turned) if unit not in state else None
                noise = lost if lost is not None else self.model.noise(turned) - self.model.noise(state)
                ranks[unit] = rank(noise, self.cycles(_layers(turned)) - self.cycles(_layers(state)))
            chosen = min(waiting, key=lambda unit: ranks[unit])
            waiting.remove(chosen)
            state ^= {chosen}
            chain.append(_layers(state))
            stale = self._neighbours(chosen)
        return chain

    def _neighbours(self, unit: Unit) -> set[Unit]:
        return {other for concerned in self.model.units_of.values() if unit in concerned for other in concerned}

    def _halve(self, chain: list[Lifted]) -> None:
        """Score tables towards where the bar or the limit lies on a chain."""
        starts_passing = self._passes(self.score(chain[0]))
        if self._passes(self.score(chain[-1])) == starts_passing:
            return
        low, high = 0, len(chain) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if self._passes(self.score(chain[middle])) == starts_passing:
                low = middle
            else:
                high = middle

    def _spread(self, chain: list[Lifted]) -> None:
        """Score tables evenly along the cycles of a chain."""
        first, last = self.cycles(chain[0]), self.cycles(chain[-1])
        for k in range(1, SPREAD + 1):
            if self._is_over():
                return
            wanted = first + (last - first) * k / (SPREAD + 1)
            self.score(min(chain, key=lambda lifted: abs(self.cycles(lifted) - wanted)))

    def _improve(self) -> None:
        """Take what helps the best point until nothing does or the time is over."""
        best = self.best()
        refused: set[Lifted] = set()
        while best is not None:
            self.scorer.start_from(self.candidate(best.lifted))
            moves = [lifted for lifted in self._moves(best) if lifted not in refused]
            better = None
            for lifted in moves[:PATIENCE]:
                if self._is_over():
                    return
                point = self.score(lifted)
                if self._passes(point) and self._order(point) < self._order(best):
                    better = point
                    break
                refused.add(lifted)
            best = better

    def _moves(self, best: Point) -> list[Lifted]:
        """Tables one step away that may be better, the most promising first.

        Without a limit those that are faster and may pass the bar, by the noise they are predicted to add for each cycle saved; with one
        those that stay within it and are predicted to be less noisy.
        """
        units_now = {unit for unit in self.units if best.lifted.issuperset(unit)}
        steps: list[tuple[float, Lifted]] = []
        room = TOLERANCE * (self.bar.noise(best.score) - best.score.noise)
        for lifted, units_then in self._near(best.lifted, units_now):
            added = self.model.noise(units_then) - self.model.noise(units_now)
            if self.limit:
                if added < 0 and self.cycles(lifted) <= self.limit:
                    steps.append((added, lifted))
            elif max(added, 1e-12) <= room and (saved := best.cycles - self.cycles(lifted)) > 0:
                steps.append((max(added, 1e-12) / saved, lifted))
        return [lifted for _, lifted in sorted(steps, key=lambda step: (step[0], sorted(step[1])))]

    def _near(self, lifted: Lifted, units_now: set[Unit]) -> list[tuple[Lifted, set[Unit]]]:
        """Every unit turned over, and every single layer of a float unit put back."""
        near: list[tuple[Lifted, set[Unit]]] = []
        for unit in self.units:
            near.append((lifted - frozenset(unit), units_now - {unit}) if lifted & set(unit) else (lifted | set(unit), units_now | {unit}))
            near += [(lifted - {name}, units_now - {unit}) for name in unit if name in lifted and len(unit) > 1]
        return near


def _layers(chosen: set[Unit]) -> Lifted:
    return frozenset(name for unit in chosen for name in unit)
