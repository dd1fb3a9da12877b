"""The gate's arithmetic against figures worked out by hand, and its refusals."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from bmflow.errors import InputError
from bmflow_components.gate import Bars, Decision, Measured, judge

SAME = {"digest": "d", "pictures": 10, "settings": "s"}
FLOAT = Measured("float", "", "F32", "f", SAME, 0.60, 0.80, {"cat": 0.70, "dog": 0.50})
CANDIDATE = Measured("a", "bm1684x", "INT8", "a", SAME, 0.57, 0.79, {"cat": 0.66, "dog": 0.48}, 1000, 2.0)


def verdict(candidate: Measured, reference: Measured | None = FLOAT, champion: Measured | None = None, **bars: Any) -> Decision:
    """Judge one candidate."""
    return judge([candidate], reference, champion, Bars(**bars))


@dataclass(frozen=True)
class Case:
    """Bars, and whether CANDIDATE meets them."""

    bars: dict[str, Any]
    passed: bool
    why: str


CASES = [
    Case({"largest_drop": 0.03}, True, "0.60 - 0.57 = 0.03 exactly, though floating point makes it 0.030000000000000027"),
    Case({"largest_drop": 0.0299}, False, "0.03 > 0.0299"),
    Case({"largest_relative_drop": 0.05}, True, "0.03 / 0.60 = 0.05 exactly"),
    Case({"largest_relative_drop": 0.049}, False, "0.05 > 0.049"),
    Case({"metric": "map50", "largest_drop": 0.01}, True, "0.80 - 0.79 = 0.01"),
    Case({"metric": "map50", "largest_relative_drop": 0.0125}, True, "0.01 / 0.80 = 0.0125"),
    Case({"metric": "map50", "largest_relative_drop": 0.0124}, False, "0.0125 > 0.0124"),
    Case({"largest_class_drop": 0.04}, True, "cat 0.04, dog 0.02"),
    Case({"largest_class_drop": 0.039}, False, "cat 0.04"),
    Case({"smallest_map": 0.57}, True, "0.57"),
    Case({"smallest_map": 0.58}, False, "0.57 < 0.58"),
    Case({"smallest_map50": 0.8}, False, "0.79 < 0.8"),
    Case({"class_floor": 0.48}, True, "dog 0.48"),
    Case({"class_floor": 0.49}, False, "dog 0.48 < 0.49"),
    Case({"class_floor": 0.49, "class_floors": {"dog": 0.4}}, True, "dog has a floor of its own"),
    Case({"class_floors": {"cat": 0.67}}, False, "cat 0.66 < 0.67"),
    Case({"largest_size_bytes": 1000}, True, "1000 bytes"),
    Case({"largest_size_bytes": 999}, False, "1000 > 999"),
    Case({"largest_milliseconds": 2.0}, True, "2 ms"),
    Case({"largest_milliseconds": 1.9}, False, "2 > 1.9"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: ",".join(f"{k}={v}" for k, v in case.bars.items()))
def test_a_bar_is_met_exactly_when_the_arithmetic_says_so(case: Case) -> None:
    """Worked out in `why`."""
    assert (verdict(CANDIDATE, **case.bars).chosen is not None) is case.passed, case.why


def test_a_candidate_better_than_the_float_network_has_a_negative_drop_and_passes() -> None:
    """The sign must not be lost: +0.05 is no loss of 0.05."""
    better = replace(CANDIDATE, map=0.65)
    [check] = verdict(better, largest_relative_drop=0.0).judgements[0].checks
    assert check.value == pytest.approx(-0.05 / 0.60)
    assert check.passed


def test_a_class_that_is_no_longer_found_has_lost_everything() -> None:
    """Absent from the candidate's figures: its drop is the float network's 0.5."""
    decision = verdict(replace(CANDIDATE, per_class={"cat": 0.70}), largest_class_drop=0.49)
    missed = [check for check in decision.judgements[0].checks if not check.passed]
    assert [(check.bar, check.value) for check in missed] == [("largest_class_drop.dog", 0.5)]


def test_an_unknown_time_does_not_meet_a_bar_on_time() -> None:
    """What is not known is not good."""
    assert verdict(replace(CANDIDATE, milliseconds=None), largest_milliseconds=5.0).chosen is None


def test_the_champion_is_compared_on_the_same_metric() -> None:
    """0.59 - 0.57 = 0.02."""
    champion = replace(CANDIDATE, label="champion", map=0.59)
    assert verdict(CANDIDATE, champion=champion, largest_drop_below_champion=0.02).chosen is not None
    assert verdict(CANDIDATE, champion=champion, largest_drop_below_champion=0.019).chosen is None


def test_the_fastest_that_passes_is_taken_and_ties_go_by_accuracy_size_and_name() -> None:
    """A faster one that misses a bar does not count."""
    bars = Bars(smallest_map=0.5)
    slow, fast = replace(CANDIDATE, label="slow"), replace(CANDIDATE, label="fast", milliseconds=1.0)
    bad = replace(CANDIDATE, label="bad", milliseconds=0.1, map=0.4)
    assert judge([slow, fast, bad], FLOAT, None, bars).chosen is fast
    accurate = replace(fast, label="accurate", map=0.58)
    assert judge([fast, accurate], FLOAT, None, bars).chosen is accurate
    small = replace(fast, label="small", size_bytes=10)
    assert judge([fast, small], FLOAT, None, bars).chosen is small
    twin = replace(fast, label="a twin")
    assert judge([fast, twin], FLOAT, None, bars).chosen is twin
    untimed = replace(slow, label="untimed", milliseconds=None)
    assert judge([untimed, slow], FLOAT, None, bars).chosen is slow


def test_nothing_passing_names_every_reason() -> None:
    """No chosen candidate, and the champion stays."""
    decision = verdict(CANDIDATE, largest_drop=0.01, smallest_map50=0.9)
    assert decision.chosen is None
    assert "the champion stays" in decision.headline
    assert decision.judgements[0].reasons == [
        "map50 0.79, below the required 0.9",
        "map 0.5700 against float 0.6000: drop 0.03, above the allowed 0.01",
    ]


@pytest.mark.parametrize("key", ["digest", "pictures", "settings"])
def test_figures_of_different_pictures_or_settings_are_not_compared(key: str) -> None:
    """For the float network as for the champion."""
    other = replace(FLOAT, evaluation={**SAME, key: "other"})
    with pytest.raises(InputError, match=f"a and float were not measured alike: evaluation {key}"):
        verdict(CANDIDATE, other, largest_drop=0.1)
    with pytest.raises(InputError, match="were not measured alike"):
        verdict(CANDIDATE, FLOAT, replace(other, label="champion"), largest_drop=0.1)


def test_a_float_network_that_finds_nothing_gives_no_relative_drop() -> None:
    """Division by zero is refused, not passed."""
    with pytest.raises(InputError, match="no relative drop can be told"):
        verdict(CANDIDATE, replace(FLOAT, map=0.0), largest_relative_drop=0.1)


def test_no_candidate_is_no_verdict() -> None:
    """Nothing measured."""
    with pytest.raises(InputError, match="nothing to judge"):
        judge([], FLOAT, None, Bars(smallest_map=0.1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("larges_drop = 0.1", "unknown key 'larges_drop'; did you mean largest_drop"),
        ("largest_drop = 3", "largest_drop: input should be less than or equal to 1, found 3"),
        ("largest_drop = '0.1'", "largest_drop: input should be a valid number, found '0.1'"),
        ("metric = 'f1'\nlargest_drop = 0.1", "metric: input should be 'map' or 'map50', found 'f1'"),
        ("class_floors = {cat = 2.0}", "class_floors.cat: expected 0 to 1, found 2.0"),
        ("largest_drop = nan", "largest_drop"),
        ("metric = 'map'", "sets no bar, so everything would pass"),
        ("largest_drop = ", "cannot be read as a gate file"),
    ],
)
def test_a_gate_file_with_a_mistake_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """Unknown keys above all: a bar with a spelling mistake would not be judged."""
    (tmp_path / "gate.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        Bars.load(tmp_path / "gate.toml")


def test_a_floor_for_a_class_that_is_not_there_is_refused() -> None:
    """A spelling mistake in a class name."""
    with pytest.raises(InputError, match="class_floors names 'dogg', which the evaluation set does not have; did you mean dog"):
        verdict(CANDIDATE, class_floors={"dogg": 0.1})


def test_the_default_bars_are_sound() -> None:
    """The file that comes with the distribution."""
    bars = Bars.load(Path(str(resources.files("bmflow_components"))) / "gate.toml")
    assert bars.given()


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.5])
def test_an_impossible_accuracy_is_refused(tmp_path: Path, value: float) -> None:
    """Not a number would pass every comparison the wrong way round."""
    content = {
        "schema": 1, "measured": True, "label": "x", "processor": "p", "quantize": "q", "network": {"sha256": "0"}, "evaluation": SAME,
        "accuracy": {"map": value, "map50": 0.5, "per_class": {}}, "cost": {},
    }  # fmt: skip
    (tmp_path / "m.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="expected 0 to 1"):
        Measured.load(tmp_path / "m.json")
