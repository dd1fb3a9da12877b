"""The record of promotions: one JSON line an event, each holding the SHA-256 of the line before, so that no line can be changed unseen.

{"number": 1, "time": "2026-11-24T09:30:00Z", "action": "promote", "model": "shapes-bm1684x", "who": "anna", "from": "", "to": "3",
 "bmodel_sha256": "...", "run_id": "...", "metrics": {"int8/map": 0.81}, "reason": "gate passed", "key": "", "previous": "", "sha256": "..."}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bmflow.errors import InputError

PROMOTE, ROLLBACK = "promote", "rollback"
_FIELDS = ("number", "time", "action", "model", "who", "from", "to", "bmodel_sha256", "run_id", "metrics", "reason", "key", "previous")


@dataclass(frozen=True)
class Event:
    """A version became champion. `old` is the champion before, empty for the first; `key` is the run's cache key, empty when a person did it.

    `time` is UTC, `previous` the digest of the event before.
    """

    number: int
    time: str
    action: str
    model: str
    who: str
    old: str
    new: str
    bmodel_sha256: str
    run_id: str
    reason: str
    key: str = ""
    previous: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])

    def body(self) -> dict[str, Any]:
        """Everything that the digest covers, in written order."""
        values = (
            self.number, self.time, self.action, self.model, self.who, self.old, self.new, self.bmodel_sha256, self.run_id,
            dict(sorted(self.metrics.items())), self.reason, self.key, self.previous,
        )  # fmt: skip
        return dict(zip(_FIELDS, values, strict=True))

    @property
    def sha256(self) -> str:
        """Digest of the event, the one before included: the canonical JSON of `body`."""
        text = json.dumps(self.body(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def line(self) -> str:
        """The event as one line of the record."""
        return json.dumps({**self.body(), "sha256": self.sha256}, ensure_ascii=False) + "\n"


def parse(text: str, where: str) -> tuple[Event, ...]:
    """Read a record and check every link; `where` begins the messages.

    Raises:
        InputError: a line is malformed, missing, out of order, or was changed after it was written.
    """
    events: list[Event] = []
    for number, line in enumerate(text.splitlines(), 1):
        event, written = _event(line, f"{where}, line {number}")
        before = events[-1].sha256 if events else ""
        if event.number != number or event.previous != before or event.sha256 != written:
            raise InputError(
                f"{where}, line {number}: the record was changed after it was written: expected event {number} linked to "
                f"{before[:12] or 'nothing'}, found event {event.number} linked to {event.previous[:12] or 'nothing'} with "
                f"{'its own' if event.sha256 == written else 'a foreign'} digest; compare with a backup and find out who wrote to the store"
            )
        events.append(event)
    return tuple(events)


def check_head(events: Sequence[Event], count: int, head: str, where: str) -> None:
    """Refuse a record that was cut short or replaced as a whole.

    Args:
        count, head: number of events and digest of the last one, as kept apart from the record.
    Raises:
        InputError: it does not contain that event.
    """
    if count and (len(events) < count or events[count - 1].sha256 != head):
        raise InputError(
            f"{where}: the record was cut short or replaced: expected event {count} with digest {head[:12]}, found {len(events)} events; "
            "compare with a backup and find out who wrote to the store"
        )


def champions(events: Iterable[Event]) -> list[str]:
    """The versions a rollback would go back through, oldest first; the last is the champion. A promotion adds, a rollback takes away."""
    stack: list[str] = []
    for event in events:
        if event.action == ROLLBACK and event.new in stack:
            del stack[stack.index(event.new) + 1 :]
        elif not stack or stack[-1] != event.new:
            stack = [version for version in stack if version != event.new] + [event.new]
    return stack


def _event(line: str, where: str) -> tuple[Event, str]:
    try:
        data = json.loads(line)
        values = {name: data.pop(name) for name in _FIELDS}
        written = data.pop("sha256")
        if data:
            raise ValueError(f"unknown fields {', '.join(data)}")
        old, new = values.pop("from"), values.pop("to")
        return Event(old=old, new=new, **values), written
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: not an event of the promotion record ({type(error).__name__}: {error})") from error
