"""The compiler's image, built on a stand-in for Python's own base image, run the way the chart runs it. Needs podman; minutes the first time.

The stand-in is Debian's Python from debootstrap, kept in BMFLOW_IMAGE_CACHE (default: the user's cache).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bmflow_components import contracts
from containers import ROOT, Image, podman, script

LARGEST_BYTES = 900e6
USER = 65532

pytestmark = [pytest.mark.slow, pytest.mark.container]


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that the image's user may write to, with a small network in it."""
    import onnx
    from onnx import TensorProto, helper

    weight = helper.make_tensor("w", TensorProto.FLOAT, (4, 3, 3, 3), np.linspace(-1, 1, 108, dtype=np.float32))
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["c"], ["y"])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4, 8, 8))]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "tiny.onnx")
    np.savez(tmp_path / "in.npz", x=np.ones((1, 3, 8, 8), np.float32))
    _give(tmp_path)
    return tmp_path


def _give(folder: Path) -> None:
    """Let the image's user write; only root can hand a folder over, others open it."""
    if os.geteuid() == 0:
        os.chown(folder, USER, USER)
    else:
        folder.chmod(0o777)


def test_the_image_is_small_and_says_what_it_is(image: Image) -> None:
    assert image.facts["Size"] <= LARGEST_BYTES
    labels = image.facts["Labels"]
    assert labels["org.opencontainers.image.title"] == "bmflow compiler"
    assert labels["org.opencontainers.image.version"] == script.version()
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", labels["org.opencontainers.image.revision"])


def test_the_image_starts_commands_as_nobody_and_by_no_other_name(image: Image) -> None:
    config = image.facts["Config"]
    assert config.get("Entrypoint") is None
    assert config["User"] == f"{USER}:{USER}"
    assert image.run("id", "-u").stdout.strip() == str(USER)


def test_every_package_in_the_image_has_its_version_from_the_lock(image: Image) -> None:
    lock = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().split() if "==" in line)
    locked = {_plain(name): version for name, version in lock.items()}
    listed = json.loads(image.run("cat", image.facts["Labels"]["bmflow.packages"]).stdout)["installed"]
    found = {_plain(item["metadata"]["name"]): item["metadata"]["version"] for item in listed}
    assert {name: version for name, version in found.items() if locked.get(name) != version} == {"bmflow": script.version()}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_stages_of_the_image_are_those_of_the_list(image: Image) -> None:
    shown = image.run("python", "-m", "bmflow_components", "--help")
    assert shown.returncode == 0, shown.stderr
    assert [stage.name for stage in contracts.STAGES if stage.name not in shown.stdout] == []


def test_clients_of_the_pipeline_load_in_a_read_only_image(image: Image) -> None:
    """Everything a stage may import, after the tests of packages were left out."""
    modules = (
        "bmflow_components.tracking.flavor, dvc.api, s3fs, fsspec, onnxruntime, cv2, pycocotools.coco, pandas, numpy.testing, onnx.checker"
    )
    loaded = image.run("python", "-c", f"import {modules}")
    assert loaded.returncode == 0, loaded.stderr


def test_a_network_is_transformed_without_root_without_network_on_a_read_only_image(image: Image, shared: Path) -> None:
    command = (
        "model_transform",
        "--model_name",
        "tiny",
        "--model_def",
        "/data/tiny.onnx",
        "--mlir",
        "/data/tiny.mlir",
        "--test_input",
        "/data/in.npz",
    )
    done = image.run(*command, "--test_result", "/data/out.npz", volumes={shared: "/data"})
    assert done.returncode == 0, done.stderr
    assert "top.Conv" in (shared / "tiny.mlir").read_text()
    with np.load(shared / "out.npz") as out:
        assert next(value for name, value in out.items() if "y" in name).min() >= 0
    if os.geteuid() == 0:
        assert (shared / "tiny.mlir").stat().st_uid == USER


def test_exit_codes_come_through(image: Image, shared: Path) -> None:
    refused = image.run(
        "model_transform", "--model_name", "t", "--model_def", "/data/absent.onnx", "--mlir", "/data/t.mlir", volumes={shared: "/data"}
    )
    assert refused.returncode == 2
    assert "absent.onnx" in refused.stderr


def test_nothing_can_be_written_to_the_image_and_nobody_reached(image: Image) -> None:
    reach = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
    assert image.run("touch", "/opt/bmflow/new").returncode != 0
    assert "Network is unreachable" in image.run("python", "-c", reach).stderr


