"""All compiled pipelines run with a stand-in for the stages: which tasks run where, who stops whom, and what is left when it is stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from airflow_process import ROOT, stand_in
from bmflow_components import contracts
from bmflow_components.kubeflow import ir
from bmflow_components.kubeflow.cluster import Cluster
from bmflow_components.kubeflow.execute import Ended, Execution, Order, State
from bmflow_components.pipelines import Item

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stand-in is started by a shell")
PROCESSORS, PRECISIONS = ["bm1684x", "bm1688"], ["INT8", "MIXED"]


def run(folder: Path, name: str, plan: Mapping[str, Any], **given: Any) -> tuple[int, dict[str, Ended]]:
    """Exit code, and what became of every task."""
    pipeline = contracts.pipeline(name)
    folder.mkdir(exist_ok=True)
    variables = stand_in(folder, **plan)
    known = {"processors": PROCESSORS} if pipeline.maps else {}
    order = Order(
        *ir.compiled(pipeline, Cluster()), folder / "run", folder / "claims", {**known, **given}, "r", python=variables["BMFLOW_PYTHON"],
        environment={**os.environ, **variables},
    )  # fmt: skip
    execution = Execution(order)
    return execution.run(), {item.name: item for item in execution.ended}


def place(way: str) -> tuple[str, Item]:
    """Node and item of a task's way: `.../for-each-processor[bm1684x]/gate`."""
    found = dict(re.findall(r"for-each-(processor|precision)\[([^]]+)\]", way))
    node = way.rpartition("/")[2].removesuffix("-mixed").replace("-", "_")
    return node, Item(found.get("processor", ""), found.get("precision", ""))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("compile_and_deploy", {"model": "/m.onnx", "precisions": PRECISIONS}),
        ("retrain_and_deploy", {"precisions": PRECISIONS}),
        ("evaluate_champion", {}),
        ("promote", {}),
        ("rollback", {}),
    ],
)
def test_the_tasks_that_run_are_those_of_the_graph(name: str, given: dict[str, Any], tmp_path: Path) -> None:
    """Against the expansion that the local runner and Airflow go by; the report also runs inside of the loop where register reads it."""
    (tmp_path / "m.onnx").write_text("a network")
    files = {"model": str(tmp_path / "m.onnx")} if "model" in given else {}
    code, ended = run(tmp_path, name, {}, **{**given, **files})
    assert code == 0, ended
    ran = {place(way) for way, item in ended.items() if item.state is State.DONE} - {("report_of_the_run", Item())}
    wanted = {(task.node.name, task.item) for task in contracts.expand(contracts.pipeline(name), PROCESSORS, PRECISIONS)}
    if "report-of-the-run" in ended:
        wanted = (wanted - {("report", Item())}) | {("report", Item(processor)) for processor in PROCESSORS}
    assert ran == wanted


def test_a_gate_that_is_missed_stops_the_registration_of_its_processor_alone(tmp_path: Path) -> None:
    """Exit code 3 of the run, and the last report."""
    code, ended = run(tmp_path, "retrain_and_deploy", {"for-each-processor-bm1688-/gate": {"exit": 3}})
    states = {place(way): item.state for way, item in ended.items()}
    assert code == 3
    assert states["gate", Item("bm1688")] is State.FAILED
    assert states["register", Item("bm1688")] is State.BLOCKED
    assert states["register", Item("bm1684x")] is State.DONE
    assert states["report_of_the_run", Item()] is State.DONE


def test_a_champion_that_cannot_be_measured_keeps_its_processors_gate_shut(tmp_path: Path) -> None:
    """Nothing may be promoted without being compared with it."""
    code, ended = run(tmp_path, "retrain_and_deploy", {"for-each-processor-bm1688-/evaluate-champion": {"exit": 1}})
    states = {place(way): item.state for way, item in ended.items()}
    assert code == 1
    assert (states["gate", Item("bm1688")], states["register", Item("bm1688")]) == (State.BLOCKED, State.BLOCKED)
    assert states["register", Item("bm1684x")] is State.DONE


def test_a_run_that_is_stopped_leaves_no_process_behind(tmp_path: Path) -> None:
    """SIGTERM to `bmflow-pipeline execute`; nothing more is started."""
    container = {"command": ["sh", "-c"], "args": ["echo $$; exec sleep 300"]}
    spec = {
        "pipelineInfo": {"name": "p"}, "components": {"c": {"executorLabel": "e"}}, "deploymentSpec": {"executors": {"e": {"container": container}}},
        "root": {"dag": {"tasks": {"t": {"componentRef": {"name": "c"}}, "u": {"componentRef": {"name": "c"}, "dependentTasks": ["t"]}}}},
    }  # fmt: skip
    (tmp_path / "p.yaml").write_text(json.dumps(spec))
    path = os.pathsep.join([str(ROOT / "components"), str(ROOT / "compiler")])
    head = subprocess.Popen(
        [sys.executable, "-m", "bmflow_components.cli", "execute", "p.yaml", "--run-id", "r", "--root", "root"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    log = tmp_path / "root/runs/r/artifacts/t/log.txt"
    end = time.monotonic() + 60
    while not (log.is_file() and log.read_text().endswith("\n")) and time.monotonic() < end:
        time.sleep(0.05)
    head.send_signal(signal.SIGTERM)
    said, _ = head.communicate(timeout=60)
    assert head.returncode == 128 + signal.SIGTERM, said
    assert "blocked" in said
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)
