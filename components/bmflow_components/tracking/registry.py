"""Versions of a bmodel, which of them is on the boxes (alias `champion`) or waits (alias `challenger`), and the record of every change.

The record is a file `promotions.jsonl` of one run per model in the experiment `<experiment> promotions` (see `audit`). Number and digest of
its last event are kept on the registered model too, the digest of each on the version it made champion; a record that was changed or cut
short anywhere is refused. One change at a time: a short-lived registered model `<name>.changing` is the lock, since making one is the single
step that every MLflow store does as a whole.
"""

# pyright: reportMissingImports=false
# (MLflow and DVC belong to extras)

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bmflow import artifacts
from bmflow.errors import InputError, nearest_names

from bmflow_components.tracking import audit
from bmflow_components.tracking.audit import Event
from bmflow_components.tracking.files import DETECTOR_FILE, DIGEST_TAG, MODEL_FILE, check_digest
from bmflow_components.tracking.redact import redact
from bmflow_components.tracking.store import Store, TrackingError

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

LOG = logging.getLogger("bmflow")
CHAMPION, CHALLENGER = "champion", "challenger"
METRIC_TAG = "bmflow.metric."
RECORD_FILE = "promotions.jsonl"
_COUNT_TAG, _HEAD_TAG, _RUN_TAG, _OF_TAG = "bmflow.audit.count", "bmflow.audit.head", "bmflow.audit.run", "bmflow.audit.of"
_EVENT_TAG = "bmflow.promotion."
_LOCK_SUFFIX, _STALE_S = ".changing", 120.0
_T = TypeVar("_T")


def registered_name(model: str, processor: str) -> str:
    """Name of the registered model of a network and a processor."""
    return f"{model}-{processor}"


@dataclass(frozen=True)
class Version:
    """A registered version: its number, aliases, tags, run, and where its files lie."""

    name: str
    number: str
    run_id: str
    source: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str] = field(repr=False)

    @property
    def sha256(self) -> str:
        """Digest of its bmodel."""
        return self.tags.get(DIGEST_TAG, "")

    @property
    def metrics(self) -> dict[str, float]:
        """The figures it was registered with."""
        return {name.removeprefix(METRIC_TAG): float(value) for name, value in self.tags.items() if name.startswith(METRIC_TAG)}

    @property
    def uri(self) -> str:
        """Address for `load_model`."""
        return f"models:/{self.name}/{self.number}"


@dataclass(frozen=True)
class Fetched:
    """The files of a version on this machine."""

    version: Version
    folder: Path
    bmodel: Path
    detector: Path | None


def find_version(store: Store, name: str, which: str = CHAMPION) -> Version | None:
    """A version by number or alias; None when there is no such one."""
    if which.isdigit():
        found = _or_none(store, f"look for version {which} of {name}", store.client.get_model_version, name, which)
    else:
        found = _or_none(store, f"look for the {which} of {name}", store.client.get_model_version_by_alias, name, which)
    return _version(found) if found else None


def get_version(store: Store, name: str, which: str) -> Version:
    """A version by number or alias.

    Raises:
        InputError: there is none; says what there is.
    """
    if version := find_version(store, name, which):
        return version
    known = versions(store, name)
    if known:
        raise InputError(f"{name}: has no {_words(which)}; it has the versions {', '.join(v.number for v in known)}")
    names = [model.name for model in store.call("list the models", store.client.search_registered_models, max_results=1000)]
    raise InputError(
        f"{name}: no such registered model in {store}; {nearest_names(name, names) or 'there are ' + (', '.join(names[:8]) or 'none')}"
    )


def versions(store: Store, name: str) -> list[Version]:
    """Every version of a model, oldest first."""
    quoted = name.replace("'", "''")
    found = store.call("list the versions", store.client.search_model_versions, f"name = '{quoted}'", max_results=1000)
    aliases = _or_none(store, f"look for {name}", store.client.get_registered_model, name)
    by_number: dict[str, list[str]] = {}
    for alias, number in (aliases.aliases if aliases else {}).items():
        by_number.setdefault(str(number), []).append(alias)
    return sorted((replace(_version(v), aliases=tuple(by_number.get(str(v.version), ()))) for v in found), key=lambda v: int(v.number))


def history(store: Store, name: str) -> tuple[Event, ...]:
    """The record of promotions, oldest first, every link checked.

    Raises:
        InputError: no such model, or the record was changed.
    """
    events = _record(store, _registered(store, name))
    known = {event.sha256 for event in events}
    for version in versions(store, name):
        for tag, mark in version.tags.items():
            if tag.startswith(_EVENT_TAG) and mark.rpartition(" ")[2] not in known:
                raise InputError(
                    f"promotion record of {name}: lacks the event that version {version.number} is marked with ({mark}); the record was cut "
                    "short or replaced, compare with a backup and find out who wrote to the store"
                )
    return events


