"""The bars, and the judgement by them: plain arithmetic on what evaluate measured.

For a figure m of the float network and c of a candidate on the same pictures: drop = m - c, relative drop = (m - c) / m. A candidate
that is better has a negative drop. A bar is met when the value reaches it; 1e-9 is allowed for rounding. Among the candidates that
meet every bar the fastest by estimate is chosen, then the more accurate, then the smaller, then the first by name.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bmflow.errors import InputError, nearest_names
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bmflow_components import documents

ROUNDING = 1e-9
_NO_BAR = {"metric"}


class Bars(BaseModel):
    """The gate file; None means that a bar is not judged."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    metric: Literal["map", "map50"] = "map"
    largest_drop: float | None = Field(None, ge=0, le=1)
    largest_relative_drop: float | None = Field(None, ge=0, le=1)
    largest_class_drop: float | None = Field(None, ge=0, le=1)
    smallest_map: float | None = Field(None, ge=0, le=1)
    smallest_map50: float | None = Field(None, ge=0, le=1)
    class_floor: float | None = Field(None, ge=0, le=1)
    class_floors: dict[str, float] = {}
    largest_size_bytes: int | None = Field(None, ge=1)
    largest_milliseconds: float | None = Field(None, gt=0)
    largest_drop_below_champion: float | None = Field(None, ge=0, le=1)

    @staticmethod
    def load(path: Path) -> Bars:
        """Read a gate file.

        Raises:
            InputError: unreadable, an unknown key, a value of the wrong kind, or no bar at all.
        """
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
            bars = Bars(**data)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{path}: cannot be read as a gate file ({error}); expected TOML") from error
        except ValidationError as error:
            raise InputError(f"{path}: {'; '.join(_explain(item) for item in error.errors())}") from error
        if bad := [name for name, floor in bars.class_floors.items() if not 0 <= floor <= 1]:
            raise InputError(f"{path}: class_floors.{bad[0]}: expected 0 to 1, found {bars.class_floors[bad[0]]}")
        if not bars.given():
            raise InputError(
                f"{path}: sets no bar, so everything would pass; set one of {', '.join(sorted(set(Bars.model_fields) - _NO_BAR))}"
            )
        return bars

    def given(self) -> dict[str, Any]:
        """The bars that are set."""
        return {name: value for name, value in self.model_dump().items() if name not in _NO_BAR and value not in (None, {})}


