"""The chart's pods of the stages, run by `podman play kube`: they start, pass files on, give what processes give, end with the stage's code."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from bmflow_components import contracts
from bmflow_components.local import Plan, Runner, State
from bmflow_components.ports import Stage
from containers import Image, podman, script
from example_run import MODEL, SETTINGS, Made
from play_pod import USER, give

pytestmark = [pytest.mark.slow, pytest.mark.container]
Pods = dict[str, dict[str, Any]]
SERVED = ("fetch", "register", "promote", "rollback")
"""Stages that need MLflow's server."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in place of the shared volume."""
    folder = tmp_path_factory.mktemp("runs")
    give(folder)
    return folder


@pytest.fixture(scope="module")
def cluster(image: Image, shared: Path) -> Pods:
    """Pods of the chart by stage, their claim bound to a folder.

    The stage train runs in the compiler's image: it is given a network, so it needs no PyTorch.
    """
    from rendered import objects

    registry, _, repository = image.name.partition(":")[0].partition("/")
    target = {"repository": repository, "tag": script.version()}
    found = objects({"image": {"registry": registry, "pullPolicy": "Never", "compiler": target, "train": target}})
    pods = {item["metadata"]["labels"]["bmflow/stage"]: item for item in found if "bmflow/stage" in item["metadata"].get("labels", {})}
    for pod in pods.values():
        for volume in pod["spec"]["volumes"]:
            if volume["name"] == "runs":
                del volume["persistentVolumeClaim"]
                volume["hostPath"] = {"path": str(shared), "type": "Directory"}
    return pods


@pytest.fixture(scope="module")
def played(cluster: Pods, shared: Path, bars: Path) -> Runner:
    """The pipeline retrain_and_deploy, every task a pod; MIXED candidates too, so that the search runs."""
    if not MODEL.is_file():
        pytest.skip("examples/shapes.onnx is absent")
    given = {"model": MODEL, "bars": bars}
    for name, file in given.items():
        shutil.copy(file, shared / name)
    for stage, pod in cluster.items():
        (shared / f"{stage}.json").write_text(json.dumps(pod))
    here = Path(__file__).parent / "play_pod.py"

    def as_pod(stage: Stage, words: list[str], folder: Path) -> list[str]:
        return [sys.executable, str(here), str(shared / f"{stage.name}.json"), str(shared), *words]

    plan = Plan(
        contracts.without(contracts.pipeline("retrain_and_deploy"), ["fetch", "register"]), shared / "one", ["bm1684x"],
        ["F16", "INT8", "MIXED"], {name: str(shared / name) for name in given},
        {**SETTINGS, "dataset_train": 0, "qtable_input_num": 2, "qtable_time_budget": 1.0}, python="python", wrap=as_pod,
    )  # fmt: skip
    runner = Runner(plan)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in script.environment().items():  # podman's settings for this machine
            patch.setenv(name, value)
        runner.run()
    return runner


def test_every_stage_that_needs_no_server_does_its_work_as_a_pod(played: Runner, shared: Path) -> None:
    for name, item in played.progress.items():
        assert item.state is State.DONE, f"{name}: {(shared / 'one' / item.task.folder / 'log.txt').read_text()[-2000:]}"
    done = {item.task.stage.name for item in played.progress.values()}
    assert done == {stage.name for stage in contracts.STAGES} - set(SERVED)
    if os.geteuid() == 0:
        assert (shared / "one" / "transform" / "mlir").stat().st_uid == USER


def test_pods_give_what_processes_give(played: Runner, made: Made) -> None:
    """Every output up to the gate, which here has judged one more candidate."""
    found = {
        f"{item.task.folder}.{port}": output.digest
        for item in played.progress.values() if item.result for port, output in item.result.outputs.items()
    }  # fmt: skip
    wanted = {name: digest for name, digest in made.digests().items() if not name.startswith("gate/")}
    assert {"transform.mlir", "calibrate.table", "deploy/bm1684x-INT8.bmodel", "evaluate/bm1684x-F16.metrics"} <= set(wanted)
    assert {name: found.get(name) for name in wanted} == wanted
    assert found["train.model"] == hashlib.sha256(MODEL.read_bytes()).hexdigest()


def test_the_pods_of_stages_that_use_mlflow_start(cluster: Pods, tmp_path: Path) -> None:
    helps = {name: (cluster[name], ["python", "-m", "bmflow_components", name, "--help"]) for name in SERVED}
    for name, (code, log) in _play_all(helps, tmp_path).items():
        assert code == 0, f"{name}: {log}"
        assert f"bmflow_components {name}" in log, name


def test_a_pod_ends_with_the_exit_code_of_its_stage(cluster: Pods, shared: Path, tmp_path: Path) -> None:
    stage = contracts.stage("transform")
    inputs = {"model": "/runs/absent.onnx", "dataset": "/runs/absent"}
    words = contracts.argv(stage, inputs, {port.name: f"/runs/{port.name}" for port in stage.outputs}, {}, "/runs/refused.json", "python")
    code, log = _play_all({"transform": (cluster["transform"], words)}, tmp_path)["transform"]
    assert code == 2
    assert "/runs/absent.onnx: no such file" in log
    assert json.loads((shared / "refused.json").read_text())["status"] == "bad_input"


def _play_all(wanted: Mapping[str, tuple[dict[str, Any], list[str]]], folder: Path) -> dict[str, tuple[int, str]]:
    """Exit code and log of the container of every pod, all started by one file."""
    file = folder / "pods.yaml"
    documents: list[str] = []
    for pod, command in wanted.values():
        container = {**pod["spec"]["containers"][0], "command": command}
        documents.append(json.dumps({**pod, "spec": {**pod["spec"], "containers": [container]}}))
    file.write_text("\n---\n".join(documents))
    containers = {name: f"{pod['metadata']['name']}-base" for name, (pod, _) in wanted.items()}
    try:
        podman("play", "kube", "--replace", "--network=none", str(file))
        return {name: _end(container) for name, container in containers.items()}
    finally:
        podman("play", "kube", "--down", str(file), check=False)


def _end(container: str) -> tuple[int, str]:
    code = int(podman("wait", container).stdout)
    log = podman("logs", container)
    return code, log.stdout + log.stderr
