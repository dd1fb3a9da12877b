"""The record of promotions: nothing in it can be changed unseen, and it says what a rollback goes back to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from bmflow.errors import InputError
from bmflow_components.tracking import audit
from bmflow_components.tracking.audit import PROMOTE, ROLLBACK, Event


def event(number: int, action: str, new: str, before: Event | None) -> Event:
    return Event(
        number, f"2026-11-24T09:30:{number:02}Z", action, "shapes", "anna", before.new if before else "", new, f"{number:064x}", "r1", "good",
        previous=before.sha256 if before else "", metrics={"int8/map": 0.5 + number / 100},
    )  # fmt: skip


def chain(*steps: tuple[str, str]) -> list[Event]:
    events: list[Event] = []
    for number, (action, new) in enumerate(steps, 1):
        events.append(event(number, action, new, events[-1] if events else None))
    return events


def text_of(events: list[Event]) -> str:
    return "".join(e.line() for e in events)


THREE = chain((PROMOTE, "1"), (PROMOTE, "2"), (ROLLBACK, "1"))


def test_a_record_reads_back_as_it_was_written() -> None:
    assert audit.parse(text_of(THREE), "record") == tuple(THREE)


def test_the_digest_is_that_of_the_canonical_json() -> None:
    line = json.loads(THREE[1].line())
    written = line.pop("sha256")
    canonical = json.dumps(line, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert written == hashlib.sha256(canonical.encode()).hexdigest()
    assert line["previous"] == json.loads(THREE[0].line())["sha256"]


@pytest.mark.parametrize(
    "field", ["time", "action", "who", "from", "to", "bmodel_sha256", "run_id", "metrics", "reason", "key", "previous", "sha256"]
)
@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_change_of_any_field_of_any_line_is_noticed(field: str, line: int) -> None:
    lines = text_of(THREE).splitlines()
    data = json.loads(lines[line])
    data[field] = {"int8/map": 0.99} if field == "metrics" else f"{data[field]}x"
    lines[line] = json.dumps(data)
    with pytest.raises(InputError, match=f"line {line + 1}: the record was changed after it was written"):
        audit.parse("\n".join(lines), "record")


def test_a_forged_event_with_a_right_digest_breaks_the_link_of_the_next() -> None:
    forged = [THREE[0], replace(THREE[1], who="mallory"), THREE[2]]
    with pytest.raises(InputError, match="line 3: the record was changed"):
        audit.parse(text_of(forged), "record")


@pytest.mark.parametrize("gone", [0, 1])
def test_a_missing_line_is_noticed(gone: int) -> None:
    with pytest.raises(InputError, match=f"line {gone + 1}: the record was changed"):
        audit.parse(text_of([e for k, e in enumerate(THREE) if k != gone]), "record")


def test_a_record_that_was_cut_short_lacks_its_head() -> None:
    with pytest.raises(InputError, match="cut short or replaced: expected event 3"):
        audit.check_head(audit.parse(text_of(THREE[:2]), "record"), 3, THREE[2].sha256, "record")


def test_a_record_that_is_longer_than_its_head_is_whole() -> None:
    audit.check_head(THREE, 2, THREE[1].sha256, "record")  # a promotion died between the record and the head


@pytest.mark.parametrize("line", ["", "{}", "[]", "no json", '{"number": 1}'])
def test_a_line_that_is_no_event_is_named(line: str) -> None:
    with pytest.raises(InputError, match="record, line 1: not an event"):
        audit.parse(line + "\n", "record")


@pytest.mark.parametrize(
    ("steps", "past"),
    [
        ([], []),
        ([(PROMOTE, "1")], ["1"]),
        ([(PROMOTE, "1"), (PROMOTE, "2"), (PROMOTE, "3")], ["1", "2", "3"]),
        ([(PROMOTE, "1"), (PROMOTE, "2"), (PROMOTE, "3"), (ROLLBACK, "2")], ["1", "2"]),
        ([(PROMOTE, "1"), (PROMOTE, "2"), (PROMOTE, "3"), (ROLLBACK, "1")], ["1"]),
        ([(PROMOTE, "1"), (PROMOTE, "2"), (ROLLBACK, "1"), (PROMOTE, "3")], ["1", "3"]),
        ([(PROMOTE, "1"), (PROMOTE, "2"), (PROMOTE, "1")], ["2", "1"]),
    ],
)
def test_a_rollback_takes_champions_away_and_a_promotion_adds_one(steps: list[tuple[str, str]], past: list[str]) -> None:
    assert audit.champions(chain(*steps)) == past
