"""Runs: one for each key however often it is logged, whole after a kill, below their parent, without secrets."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("mlflow", reason="MLflow is not installed; install the extra `mlflow`")

from bmflow.errors import InputError
from bmflow_components.tracking import runs
from bmflow_components.tracking.dataset_source import DvcDatasetSource
from bmflow_components.tracking.runs import DatasetUse, RunRecord, Table, find_run, log_run
from mlflow.data.dataset_source_registry import DatasetSourceRegistry
from tracking_store import folder, shared_store

SOURCE = DvcDatasetSource("data/shapes", "https://me:hunter22@git.example/r.git", "v1.2", "0f" * 16)
RECORD = RunRecord(
    "shapes-bm1684x", "key-1", {"quantize": "INT8", "db_password": "hunter22"}, {"int8/map": 0.81, "delta/map": -0.01}, {"loss": [3.0, 2.0, 1.5]},
    {"bmflow.bmodel.sha256": "ab" * 32, "url": "https://me:hunter22@host/"}, texts={"report/report.html": "<p>--token hunter22</p>"},
    tables={"similarity.json": Table(("layer", "cosine", "cycles"), [("a_Conv", 0.99, 12), ("b", None, 3)])},
    datasets=[DatasetUse("shapes", "cd" * 32, "evaluation", SOURCE)], note="# Verdict",
)  # fmt: skip


def test_a_run_holds_everything_it_was_given() -> None:
    store = shared_store()
    run = store.client.get_run(log_run(store, RECORD))
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "shapes-bm1684x"
    assert run.data.params["quantize"] == "INT8"
    assert run.data.metrics == {"int8/map": 0.81, "delta/map": -0.01, "loss": 1.5}
    assert [(m.step, m.value) for m in store.client.get_metric_history(run.info.run_id, "loss")] == [(0, 3.0), (1, 2.0), (2, 1.5)]
    assert run.data.tags["bmflow.bmodel.sha256"] == "ab" * 32
    assert run.data.tags["mlflow.note.content"] == "# Verdict"
    table = store.client.load_table(store.experiment_id, "similarity.json", [run.info.run_id])
    assert table.iloc[0].to_dict() == {"layer": "a_Conv", "cosine": 0.99, "cycles": 12.0}


def test_a_dataset_keeps_its_dvc_address() -> None:
    store = shared_store()
    (used,) = store.client.get_run(log_run(store, RECORD)).inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.source_type, used.dataset.digest) == ("shapes", "dvc", ("cd" * 32)[:36])
    found = DvcDatasetSource.from_dict(json.loads(used.dataset.source))
    assert (found.path, found.rev, found.md5) == ("data/shapes", "v1.2", "0f" * 16)
    assert {tag.key: tag.value for tag in used.tags} == {"mlflow.data.context": "evaluation"}


def test_no_secret_reaches_the_store() -> None:
    run = log_run(shared_store(), RECORD)
    files = [folder() / "store" / "mlflow.db", *(path for path in (folder() / "store").rglob(f"{run}/**/*") if path.is_file())]
    assert len(files) > 1
    holding = [path for path in files if b"hunter22" in path.read_bytes()]
    assert holding == []


def test_logging_again_finds_the_run() -> None:
    store = shared_store()
    first = log_run(store, RECORD)
    assert log_run(store, replace(RECORD, metrics={"int8/map": 0.5})) == first
    assert store.client.get_run(first).data.metrics["int8/map"] == 0.81


def test_a_run_that_was_cut_short_is_filled_up() -> None:
    store = shared_store()
    record = replace(RECORD, key="key-cut")
    cut = store.client.create_run(store.experiment_id, tags={runs.KEY_TAG: "key-cut"}, run_name="shapes-bm1684x")
    store.client.log_metric(cut.info.run_id, "int8/map", 0.81, cut.info.start_time, 0)
    store.client.log_param(cut.info.run_id, "quantize", "INT8")
    assert log_run(store, record) == cut.info.run_id
    assert store.client.get_run(cut.info.run_id).info.status == "FINISHED"
    assert [m.value for m in store.client.get_metric_history(cut.info.run_id, "int8/map")] == [0.81]


def test_a_child_lies_below_its_parent() -> None:
    store = shared_store()
    parent = log_run(store, RECORD)
    child = log_run(store, RunRecord("bm1684x INT8", "key-child"), parent)
    assert store.client.get_run(child).data.tags["mlflow.parentRunId"] == parent


def test_the_same_work_begun_twice_at_once_becomes_one_run() -> None:
    store = shared_store()
    record = RunRecord("twice", "key-twice", {"a": 1}, {"m": 2.0})
    with ThreadPoolExecutor(4) as pool:
        ids = set(pool.map(lambda _: log_run(store, record), range(4)))
    found = store.client.search_runs([store.experiment_id], f"tags.`{runs.KEY_TAG}` = 'key-twice'")
    assert {run.info.run_id for run in found} == ids
    assert len(ids) == 1


def test_more_than_a_batch_of_parameters_is_logged(tmp_path: Path) -> None:
    store = shared_store()
    file = tmp_path / "other-name.txt"
    file.write_text("inside")
    record = RunRecord(
        "many", "key-many", {f"p{k}": k for k in range(230)}, {f"m{k}": float(k) for k in range(230)}, files={"kept/name.txt": file}
    )
    run = store.client.get_run(log_run(store, record))
    assert (len(run.data.params), len(run.data.metrics)) == (230, 230)
    assert Path(store.client.download_artifacts(run.info.run_id, "kept/name.txt", str(tmp_path))).read_text() == "inside"


def test_an_unknown_key_has_no_run() -> None:
    assert find_run(shared_store(), "key-unknown") is None


def test_a_dvc_address_reads_back() -> None:
    source = DvcDatasetSource("data/my shapes", "/srv/repo", "v1.2", "ab")
    assert source.uri == "dvc://data/my%20shapes?repo=%2Fsrv%2Frepo&rev=v1.2&md5=ab"
    assert DvcDatasetSource.parse(source.uri) == source
    assert DvcDatasetSource.from_json(source.to_json()) == source
    assert "hunter22" not in SOURCE.uri + json.dumps(SOURCE.to_dict())


@pytest.mark.parametrize("uri", ["dvc://", "dvc://a?branch=x", "s3://a/b"])
def test_an_address_of_another_form_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match="expected dvc://"):
        DvcDatasetSource.parse(uri)


def test_mlflow_resolves_dvc_addresses_once_the_source_is_registered() -> None:
    registry = DatasetSourceRegistry()
    registry.register(DvcDatasetSource)  # pyright: ignore[reportArgumentType]  (as the entry point does; the annotation says instance)
    assert registry.resolve("dvc://data/shapes?rev=v1") == DvcDatasetSource("data/shapes", rev="v1")