def promote(
    store: Store, name: str, which: str = CHALLENGER, who: str = "", reason: str = "", metrics: Mapping[str, float] | None = None, key: str = ""
) -> Event:  # fmt: skip
    """Make a version the champion and write the event down; a repetition changes nothing and returns the event of the first time.

    Args:
        which: number or alias of the version.
        who: default: the user of this process (BMFLOW_USER before the login name).
        metrics: default: those the version was registered with.
        key: cache key of the run that decides, so that a run repeated later does not undo a rollback made in between.
    Raises:
        InputError: no such version, or the record was changed.
    """
    with _exclusive(store, name):
        version = get_version(store, name, which)
        events = history(store, name)
        if done := next((event for event in events if key and event.key == key and event.new == version.number), None):
            if done is events[-1]:
                _apply(store, done)
            return done
        if events and events[-1].new == version.number:
            _apply(store, events[-1])
            return events[-1]
        numbers = version.metrics if metrics is None else metrics
        return _write(store, name, events, audit.PROMOTE, version, who, reason, numbers, key)


def rollback(store: Store, name: str, to: str = "", who: str = "", reason: str = "") -> Event:
    """Make the champion before the present one (or `to`) champion again and write the event down.

    Raises:
        InputError: nothing to go back to, `to` was never champion, or the record was changed.
    """
    with _exclusive(store, name):
        events = history(store, name)
        past = audit.champions(events)
        if len(past) < 2:
            why = f"version {past[0]} is the only champion so far" if past else "it never had a champion"
            raise InputError(f"{name}: nothing to go back to; {why}")
        target = get_version(store, name, to).number if to else past[-2]
        if target not in past[:-1]:
            raise InputError(f"{name}: version {target} was not champion before version {past[-1]}; choose from {', '.join(past[:-1])}")
        version = get_version(store, name, target)
        return _write(store, name, events, audit.ROLLBACK, version, who, reason, version.metrics, "")


def withdrawn(events: Sequence[Event], number: str) -> Event | None:
    """The rollback that took a version from the boxes, None when it was never taken away or was promoted again since."""
    last = next((event for event in reversed(events) if number in (event.old, event.new)), None)
    return last if last and last.action == audit.ROLLBACK and last.old == number else None


def drifted(store: Store, name: str) -> str:
    """Say what differs between the record and the alias; empty when they agree."""
    events, champion = history(store, name), find_version(store, name)
    recorded, actual = events[-1].new if events else "", champion.number if champion else ""
    if recorded == actual:
        return ""
    return (
        f"{name}: by the record version {recorded or 'none'} is champion, but the alias says {actual or 'none'}: a promotion was cut short, or "
        f"the alias was moved by hand; `promote --version {recorded or actual}` puts it right"
    )


def fetch(store: Store, name: str, which: str, folder: str | Path) -> Fetched:
    """Copy the files of a version into a folder and check the bmodel against the digests of the registry and of the promotion record.

    Raises:
        InputError: no such version, or a bmodel that is not the registered one.
    """
    from mlflow.artifacts import download_artifacts

    version = get_version(store, name, which)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    store.call(
        f"fetch version {version.number}", download_artifacts, artifact_uri=version.uri, dst_path=str(target), tracking_uri=store.uri,
        registry_uri=store.uri,
    )  # fmt: skip
    found = next(target.rglob(MODEL_FILE), None)
    if found is None:
        raise InputError(f"{version.uri}: holds no {MODEL_FILE}; it was not registered by bmflow, or its files are gone")
    digest = artifacts.sha256_file(found)
    check_digest(digest, version.sha256, f"{version.uri}, {MODEL_FILE}")
    for event in history(store, name):
        if event.new == version.number:
            check_digest(digest, event.bmodel_sha256, f"{version.uri}, {MODEL_FILE}, promoted {event.time}")
    detector = found.parent / DETECTOR_FILE
    return Fetched(version, found.parent, found, detector if detector.is_file() else None)


def set_challenger(store: Store, name: str, number: str) -> None:
    """Let a version wait for promotion."""
    store.call("set the alias challenger", store.client.set_registered_model_alias, name, CHALLENGER, number)


def _write(
    store: Store, name: str, events: tuple[Event, ...], action: str, version: Version, who: str, reason: str,
    metrics: Mapping[str, float], key: str,
) -> Event:  # fmt: skip
    """Append an event, then make it so: after a crash in between, the record says what was meant and a repetition completes it."""
    event = Event(
        number=len(events) + 1, time=_now(), action=action, model=name, who=redact(who) or user(), old=events[-1].new if events else "",
        new=version.number, bmodel_sha256=version.sha256, run_id=version.run_id, reason=redact(reason), key=key,
        previous=events[-1].sha256 if events else "", metrics=dict(metrics),
    )  # fmt: skip
    run_id = _audit_run(store, _registered(store, name))
    with tempfile.TemporaryDirectory(prefix="bmflow-audit-") as folder:
        file = Path(folder, RECORD_FILE)
        file.write_text("".join(e.line() for e in (*events, event)), encoding="utf-8")
        store.call("write the promotion down", store.client.log_artifact, run_id, str(file))
    _apply(store, event)
    LOG.info("%s: version %s is champion (%s by %s)", name, event.new, event.action, event.who)
    return event


