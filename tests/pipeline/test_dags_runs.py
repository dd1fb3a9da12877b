"""What a run is made of: its name and folders, the settings of a filled form, and which task may start when."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bmflow_components import contracts
from bmflow_components.airflow_dags.run import RefusedError, Run, safe_name, settle
from bmflow_components.pipelines import Item

COMPILE = contracts.pipeline("compile_and_deploy")
FORM: dict[str, Any] = {"model": "s3://bucket/model.onnx", "processors": ["bm1684x", "bm1688"], "precisions": ["F16", "INT8", "MIXED"]}


def settled(**form: Any) -> Run:
    return settle(COMPILE, {**FORM, **form}, "one", "/runs", {})


def everything(name: str, port: str) -> bool:
    return True


def test_run_ids_become_names_that_need_no_quoting_and_stay_distinct() -> None:
    ids = ["scheduled__2026-11-25T03:00:00+00:00", "scheduled__2026-11-25T03:00:00-00:00", "a/../b", "a b", "a+b", "..", "ok-1.0_x"]
    names = [safe_name(run_id) for run_id in ids]
    assert len(set(names)) == len(ids)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") and name.strip(".") for name in names)
    assert names[-1] == "ok-1.0_x"
    assert safe_name(ids[0]) == names[0]


def test_the_import_needs_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; import bmflow_components.airflow_dags.run, bmflow_components.airflow_dags.backends, "
        "bmflow_components.airflow_dags.processes, bmflow_components.airflow_dags.home; "
        "print([m for m in sys.modules if m.partition('.')[0] in ('airflow', 'numpy', 'onnx', 'mlflow', 'cv2', 'bmflow', 'kubernetes')])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
        ).stdout
        == "[]\n"
    )


def test_an_empty_field_means_the_default() -> None:
    run = settled(calibrate_method=None, reason="", dataset_calibration=7)
    assert run.settings["calibrate_method"] == contracts.stage("calibrate").param("method").default
    assert run.settings["dataset_calibration"] == 7
    assert run.settings["dataset_train"] == 0  # the pipeline's own default


def test_a_run_travels_as_json() -> None:
    run = settled()
    assert Run.parse(run.json()) == run


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"model": None}, "compile_and_deploy needs model"),
        ({"model": "models/net.onnx"}, "a relative path"),
        ({"model": "/nowhere/net.onnx"}, "no such file or folder"),
        ({"calibrate_metod": "kl"}, "no setting calibrate_metod; nearest are calibrate_method"),
        ({"processors": []}, "processors: choose at least one"),
        ({"dataset_repo": "https://me:secret@example.com/data.git"}, "dataset_repo: an address with a password"),
        ({"tracking_uri": "postgresql://me:secret@db/mlflow"}, "tracking_uri: an address with a password"),
    ],
    ids=["no model", "relative", "absent", "unknown", "no processor", "password in repo", "password in store"],
)  # fmt: skip
def test_a_form_that_cannot_be_is_refused_and_secrets_are_not_repeated(form: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError, match=message) as caught:
        settled(**form)
    assert "secret" not in str(caught.value).replace("secret of the cluster", "")


def test_every_task_has_its_own_folder_in_the_run() -> None:
    run = settled()
    folders = [task.folder for task in run.tasks.values()]
    assert len(set(folders)) == len(folders)
    deploy = run.task("deploy", Item("bm1688", "INT8"))
    assert deploy is not None
    assert run.path(deploy, "bmodel") == "/runs/compile_and_deploy/one/deploy/bm1688-INT8/model.bmodel"


def test_the_command_is_that_of_the_contract_with_axes_settings_and_cache() -> None:
    run = settled(deploy_asymmetric=True)
    deploy = run.task("deploy", Item("bm1688", "MIXED"))
    assert deploy is not None
    words = run.command(deploy, everything, "python")
    base = "/runs/compile_and_deploy/one"
    assert words == [
        "python", "-m", "bmflow_components", "deploy", "--in-mlir", f"{base}/transform/mlir", "--in-corrected", f"{base}/calibrate/corrected",
        "--in-reference", f"{base}/transform/reference", "--in-table", f"{base}/calibrate/calibration_table",
        "--in-qtable", f"{base}/qtable/bm1688-MIXED/quantize_table",
        "--out-bmodel", f"{base}/deploy/bm1688-MIXED/model.bmodel", "--out-similarity", f"{base}/deploy/bm1688-MIXED/similarity.json",
        "--out-estimate", f"{base}/deploy/bm1688-MIXED/estimate.json", "--processor", "bm1688", "--quantize", "MIXED", "--asymmetric", "true",
        "--tolerance", "0.80,0.40", "--result", f"{base}/deploy/bm1688-MIXED/result.json", "--cache", "/runs/cache",
    ]  # fmt: skip


def test_only_mixed_candidates_read_a_quantization_table() -> None:
    run = settled()
    assert run.task("qtable", Item("bm1684x", "INT8")) is None
    int8 = run.task("deploy", Item("bm1684x", "INT8"))
    assert int8 is not None
    assert "qtable" not in run.inputs(int8, everything)


def test_the_gate_judges_the_candidates_that_are_there() -> None:
    run = settled()
    gate = run.task("gate", Item("bm1684x"))
    assert gate is not None
    found = run.inputs(gate, lambda name, port: name != "evaluate[bm1684x/INT8]")
    assert found["candidates"] == tuple(f"/runs/compile_and_deploy/one/evaluate/bm1684x-{kind}/metrics.json" for kind in ("F16", "MIXED"))


@pytest.mark.parametrize("gone", ["evaluate[", "evaluate_float", "evaluate_champion["])
def test_the_gate_does_not_start_without_any_candidate_the_float_network_or_the_champions_measurement(gone: str) -> None:
    run = settled()
    gate = run.task("gate", Item("bm1684x"))
    assert gate is not None
    with pytest.raises(RefusedError, match=r"gate\[bm1684x\] is not started: it needs evaluate"):
        run.inputs(gate, lambda name, port: not name.startswith(gone))


def test_the_report_takes_whatever_there_is() -> None:
    run = settled()
    report = run.task("report", Item())
    assert report is not None
    assert run.inputs(report, lambda name, port: name == "dataset") == {
        "split": ("/runs/compile_and_deploy/one/dataset/split.json",), "results": ("/runs/compile_and_deploy/one/dataset/result.json",),
    }  # fmt: skip


def test_a_run_on_an_object_store_has_no_cache_folder() -> None:
    run = settle(COMPILE, FORM, "one", "s3://bucket/runs/", {})
    dataset = run.task("dataset", Item())
    assert dataset is not None
    assert run.path(dataset, "dataset") == "s3://bucket/runs/compile_and_deploy/one/dataset/dataset"
    assert "--cache" not in run.command(dataset, everything)


def test_what_an_event_says_wins_over_the_form(tmp_path: Path) -> None:
    run = settle(contracts.pipeline("retrain_and_deploy"), {"dataset_rev": "v1"}, "one", str(tmp_path), {"dataset_rev": "v2"})
    assert run.settings["dataset_rev"] == "v2"
