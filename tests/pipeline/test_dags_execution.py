"""The DAGs at work in process, with a stand-in for the stages: who runs, who does not, what is tried again, and that nothing gets mixed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow_process import HERE, drive, environment, needs_airflow, run_scenarios, stand_in

pytestmark = [pytest.mark.slow, needs_airflow]
BOTH = {"precisions": ["F16", "INT8"]}
SCENARIOS: list[dict[str, Any]] = [
    {"name": "plain", "dag": "retrain_and_deploy", "plan": {}, "conf": {"precisions": ["F16", "INT8", "MIXED"]}},
    {"name": "gate", "dag": "retrain_and_deploy", "plan": {"gate": {"exit": 3}}, "conf": BOTH},
    {"name": "candidate", "dag": "retrain_and_deploy", "plan": {"deploy/bm1684x-INT8": {"exit": 1}}, "conf": BOTH},
    {"name": "machine", "dag": "promote", "plan": {"promote": {"exit": 1, "retryable": True, "once": True}}},
    {"name": "usage", "dag": "promote", "plan": {"promote": {"exit": 2}}},
    {"name": "refused", "dag": "compile_and_deploy", "plan": {}, "conf": {"model": "relative.onnx"}},
    {"name": "champion", "dag": "evaluate_champion", "plan": {"gate": {"exit": 3}}, "date": "2026-03-01T02:30:00+00:00"},
    {"name": "champion again", "dag": "evaluate_champion", "plan": {}, "date": "2026-03-01T02:30:00+00:00"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("execution")


@pytest.fixture(scope="module")
def ended(folder: Path) -> dict[str, Any]:
    token = {"MLFLOW_TRACKING_TOKEN": "hunter2-never-show"}
    return run_scenarios(folder, SCENARIOS, environment(folder, **stand_in(folder), **token, BMFLOW_RETRY_S="0.1"))


def states(result: dict[str, Any]) -> dict[str, str]:
    return {name: task["state"] for name, task in result["tasks"].items()}


def outputs(run: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """What the stand-in wrote, by file."""
    for file in run.glob("**/*"):
        if file.is_file() and file.name not in ("result.json", "pid"):
            yield file, json.loads(file.read_text())


def assert_unmixed(run: Path) -> None:
    """Every file was written at its place, from files of the same run, which are as they were when they were read."""
    found = list(outputs(run))
    assert found
    for file, content in found:
        assert content["place"] == str(file.parent)
        for path, digest in content["inputs"].items():
            assert path.startswith(f"{run}/")
            assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == digest


def test_everything_runs_and_only_mixed_is_searched(ended: dict[str, Any]) -> None:
    result = ended["plain"]
    assert result["state"] == "success"
    found = states(result)
    assert [found[f"qtable[{number}]"] for number in range(3)] == ["skipped", "skipped", "success"]
    assert set(found.values()) == {"success", "skipped"}


def test_mapped_tasks_have_readable_names(ended: dict[str, Any]) -> None:
    tasks = ended["plain"]["tasks"]
    assert [tasks[f"deploy[{number}]"]["name"] for number in range(3)] == ["bm1684x/F16", "bm1684x/INT8", "bm1684x/MIXED"]
    assert tasks["gate[0]"]["name"] == tasks["register[0]"]["name"] == "bm1684x"


def test_a_missed_gate_fails_at_once_leaves_the_champion_and_is_reported(ended: dict[str, Any], folder: Path) -> None:
    result = ended["gate"]
    found = states(result)
    assert result["state"] == "failed"
    assert (found["gate[0]"], found["report"], found["register[0]"]) == ("failed", "success", "failed")
    assert result["tasks"]["gate[0]"]["tries"] == 1
    assert result["tasks"]["register[0]"]["tries"] == 1
    run = run_folder(folder, "retrain_and_deploy", result)
    assert not (run / "register").exists()
    report = json.loads((run / "report" / "report.html").read_text())
    assert str(run / "gate" / "bm1684x" / "decision.json") in report["inputs"]


def test_a_compile_error_ends_one_candidate_and_is_not_tried_again(ended: dict[str, Any], folder: Path) -> None:
    result = ended["candidate"]
    found = states(result)
    assert (found["deploy[1]"], found["evaluate[1]"]) == ("failed", "upstream_failed")
    assert (found["deploy[0]"], found["evaluate[0]"], found["gate[0]"], found["register[0]"]) == ("success",) * 4
    assert result["tasks"]["deploy[1]"]["tries"] == 1
    assert result["state"] == "success"
    run = run_folder(folder, "retrain_and_deploy", result)
    gate = json.loads((run / "gate" / "bm1684x" / "decision.json").read_text())
    assert str(run / "evaluate" / "bm1684x-F16" / "metrics.json") in gate["inputs"]
    assert str(run / "evaluate" / "bm1684x-INT8" / "metrics.json") not in gate["inputs"]
    register = json.loads((run / "register" / "bm1684x" / "register.json").read_text())
    assert str(run / "deploy" / "bm1684x-INT8" / "result.json") in register["inputs"]  # so that its failure is on record


def test_a_failure_of_the_machinery_is_tried_again_bad_input_is_not(ended: dict[str, Any]) -> None:
    assert (ended["machine"]["state"], ended["machine"]["tasks"]["promote"]["tries"]) == ("success", 2)
    assert (ended["usage"]["state"], ended["usage"]["tasks"]["promote"]["tries"]) == ("failed", 1)


def test_a_form_that_cannot_be_ends_the_run_before_any_stage(ended: dict[str, Any], folder: Path) -> None:
    assert ended["refused"]["state"] == "failed"
    assert states(ended["refused"])["plan"] == "failed"
    assert not (folder / "runs" / "compile_and_deploy").exists()


def test_a_champion_below_the_bars_fails_the_night_and_is_reported(ended: dict[str, Any]) -> None:
    found = states(ended["champion"])
    assert ended["champion"]["state"] == "failed"
    assert (found["gate[0]"], found["report"], found["verdict"]) == ("failed", "success", "upstream_failed")


def test_the_same_date_is_the_same_run_and_can_be_made_good(ended: dict[str, Any]) -> None:
    first, second = ended["champion"], ended["champion again"]
    assert first["run"] == second["run"]
    assert (first["state"], second["state"]) == ("failed", "success")


def test_the_overhead_of_a_task_is_at_most_two_seconds(ended: dict[str, Any]) -> None:
    tasks = [task for name, task in ended["gate"]["tasks"].items() if task["end"]]
    span = max(task["end"] for task in tasks) - min(task["end"] for task in tasks)
    print(f"overhead {span / (len(tasks) - 1):.2f} s a task")
    assert span / (len(tasks) - 1) <= 2.0


def test_a_secret_of_a_stage_is_not_in_the_log(ended: dict[str, Any], folder: Path) -> None:
    log = (folder / "driver.log").read_text()
    assert "token ***" in log
    assert "hunter2-never-show" not in log


def test_runs_one_after_the_other_do_not_mix(ended: dict[str, Any], folder: Path) -> None:
    for name in ("plain", "gate", "candidate"):
        assert_unmixed(run_folder(folder, "retrain_and_deploy", ended[name]))


def test_two_runs_of_the_same_dag_at_once_do_not_mix(tmp_path: Path) -> None:
    runs: list[tuple[Path, subprocess.Popen[bytes]]] = []
    for day in ("01", "02"):
        home = tmp_path / day
        (home / "airflow").mkdir(parents=True)
        scenario = {"name": day, "dag": "retrain_and_deploy", "conf": {"precisions": ["INT8"]}, "date": f"2026-02-{day}T03:00:00+00:00"}
        (home / "scenarios.json").write_text(json.dumps([scenario]))
        env = environment(home, **stand_in(home, deploy={"sleep": 1})) | {"BMFLOW_RUN_ROOT": str(tmp_path / "runs")}
        words = [sys.executable, str(HERE / "dag_driver.py"), "run", str(home / "scenarios.json"), str(home / "answer.json")]
        runs.append((home, subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)))
    for home, process in runs:
        assert process.wait(300) == 0
        assert json.loads((home / "answer.json").read_text())[home.name]["state"] == "success"
    folders = sorted((tmp_path / "runs" / "retrain_and_deploy").iterdir())
    assert len(folders) == 2
    for run in folders:
        assert_unmixed(run)


def test_sigterm_to_the_worker_stops_the_stage_and_leaves_no_output(tmp_path: Path) -> None:
    (tmp_path / "airflow").mkdir()
    (tmp_path / "scenarios.json").write_text(json.dumps([{"name": "x", "dag": "promote"}]))
    env = environment(tmp_path, **stand_in(tmp_path, promote={"sleep": 120}), BMFLOW_RETRY_S="60")
    words = [sys.executable, str(HERE / "dag_driver.py"), "run", str(tmp_path / "scenarios.json"), str(tmp_path / "answer.json")]
    worker = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        pid = int(wait_for(tmp_path, "runs/**/pid").read_text())
        worker.send_signal(signal.SIGTERM)
        end = time.monotonic() + 15
        while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
            time.sleep(0.1)
        assert not Path(f"/proc/{pid}").exists()
        assert not list(tmp_path.glob("runs/**/event.json"))
    finally:
        worker.kill()
        worker.wait()


def test_the_end_of_a_pod_is_judged_by_its_exit_code(tmp_path: Path) -> None:
    found = drive(tmp_path, "ends", env=environment(tmp_path, BMFLOW_IMAGE_COMPILER="registry/compiler:1", KUBECONFIG=os.devnull))
    assert found == {"0": 0, "1": 1, "2": 2, "3": 3, "137": 137, "None": "AirflowException"}


def run_folder(folder: Path, dag: str, result: dict[str, Any]) -> Path:
    from bmflow_components.airflow_dags.run import safe_name

    return folder / "runs" / dag / safe_name(result["run"])


def wait_for(folder: Path, pattern: str, within_s: float = 180) -> Path:
    """The file, when it is there and holds something."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        found = [file for file in folder.glob(pattern) if file.read_text()]
        if found:
            return found[0]
        time.sleep(0.2)
    raise AssertionError(f"no {pattern} within {within_s} s")