@pytest.fixture
def cluster(image: Image, shared: Path) -> dict[str, dict[str, Any]]:
    """Pods of the chart by stage, their claim bound to a folder, as podman's `play kube` takes them."""
    from rendered import objects

    registry, _, repository = image.name.partition(":")[0].partition("/")
    found = objects(
        {"image": {"registry": registry, "pullPolicy": "Never", "compiler": {"repository": repository, "tag": script.version()}}}
    )
    pods = {item["metadata"]["labels"]["bmflow/stage"]: item for item in found if "bmflow/stage" in item["metadata"].get("labels", {})}
    for pod in pods.values():
        for volume in pod["spec"]["volumes"]:
            if volume["name"] == "runs":
                del volume["persistentVolumeClaim"]
                volume["hostPath"] = {"path": str(shared), "type": "Directory"}
    return pods


def _play(pod: dict[str, Any], command: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and log of a pod's container."""
    return next(iter(_play_all({"": (pod, command)}, folder).values()))


def _play_all(wanted: Mapping[str, tuple[dict[str, Any], list[str]]], folder: Path) -> dict[str, tuple[int, str]]:
    """Exit code and log of the container of every pod, all started by one file."""
    file = folder / "pods.yaml"
    documents: list[str] = []
    for pod, command in wanted.values():
        pod["spec"]["containers"][0]["command"] = command
        documents.append(json.dumps(pod))
    file.write_text("\n---\n".join(documents))
    containers = {name: f"{pod['metadata']['name']}-base" for name, (pod, _) in wanted.items()}
    try:
        podman("play", "kube", "--replace", "--network=none", str(file))
        return {name: _end(container) for name, container in containers.items()}
    finally:
        podman("play", "kube", "--down", str(file), check=False)
        file.unlink()


def _end(container: str) -> tuple[int, str]:
    code = int(podman("wait", container).stdout)
    log = podman("logs", container)
    return code, log.stdout + log.stderr


def test_the_pod_of_every_stage_of_the_image_starts(cluster: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    helps = {
        name: (pod, ["python", "-m", "bmflow_components", name, "--help"])
        for name, pod in cluster.items()
        if "/compiler:" in pod["spec"]["containers"][0]["image"]
    }
    assert len(helps) == len(cluster) - 1  # all but train
    for name, (code, log) in _play_all(helps, tmp_path).items():
        assert code == 0, f"{name}: {log}"
        assert f"bmflow_components {name}" in log, name


def test_pods_pass_files_on_through_the_run_root_and_give_what_processes_give(
    cluster: dict[str, dict[str, Any]], shared: Path, tmp_path: Path
) -> None:
    """Two stages as pods, and the same two as processes of this machine: every output has the same digest."""
    shutil.copy(ROOT / "examples" / "shapes.onnx", shared / "shapes.onnx")
    here = tmp_path / "here"
    here.mkdir()
    shutil.copy(ROOT / "examples" / "shapes.onnx", here / "shapes.onnx")
    for stage in ("dataset", "transform"):
        code, log = _play(cluster[stage], _command(stage, "python", "/runs"), shared)
        assert code == 0, log
        process = subprocess.run(
            _command(stage, sys.executable, str(here)), env=_environment(), text=True, capture_output=True, check=False
        )
        assert process.returncode == 0, process.stderr
        assert _digests(shared / f"{stage}.json") == _digests(here / f"{stage}.json")
    if os.geteuid() == 0:
        assert (shared / "mlir").stat().st_uid == USER


def test_a_pod_ends_with_the_exit_code_of_its_stage(cluster: dict[str, dict[str, Any]], shared: Path) -> None:
    code, log = _play(cluster["transform"], _command("transform", "python", "/runs"), shared)
    assert code == 2
    assert "/runs/shapes.onnx: no such file" in log
    assert json.loads((shared / "transform.json").read_text())["status"] == "bad_input"


INPUTS = {"dataset": {}, "transform": {"model": "shapes.onnx", "dataset": "dataset"}}
PARAMS = {
    "dataset": {"train": 0, "calibration": 2, "evaluation": 1},
    "transform": {"pixel_format": "rgb", "scale": "0.0039216,0.0039216,0.0039216"},
}


def _command(stage: str, python: str, root: str) -> list[str]:
    """Command line of a stage on the files of a run root."""
    inputs = {port: f"{root}/{file}" for port, file in INPUTS[stage].items()}
    outputs = {port.name: f"{root}/{port.name}" for port in contracts.stage(stage).outputs}
    return contracts.argv(contracts.stage(stage), inputs, outputs, PARAMS[stage], f"{root}/{stage}.json", python)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{ROOT / 'components'}:{ROOT / 'compiler'}", "OMP_NUM_THREADS": "1"}


def _digests(result: Path) -> dict[str, str]:
    found = json.loads(result.read_text())
    assert found["status"] == "done"
    return {port: item["digest"] for port, item in found["outputs"].items()}


def test_a_command_starts_quickly(image: Image) -> None:
    """The byte code is in the image; without it a read-only image would compile at every start."""
    listed = image.run("find", "/opt/bmflow/app/bmflow_components", "-name", "stages.*.pyc")
    assert listed.stdout.strip()
    started = time.monotonic()
    image.run("python", "-c", "pass")
    assert time.monotonic() - started < 60