def _explain(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{name}'; {nearest_names(name, Bars.model_fields) or 'known are ' + ', '.join(Bars.model_fields)}"
    return f"{name}: {problem['msg'].lower()}, found {problem['input']!r}"


@dataclass(frozen=True)
class Measured:
    """What evaluate says of one network."""

    label: str
    processor: str
    quantize: str
    sha256: str
    evaluation: Mapping[str, Any]
    map: float
    map50: float
    per_class: Mapping[str, float]
    size_bytes: int | None = None
    milliseconds: float | None = None

    def figure(self, name: str) -> float:
        """map or map50."""
        return self.map if name == "map" else self.map50

    @staticmethod
    def load(path: Path) -> Measured | None:
        """Read a metrics file of evaluate; None when it says that nothing was measured.

        Raises:
            InputError: not such a file, or a figure that is no number in 0..1.
        """
        data = documents.read(path, "metrics of the stage evaluate")
        if data.get("measured") is False:
            return None
        try:
            accuracy, cost = data["accuracy"], data["cost"]
            found = Measured(
                data["label"], data["processor"], data["quantize"], data["network"]["sha256"], data["evaluation"], float(accuracy["map"]),
                float(accuracy["map50"]), {name: float(value) for name, value in accuracy["per_class"].items()}, cost.get("size_bytes"),
                cost.get("milliseconds"),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: not metrics of the stage evaluate ({type(error).__name__}: {error})") from error
        if bad := [value for value in (found.map, found.map50, *found.per_class.values()) if not 0 <= value <= 1]:
            raise InputError(f"{path}: holds {bad[0]} as accuracy; expected 0 to 1")
        return found


@dataclass(frozen=True)
class Check:
    """One bar for one candidate; `text` says value, limit and outcome."""

    bar: str
    passed: bool
    value: float | None
    limit: float
    text: str


@dataclass(frozen=True)
class Judgement:
    """All bars for one candidate, and what could not be judged."""

    measured: Measured
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every bar is met."""
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """What was missed, or that all is well."""
        return [check.text for check in self.checks if not check.passed] or ["meets every bar"]


@dataclass(frozen=True)
class Decision:
    """The verdict over all candidates."""

    bars: Bars
    judgements: tuple[Judgement, ...]
    reference: Measured | None
    champion: Measured | None
    chosen: Measured | None
    notes: tuple[str, ...] = field(default=())

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        if self.chosen:
            return f"{self.chosen.label} is taken: it meets every bar{_speed(self)}"
        return f"no candidate of {len(self.judgements)} meets every bar; the champion stays as it is"


def _speed(decision: Decision) -> str:
    passing = [item for item in decision.judgements if item.passed]
    chosen = decision.chosen
    if chosen is None or chosen.milliseconds is None:
        return ""
    how = f"{chosen.milliseconds:.3f} ms estimated"
    return f" and is the fastest of {len(passing)} ({how})" if len(passing) > 1 else f" ({how})"


def judge(candidates: Sequence[Measured], reference: Measured | None, champion: Measured | None, bars: Bars) -> Decision:
    """Judge every candidate and choose.

    Raises:
        InputError: nothing to judge, or networks measured on different pictures or in different ways.
    """
    if not candidates:
        raise InputError("no candidate was measured, so there is nothing to judge")
    _check_same_pictures([*candidates, *(item for item in (reference, champion) if item)])
    judgements = tuple(_judge(candidate, reference, champion, bars) for candidate in candidates)
    passing = [item.measured for item in judgements if item.passed]
    chosen = min(passing, key=lambda item: _rank(item, bars), default=None)
    notes = () if champion else ("there is no champion yet to compare with",)
    return Decision(bars, judgements, reference, champion, chosen, notes)


def _rank(measured: Measured, bars: Bars) -> tuple[float, float, float, str]:
    unknown = math.inf
    return (
        measured.milliseconds if measured.milliseconds is not None else unknown, -measured.figure(bars.metric),
        measured.size_bytes if measured.size_bytes is not None else unknown, measured.label,
    )  # fmt: skip


def _check_same_pictures(measured: Sequence[Measured]) -> None:
    first = measured[0]
    for other in measured[1:]:
        for name in ("digest", "pictures", "settings"):
            if other.evaluation.get(name) != first.evaluation.get(name):
                raise InputError(
                    f"{first.label} and {other.label} were not measured alike: evaluation {name} {first.evaluation.get(name)} and "
                    f"{other.evaluation.get(name)}; figures of different pictures or settings cannot be compared, measure both anew"
                )


def _judge(candidate: Measured, reference: Measured | None, champion: Measured | None, bars: Bars) -> Judgement:
    checks = [*_absolute(candidate, bars), *_classes(candidate, bars), *_cost(candidate, bars)]
    notes: list[str] = []
    if reference:
        checks += _drops(candidate, reference, bars)
    elif bars.largest_drop is not None or bars.largest_relative_drop is not None or bars.largest_class_drop is not None:
        notes.append("drops against the float network are not judged: it was not measured")
    if champion and bars.largest_drop_below_champion is not None:
        drop = champion.figure(bars.metric) - candidate.figure(bars.metric)
        what = f"{bars.metric} {candidate.figure(bars.metric):.4f} against the champion's {champion.figure(bars.metric):.4f}: drop"
        checks.append(_at_most("largest_drop_below_champion", what, drop, bars.largest_drop_below_champion))
    return Judgement(candidate, tuple(checks), tuple(notes))


def _drops(candidate: Measured, reference: Measured, bars: Bars) -> Iterator[Check]:
    before, after = reference.figure(bars.metric), candidate.figure(bars.metric)
    what = f"{bars.metric} {after:.4f} against float {before:.4f}:"
    if bars.largest_drop is not None:
        yield _at_most("largest_drop", f"{what} drop", before - after, bars.largest_drop)
    if bars.largest_relative_drop is not None:
        if before <= 0:
            raise InputError(f"the float network has {bars.metric} {before}, so no relative drop can be told; is it the right network?")
        yield _at_most("largest_relative_drop", f"{what} relative drop", (before - after) / before, bars.largest_relative_drop)
    if bars.largest_class_drop is not None:
        for name, value in reference.per_class.items():
            drop = value - candidate.per_class.get(name, 0.0)
            yield _at_most(f"largest_class_drop.{name}", f"class {name}: drop", drop, bars.largest_class_drop)


def _absolute(candidate: Measured, bars: Bars) -> Iterator[Check]:
    if bars.smallest_map is not None:
        yield _at_least("smallest_map", "map", candidate.map, bars.smallest_map)
    if bars.smallest_map50 is not None:
        yield _at_least("smallest_map50", "map50", candidate.map50, bars.smallest_map50)


def _classes(candidate: Measured, bars: Bars) -> Iterator[Check]:
    if unknown := sorted(set(bars.class_floors) - set(candidate.per_class)):
        hint = nearest_names(unknown[0], candidate.per_class) or f"it has {', '.join(candidate.per_class)}"
        raise InputError(f"class_floors names '{unknown[0]}', which the evaluation set does not have; {hint}")
    for name, value in candidate.per_class.items():
        floor = bars.class_floors.get(name, bars.class_floor)
        if floor is not None:
            yield _at_least(f"class_floor.{name}", f"class {name}: map", value, floor)


def _cost(candidate: Measured, bars: Bars) -> Iterator[Check]:
    for name, bar, value, limit, unit in (
        ("size", "largest_size_bytes", candidate.size_bytes, bars.largest_size_bytes, "bytes"),
        ("estimated time", "largest_milliseconds", candidate.milliseconds, bars.largest_milliseconds, "ms"),
    ):
        if limit is None:
            continue
        if value is None:
            yield Check(bar, False, None, limit, f"{name}: not known, allowed {limit:g} {unit}")
        else:
            yield _at_most(bar, name, value, limit, f" {unit}")


def _at_most(bar: str, what: str, value: float, limit: float, unit: str = "") -> Check:
    passed = value <= limit + ROUNDING
    return Check(bar, passed, value, limit, f"{what} {value:.6g}{unit}, {'within' if passed else 'above'} the allowed {limit:g}{unit}")


def _at_least(bar: str, what: str, value: float, limit: float) -> Check:
    passed = value >= limit - ROUNDING
    return Check(bar, passed, value, limit, f"{what} {value:.6g}, {'reaches' if passed else 'below'} the required {limit:g}")