def _apply(store: Store, event: Event) -> None:
    """Bring tags and aliases in line with the last event."""
    client, name = store.client, event.model
    tags = {_COUNT_TAG: str(event.number), _HEAD_TAG: event.sha256}
    for tag, value in tags.items():
        store.call("keep the digest of the record", client.set_registered_model_tag, name, tag, value)
    mark = f"{event.action} {event.time} by {event.who}, sha256 {event.sha256}"
    store.call("mark the version", client.set_model_version_tag, name, event.new, f"{_EVENT_TAG}{event.number:06d}", mark)
    store.call("set the alias champion", client.set_registered_model_alias, name, CHAMPION, event.new)
    waiting = find_version(store, name, CHALLENGER)
    if waiting and waiting.number == event.new:
        store.call("remove the alias challenger", client.delete_registered_model_alias, name, CHALLENGER)


def _record(store: Store, model: RegisteredModel) -> tuple[Event, ...]:
    run_id, count = model.tags.get(_RUN_TAG, ""), int(model.tags.get(_COUNT_TAG, "0"))
    where = f"promotion record of {model.name}"
    text = _read_record(store, run_id) if run_id else ""
    events = audit.parse(text, where)
    audit.check_head(events, count, model.tags.get(_HEAD_TAG, ""), where)
    return events


def _read_record(store: Store, run_id: str) -> str:
    files = store.call("list the promotion record", store.client.list_artifacts, run_id)
    if all(item.path != RECORD_FILE for item in files):
        return ""
    with tempfile.TemporaryDirectory(prefix="bmflow-audit-") as folder:
        path = store.call("read the promotion record", store.client.download_artifacts, run_id, RECORD_FILE, folder)
        return Path(path).read_text(encoding="utf-8")


def _audit_run(store: Store, model: RegisteredModel) -> str:
    """The run that holds a model's record; made for the first event."""
    if run_id := model.tags.get(_RUN_TAG, ""):
        return run_id
    experiment = store.experiment_named(f"{store.experiment} promotions")
    run = store.call(
        "start the record", store.client.create_run, experiment, tags={_OF_TAG: model.name}, run_name=f"promotions of {model.name}"
    )
    store.call("start the record", store.client.set_terminated, run.info.run_id, "FINISHED")
    store.call("start the record", store.client.set_registered_model_tag, model.name, _RUN_TAG, run.info.run_id)
    return run.info.run_id


def _registered(store: Store, name: str) -> RegisteredModel:
    model = _or_none(store, f"look for {name}", store.client.get_registered_model, name)
    if model is None:
        get_version(store, name, CHAMPION)  # says what there is
        raise InputError(f"{name}: no such registered model in {store}")
    return model


@contextlib.contextmanager
def _exclusive(store: Store, name: str) -> Generator[None]:
    """Let one process change a model at a time."""
    _registered(store, name)
    lock, holder = f"{name}{_LOCK_SUFFIX}", uuid.uuid4().hex
    for pause in store.patience.pauses():
        if _lock(store, lock, holder):
            break
        time.sleep(min(pause, 2.0))
    else:
        raise TrackingError(f"{name}: another process has been changing it for {store.patience.gone_s:.0f} s; try again later")
    try:
        yield
    finally:
        store.call("give the lock back", store.client.delete_registered_model, lock)


def _lock(store: Store, lock: str, holder: str) -> bool:
    """Try to take the lock; one whose holder died long ago is broken."""
    from mlflow.exceptions import MlflowException

    def make() -> bool:
        try:
            store.client.create_registered_model(lock, {"bmflow.holder": holder}, "held while bmflow changes aliases; goes away by itself")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return False
        return True

    if store.call("take the lock", make):
        return True
    held = _or_none(store, "look at the lock", store.client.get_registered_model, lock)
    if held is None:
        return False
    if held.tags.get("bmflow.holder") == holder:  # our first attempt went through, only its answer was lost
        return True
    if time.time() - (held.creation_timestamp or 0) / 1000 > _STALE_S:
        LOG.warning("%s: breaking a lock left by a process that died", lock)
        _or_none(store, "break the lock", store.client.delete_registered_model, lock)
    return False


def _or_none(store: Store, what: str, function: Callable[..., _T], *arguments: object) -> _T | None:
    """Call, and give None for what does not exist."""
    from mlflow.exceptions import MlflowException

    def attempt() -> _T | None:
        try:
            return function(*arguments)
        except MlflowException as error:
            missing_alias = error.error_code == "INVALID_PARAMETER_VALUE" and "alias" in str(error)
            if error.error_code == "RESOURCE_DOES_NOT_EXIST" or missing_alias:
                return None
            raise

    return store.call(what, attempt)


def _version(found: ModelVersion) -> Version:
    return Version(
        found.name, str(found.version), found.run_id or "", found.source or "", tuple(map(str, found.aliases or ())), dict(found.tags or {})
    )


def user() -> str:
    """Who is at work: BMFLOW_USER, else the login name."""
    try:
        return os.environ.get("BMFLOW_USER") or getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"  # containers run under numbers without names


def _words(which: str) -> str:
    return f"version {which}" if which.isdigit() else which


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
