"""The example through Airflow with the real stages: a promoted bmodel, the same digests the second time, and in containers."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from airflow_process import ROOT, environment, needs_airflow, run_scenarios
from bmflow_components.airflow_dags.run import safe_name

MODEL = ROOT / "examples" / "shapes.onnx"
IMAGE = os.environ.get("BMFLOW_TEST_IMAGE") or "localhost/bmflow/compiler:0.1.0"
pytestmark = [
    pytest.mark.slow, needs_airflow, pytest.mark.skipif(not MODEL.is_file(), reason="examples/shapes.onnx is absent"),
    pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="MLflow is not installed (extra mlflow)"),
]  # fmt: skip
SIZES = {"model_name": "shapes", "dataset_calibration": 4, "dataset_evaluation": 4, "calibrate_tune_num": 0, "evaluate_pictures": 2}
DIFFER = {"register", "fetch"}
"""Stages whose outputs name the run in MLflow or what was champion at the time."""


def scenario(folder: Path, name: str, **more: Any) -> dict[str, Any]:
    """A run with bars that any working bmodel meets."""
    bars = folder / "gate.toml"
    bars.write_text("smallest_map50 = 0.0\nlargest_drop = 1.0\n")
    conf = {"model": str(MODEL), "bars": str(bars), "precisions": ["F16", "INT8"], **SIZES, **more}
    return {"name": name, "dag": "compile_and_deploy", "conf": conf}


def results(folder: Path, ended: dict[str, Any], root: str = "runs") -> dict[str, dict[str, Any]]:
    """result.json by task folder."""
    run = folder / root / "compile_and_deploy" / safe_name(ended["run"])
    return {str(file.parent.relative_to(run)): json.loads(file.read_text()) for file in run.glob("**/result.json")}


def digests(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Digest of every output of stages that give the same always."""
    champions = ("evaluate_champion", "gate", "report")  # which look at the champion that the first run made
    return {
        f"{task}.{port}": item["digest"]
        for task, result in found.items() if result["stage"] not in DIFFER and not task.startswith(champions)
        for port, item in result["outputs"].items()
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("example")


@pytest.fixture(scope="module")
def ended(folder: Path) -> dict[str, Any]:
    return run_scenarios(folder, [scenario(folder, "first"), scenario(folder, "second")], environment(folder))


def test_a_bmodel_is_promoted_and_reported(folder: Path, ended: dict[str, Any]) -> None:
    assert ended["first"]["state"] == "success"
    found = results(folder, ended["first"])
    record = json.loads(Path(found["register/bm1684x"]["outputs"]["record"]["path"]).read_text())
    decision = json.loads(Path(found["gate/bm1684x"]["outputs"]["decision"]["path"]).read_text())
    assert record["promoted"]
    assert record["bmodel_sha256"] == decision["chosen"]["sha256"]
    assert record["event"]["reason"].startswith("Airflow compile_and_deploy manual__")  # the way back from the registry to the run
    report = Path(found["report"]["outputs"]["report"]["path"]).read_text()
    assert "bm1684x/INT8" in report


def test_the_second_run_does_nothing_twice_and_gives_the_same_bytes(folder: Path, ended: dict[str, Any]) -> None:
    first, second = (results(folder, ended[name]) for name in ("first", "second"))
    assert digests(first) == digests(second)
    assert {"transform.mlir", "calibrate.table", "deploy/bm1684x-INT8.bmodel", "evaluate/bm1684x-F16.metrics"} <= set(digests(first))
    for task in ("transform", "calibrate", "deploy/bm1684x-INT8", "evaluate/bm1684x-F16"):
        assert "skipped" not in first[task]["seconds"]
        assert "skipped" in second[task]["seconds"]


def containers() -> dict[str, str]:
    """Podman's settings for a confined machine, as scripts/image makes them."""
    settings = Path(os.environ.get("BMFLOW_IMAGE_CACHE") or Path.home() / ".cache" / "bmflow") / "containers.conf"
    return {"CONTAINERS_CONF": str(settings)} if settings.is_file() and "CONTAINERS_CONF" not in os.environ else {}


@pytest.fixture
def server(tmp_path: Path) -> Generator[str]:
    """MLflow's server on loopback; images hold its client alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "mlflow.log").open("w") as log:
        head = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words, "--artifacts-destination", str(tmp_path / "artifacts")],
            env=env, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path,
        )  # fmt: skip
    try:
        end = time.monotonic() + 180
        while time.monotonic() < end:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()


@pytest.mark.container
def test_containers_give_the_digests_of_processes(folder: Path, ended: dict[str, Any], tmp_path: Path, server: str) -> None:
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    env = environment(tmp_path, **containers(), BMFLOW_IMAGE_COMPILER=IMAGE, BMFLOW_IMAGE_TRAIN=IMAGE, MLFLOW_TRACKING_URI=server)
    if subprocess.run(["podman", "image", "exists", IMAGE], env=env, check=False).returncode:
        pytest.skip(f"the image {IMAGE} is not built; scripts/image build compiler")
    found = run_scenarios(tmp_path, [scenario(folder, "podman", backend="podman")], env)
    assert found["podman"]["state"] == "success", (tmp_path / "driver.log").read_text()[-3000:]
    assert digests(results(tmp_path, found["podman"])) == digests(results(folder, ended["first"]))
