"""The compiler's image, built on a stand-in for Python's own base image, run the way the chart runs it. Needs podman; minutes the first time.

The stand-in is Debian's Python from debootstrap, kept in BMFLOW_IMAGE_CACHE (default: the user's cache).
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from bmflow_components import contracts
from containers import ROOT, Image, script
from play_pod import USER, give

LARGEST_BYTES = 900e6

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
    give(tmp_path)
    return tmp_path


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


def test_a_command_starts_quickly(image: Image) -> None:
    """The byte code is in the image; without it a read-only image would compile at every start."""
    listed = image.run("find", "/opt/bmflow/app/bmflow_components", "-name", "stages.*.pyc")
    assert listed.stdout.strip()
    started = time.monotonic()
    image.run("python", "-c", "pass")
    assert time.monotonic() - started < 60
