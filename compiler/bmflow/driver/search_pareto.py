"""Our own search, from tables and samples to the fastest quantize table within a bar and the Pareto set around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bmflow import artifacts
from bmflow.codegen.generate import generate
from bmflow.container import bmodel
from bmflow.driver.search_map import Scored, mean_precision
from bmflow.ir.module import Module
from bmflow.passes.lowering import lower
from bmflow.search import report
from bmflow.search.cost import Cost, CostModel, Estimator
from bmflow.search.journal import Scorer
from bmflow.search.pareto import Bar, Found, Point, Search, knees
from bmflow.search.plan import Candidate
from bmflow.search.report import Returned
from bmflow.search.thresholds import choose_thresholds
from bmflow.simulator import Simulator
from bmflow.tables.calibration import CalibrationTable
from bmflow.tables.precision import PrecisionTable
from bmflow.target import Target

if TYPE_CHECKING:
    from bmflow.driver.search import Job

BEST = "best"
MOST_POINTS = 8
"""Points of the Pareto set that are compiled as a whole and returned."""


def estimator(processor: Target) -> Estimator:
    """Compile a lowered module and let the simulator estimate it."""

    def estimate(module: Module) -> Cost:
        data = bmodel.write(generate(module, processor))
        found = Simulator(bmodel.read(data)).estimate()
        return Cost(found.total_cycles, len(data), {layer.name: layer.cycles for layer in found.layers})

    return estimate


@dataclass(frozen=True)
class Result:
    """A search that is over: what it found with which thresholds, modes that stayed, and on how many batches tables were scored."""

    job: Job
    found: Found
    table: CalibrationTable
    fixed: Mapping[str, str]
    scored: int

    def precision(self, point: Point) -> PrecisionTable:
        """The quantize table of a point."""
        modes = dict(self.fixed) | dict.fromkeys(point.lifted, self.job.mode)
        given = {name: reason for name, reason in self.job.given_reasons.items() if name in self.fixed}
        return self.job.precision(modes, report.reasons(self.found, point.lifted, given), self.scored)

    def lowered(self, point: Point) -> Module:
        """What model_deploy makes of a point."""
        return lower(self.job.module, replace(self.job.lowering, table=self.table, precision=self.precision(point)))


def search_pareto(job: Job, scorer: Scorer, tables: Mapping[str, CalibrationTable], base: str) -> str:
    """Choose thresholds, search, write everything; returns what is missing to the bar, empty when nothing is."""
    from bmflow.driver.search import NEW_TABLE

    options, table = job.options, tables[base]
    if len(tables) > 1:
        chosen = choose_thresholds(scorer, tables, base, job.bar)
        table = chosen.table
        table.save(Path(options.calibrate.table).parent / NEW_TABLE)
        job.show(f"thresholds of {sum(method != base for method in chosen.methods.values())} layers differ from {base}: {NEW_TABLE}")
    estimate = estimator(job.lowering.target)
    costs, bar = CostModel(estimate, job.module.output_names), Bar(options.expected_cos, options.expected_sqnr)
    planner = scorer.evaluator.planner
    integer, floating = (costs.cycles(planner.plan(Candidate(table, modes))) for modes in ({}, dict.fromkeys(planner.ops, job.mode)))
    limit = round(options.max_cycles * integer) if options.max_cycles else round(options.max_float_cycles * floating)
    fixed = dict(job.given)
    found = Search(scorer, costs, table, job.mode, bar, fixed, options.time_budget, limit, job.bar, job.show).run()
    result = Result(job, found, table, fixed, len(scorer.evaluator.samples))
    maps = _maps(job) if options.labels else None
    compiled = _compiled(result, estimate, maps)
    best, missed = _best(result, bar, limit, maps)
    returned = _write(result, compiled, best)
    _say(job, found, best, returned, integer, floating)
    if maps:
        job.show(f"mAP50-95 on {maps.pictures} pictures: float {maps.floating:.4f}, mix {maps.points[best]:.4f}")
    return missed


def _maps(job: Job) -> Scored:
    """mAP of the float network; that of points comes later."""
    assert job.options.labels is not None
    reference = Module.load(job.options.reference) if job.options.reference else job.module
    floating, pictures = mean_precision(job.options.labels, reference)
    return Scored(floating, {}, pictures)


def _compiled(result: Result, estimate: Estimator, maps: Scored | None) -> list[Returned]:
    """The points that may be returned, each lowered and compiled as a whole once; their mAP joins `maps`."""
    front, labels = result.found.front, result.job.options.labels
    points = worth_returning(front, result.found.best or front[-1], knees(front))
    compiled: list[Returned] = []
    for point in result.job.bar(points, len(points), "compile the tables to return"):
        lowered = result.lowered(point)
        if maps and labels:
            maps.points[point] = mean_precision(labels, lowered)[0]
        compiled.append(Returned(point, estimate(lowered), accuracy=maps.points[point] if maps else None))
    return compiled


def _best(result: Result, bar: Bar, limit: int, maps: Scored | None) -> tuple[Point, str]:
    """The point to return as the best, and what it misses; the closest to what was asked for when nothing reaches it."""
    found, labels, file = result.found, result.job.options.labels, result.job.options.quantize_table
    best = maps.best(labels, limit) if maps and labels else found.best
    if best is not None:
        return best, ""
    if limit:
        fastest = found.front[0]
        return fastest, f"no table keeps within {limit} estimated cycles; the fastest found, in {file}, takes {fastest.cycles}"
    if maps and labels:
        closest = maps.closest()
        lost = maps.floating - maps.points[closest]
        return closest, (
            f"no table loses at most {labels.drop:g} of the {maps.floating:.4f} mAP50-95 that float has on {maps.pictures} pictures; "
            f"the best found, in {file}, loses {lost:.4f}"
        )
    quietest = found.front[-1]
    return quietest, f"no table reaches the bar; the best found, in {file}, has {bar.missing(quietest.score)}"


def _write(result: Result, compiled: Sequence[Returned], best: Point) -> list[Returned]:
    """Write the tables and the Pareto set; its points, fastest first."""
    job, found, bends = result.job, result.found, knees(result.found.front)
    path = job.options.quantize_table
    named = [replace(one, roles=_roles(one.point, best, bends)) for one in compiled]
    returned = [_named(one, path, bends) for one in undominated(named)]
    for one in returned:
        if one.file:
            result.precision(one.point).save(one.file)
    header = {"network": job.module.name, "processor": job.lowering.target.name, "float": job.mode, "samples": result.scored}
    artifacts.write_text(f"{path}_pareto.json", report.as_json(returned, header))
    artifacts.write_text(f"{path}_pareto.csv", report.as_csv(returned))
    title = f"{job.module.name} on {job.lowering.target.name}: INT8 and {job.mode}"
    artifacts.write_text(f"{path}_pareto.svg", report.as_svg(returned, list(found.points.values()), title))
    return returned


def _named(one: Returned, path: str, bends: Sequence[Point]) -> Returned:
    """With the file its table goes to, when it has a role."""
    if BEST in one.roles:
        return replace(one, file=path)
    return replace(one, file=f"{path}_knee{bends.index(one.point) + 1}") if one.roles else one


def worth_returning(front: Sequence[Point], best: Point, bends: Sequence[Point]) -> list[Point]:
    """The best, the ends and the bends of a Pareto set, then those farthest in cycles from all before; at most MOST_POINTS, fastest first."""
    chosen = list(dict.fromkeys([best, front[0], front[-1], *bends]))[:MOST_POINTS]
    spare = [point for point in front if point not in chosen]
    while spare and len(chosen) < MOST_POINTS:
        chosen.append(max(spare, key=lambda point: min(abs(point.cycles - other.cycles) for other in chosen)))
        spare.remove(chosen[-1])
    return sorted(chosen, key=lambda point: (point.cycles, point.score.noise))


def undominated(points: Sequence[Returned]) -> list[Returned]:
    """Those that no other one beats in noise and cycles of the whole; the best stays, rather than what beats it but misses the bar."""
    best = next(one for one in points if BEST in one.roles)
    rivals = [one for one in points if one is best or not _beats(one, best)]
    return sorted((one for one in rivals if not any(_beats(other, one) for other in rivals)), key=lambda one: one.cost.cycles)


def _beats(one: Returned, other: Returned) -> bool:
    """At least as good in both, better in one; of equals the one with fewer layers in float."""
    mine, others = ((x.cost.cycles, x.point.score.noise) for x in (one, other))
    if mine == others:
        return BEST not in other.roles and (BEST in one.roles or len(one.point.lifted) < len(other.point.lifted))
    return mine[0] <= others[0] and mine[1] <= others[1]


def _roles(point: Point, best: Point, bends: Sequence[Point]) -> tuple[str, ...]:
    named = ((BEST, point == best), ("knee", point in bends))
    return tuple(role for role, has in named if has)


def _say(job: Job, found: Found, best: Point, returned: Sequence[Returned], integer: int, floating: int) -> None:
    """`integer`, `floating`: cycles with every layer in INT8, or in the float type."""
    plain = found.points[frozenset()].score
    job.show(f"int8 outputs_cos:{plain.compatible:.6f} (0.5 + 0.5 * cos); {plain}")
    job.show(f"mix model outputs_cos:{best.score.compatible:.6f} (0.5 + 0.5 * cos); {best.score}")
    job.show(
        f"estimated cycles (simulator, assumed rates): mix {best.cycles}, {best.cycles / integer:.3f} x INT8, "
        f"{best.cycles / floating:.3f} x {job.mode}; {len(best.lifted)} layers in {job.mode}"
    )
    if not found.finished:
        job.show("the time budget ended before nothing improved any more")
    for one in returned:
        role = f"  {' '.join(one.roles)} {one.file}" if one.roles else ""
        accuracy = f"  mAP50-95 {one.accuracy:.4f}" if one.accuracy is not None else ""
        job.show(f"  {one.cost.cycles:>12} cycles  {one.cost.bytes:>10} bytes  SQNR {one.point.score.sqnr:6.2f} dB{accuracy}{role}")
    job.show(f"Output mix quantization table to {job.options.quantize_table}")
