"""The threshold of each value by what it does to the outputs: of several methods' tables, the row that adds the least noise.

A value is rounded with each method's row in turn while everything else is float, so the best row is found for every value by itself;
that one method suits no whole network is what makes this worth its time. Values that bring next to none of the noise are left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from bmflow.search.journal import Scorer
from bmflow.search.plan import Candidate
from bmflow.search.sensitivity import FLOAT, Progress, no_progress, rounded
from bmflow.tables.calibration import CalibrationTable

SAME = 0.03
"""Thresholds that differ by less than this share count as one."""
QUIET = 0.1
"""Share of the noise in which it is not worth looking for a better threshold."""
NAME = "mixed"


@dataclass(frozen=True)
class Chosen:
    """The table made of the best rows, and for each value where a method was chosen by its effect, the method and its noise."""

    table: CalibrationTable
    methods: Mapping[str, str]
    noises: Mapping[str, float]


def choose_thresholds(scorer: Scorer, tables: Mapping[str, CalibrationTable], base: str, bar: Progress = no_progress) -> Chosen:
    """Choose row by row in program order; a row that agrees with that of `base`, or has no influence, is not tried."""
    table, names = tables[base], list(scorer.evaluator.planner.ops)
    scorer.start_from(Candidate(table, dict.fromkeys(names, FLOAT)))
    loud = _loud(scorer, table, bar)
    methods: dict[str, str] = {}
    noises: dict[str, float] = {}
    for name in bar(loud, len(loud), "thresholds by their effect on the outputs"):
        trials = {base: table} | {method: _with_row(table, other, name) for method, other in tables.items() if _differs(table, other, name)}
        touched = _touched(scorer, list(trials.values()))
        if not touched:
            continue
        found = {method: rounded(scorer, trial, touched).noise for method, trial in trials.items()}
        method = min(found, key=lambda key: found[key])  # the first one on a tie: the base
        methods[name], noises[name] = method, found[method]
        table = _with_row(table, tables[method], name)
    counts = ", ".join(f"{method} {count}" for method, count in Counter(methods.values()).most_common())
    notes = (*table.notes, f"thresholds chosen by output noise: {counts}") if methods else table.notes
    return Chosen(replace(table, method=NAME if len(set(methods.values())) > 1 else table.method, notes=notes), methods, noises)


def _loud(scorer: Scorer, table: CalibrationTable, bar: Progress) -> list[str]:
    """Values whose noises make up all but QUIET of the sum, in program order."""
    analysis = scorer.evaluator.planner.decision(table)
    names = [name for name in scorer.evaluator.planner.ops if name in table.ranges and name in analysis.ranges]
    noises = {name: rounded(scorer, table, [name]).noise for name in bar(names, len(names), "values in 8 bits")}
    left, chosen = QUIET * sum(noises.values()), set(names)
    for name in sorted(names, key=lambda name: noises[name]):
        left -= noises[name]
        if left < 0:
            break
        chosen.discard(name)
    return [name for name in names if name in chosen]


def _with_row(table: CalibrationTable, other: CalibrationTable, name: str) -> CalibrationTable:
    return replace(table, ranges={**table.ranges, name: other.ranges[name]}) if name in table.ranges else table


def _differs(table: CalibrationTable, other: CalibrationTable, name: str) -> bool:
    if name not in table.ranges or name not in other.ranges:
        return False
    one, two = table.ranges[name], other.ranges[name]
    pairs = ((one.threshold, two.threshold), (one.low, two.low), (one.high, two.high))
    return any(abs(a - b) > SAME * max(abs(a), abs(b)) for a, b in pairs)


def _touched(scorer: Scorer, trials: list[CalibrationTable]) -> list[str]:
    """Values that are quantized differently by some of the tables: the value of the row, and those that share its range."""
    planner = scorer.evaluator.planner
    analyses = [planner.decision(table) for table in trials]
    known = [name for name in planner.ops if all(name in analysis.ranges for analysis in analyses)]
    return [name for name in known if len({analysis.quantization(name) for analysis in analyses}) > 1]
