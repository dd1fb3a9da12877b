"""Runs in MLflow: one for a pipeline run, below it one for each candidate. A run is known by its key, so logging twice makes one run.

The key is the stages' cache key. A finished run of that key is left as it is; one that was cut short is filled up.
"""

# pyright: reportMissingImports=false
# (MLflow and DVC belong to extras)

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bmflow_components.tracking.redact import redact, redact_items
from bmflow_components.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.data.dataset_source import DatasetSource
    from mlflow.entities import DatasetInput, Run

KEY_TAG, PARENT_TAG, NOTE_TAG, TABLES_TAG = "bmflow.key", "mlflow.parentRunId", "mlflow.note.content", "mlflow.loggedArtifacts"
_LONGEST_PARAM = 6000
_LONGEST_TAG = 5000
_BATCH = 100
_T = TypeVar("_T")


@dataclass(frozen=True)
class Table:
    """Rows under named columns; MLflow shows it as a table."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class DatasetUse:
    """A dataset that went into a run: `context` says for what (training, calibration, evaluation)."""

    name: str
    digest: str
    context: str
    source: DatasetSource


@dataclass(frozen=True)
class RunRecord:
    """What one run holds.

    Attributes:
        key: identifies the work; the same key is the same run.
        curves: values by step, by name; `metrics` have one value.
        files: local file by its place among the run's files; `texts` the same with the content.
        note: Markdown shown on the run's page.
    """

    name: str
    key: str
    params: Mapping[str, object] = field(default_factory=dict[str, object])
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])
    tags: Mapping[str, object] = field(default_factory=dict[str, object])
    files: Mapping[str, Path] = field(default_factory=dict[str, Path])
    texts: Mapping[str, str] = field(default_factory=dict[str, str])
    tables: Mapping[str, Table] = field(default_factory=dict[str, Table])
    datasets: Sequence[DatasetUse] = ()
    note: str = ""


def log_run(store: Store, record: RunRecord, parent: str = "") -> str:
    """Log a run, or find the finished one of the same key; returns its id.

    Args:
        parent: id of the run it belongs below.
    Raises:
        TrackingError: MLflow is gone or refused.
    """
    run = _find_or_create(store, record, parent)
    run_id: str = run.info.run_id
    if run.info.status == "FINISHED":
        return run_id
    _log_numbers(store, run_id, record, run.info.start_time)
    _log_files(store, run_id, record)
    if record.datasets:
        store.call("log the datasets", store.client.log_inputs, run_id, [_dataset_input(use) for use in record.datasets])
    store.call("finish the run", store.client.set_terminated, run_id, "FINISHED")
    return run_id


def attach(store: Store, run_id: str, files: Mapping[str, Path], tags: Mapping[str, object]) -> None:
    """Add files and tags to a run, finished or not; doing it again changes nothing."""
    from mlflow.entities import RunTag

    for place, file in files.items():
        _upload(store, run_id, place, file)
    store.call("log tags", store.client.log_batch, run_id, tags=[RunTag(n, v[:_LONGEST_TAG]) for n, v in redact_items(tags).items()])


def find_run(store: Store, key: str) -> Run | None:
    """The oldest run of a key, None when there is none."""
    found = store.call(
        "look for the run", store.client.search_runs, [store.experiment_id], f"tags.`{KEY_TAG}` = '{key}'",
        max_results=1, order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
    )  # fmt: skip
    return found[0] if found else None


def run_link(store: Store, run_id: str) -> str:
    """Address of a run's page on a server; empty for a database file."""
    return f"{redact(store.uri).rstrip('/')}/#/experiments/{store.experiment_id}/runs/{run_id}" if store.uri.startswith("http") else ""


def _find_or_create(store: Store, record: RunRecord, parent: str) -> Run:
    if found := find_run(store, record.key):
        return found
    with store.alone():
        return find_run(store, record.key) or _create(store, record, parent)


def _create(store: Store, record: RunRecord, parent: str) -> Run:
    tags = {KEY_TAG: record.key, **({PARENT_TAG: parent} if parent else {})}
    made = store.call("start a run", store.client.create_run, store.experiment_id, tags=tags, run_name=record.name)
    first = find_run(store, record.key) or made
    if first.info.run_id != made.info.run_id:  # another machine began the same work in between: there shall be one run
        store.call("drop the double run", store.client.delete_run, made.info.run_id)
    return first


def _log_numbers(store: Store, run_id: str, record: RunRecord, time_ms: int) -> None:
    """Parameters, metrics and tags; the fixed time makes a repetition write the same points."""
    from mlflow.entities import Metric, Param, RunTag

    tags = redact_items(record.tags)
    if record.note:
        tags[NOTE_TAG] = redact(record.note)
    if record.tables:
        tags[TABLES_TAG] = json.dumps([{"path": path, "type": "table"} for path in record.tables])
    params = [Param(name, value[:_LONGEST_PARAM]) for name, value in redact_items(record.params).items()]
    metrics = [Metric(name, float(value), time_ms, 0) for name, value in record.metrics.items()]
    metrics += [Metric(name, float(value), time_ms, step) for name, curve in record.curves.items() for step, value in enumerate(curve)]
    for part in _batches(params):
        store.call("log parameters", store.client.log_batch, run_id, params=part)
    for part in _batches([RunTag(name, value[:_LONGEST_TAG]) for name, value in tags.items()]):
        store.call("log tags", store.client.log_batch, run_id, tags=part)
    for part in _batches(metrics):
        store.call("log metrics", store.client.log_batch, run_id, metrics=part)


def _log_files(store: Store, run_id: str, record: RunRecord) -> None:
    for place, file in record.files.items():
        _upload(store, run_id, place, file)
    texts = {**record.texts, **{place: _table_json(table) for place, table in record.tables.items()}}
    with tempfile.TemporaryDirectory(prefix="bmflow-log-") as folder:
        for number, (place, text) in enumerate(texts.items()):
            file = Path(folder, str(number), Path(place).name)
            file.parent.mkdir()
            file.write_text(redact(text), encoding="utf-8")
            _upload(store, run_id, place, file)


def _upload(store: Store, run_id: str, place: str, file: Path) -> None:
    """Put a file at its place; the last part of the place must be the file's name, so a file of another name is linked first."""
    target = Path(place)
    folder = target.parent.as_posix() if target.parent != Path() else None
    if file.name == target.name:
        store.call(f"upload {place}", store.client.log_artifact, run_id, str(file), folder)
        return
    with tempfile.TemporaryDirectory(prefix="bmflow-log-") as temporary:
        link = Path(temporary, target.name)
        link.symlink_to(file.resolve())
        store.call(f"upload {place}", store.client.log_artifact, run_id, str(link), folder)


def _table_json(table: Table) -> str:
    rows = [[float(cell) if isinstance(cell, int) and not isinstance(cell, bool) else cell for cell in row] for row in table.rows]
    return json.dumps({"columns": list(table.columns), "data": rows})


def _dataset_input(use: DatasetUse) -> DatasetInput:
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput, InputTag

    dataset = MetaDataset(use.source, name=use.name, digest=use.digest[:36])
    return DatasetInput(dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", use.context)])


def _batches(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]


def similarity_table(layers: Sequence[Mapping[str, Any]]) -> Table:
    """The per-layer comparison as a table: the keys of the first row are the columns."""
    columns = list(layers[0]) if layers else []
    return Table(columns, [[row.get(column) for column in columns] for row in layers])
