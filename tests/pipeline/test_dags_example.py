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
from airflow_process import environment, needs_airflow, run_scenarios
from example_run import MODEL, digests, results, scenario

IMAGE = os.environ.get("BMFLOW_TEST_IMAGE") or "localhost/bmflow/compiler:0.1.0"
pytestmark = [
    pytest.mark.slow, needs_airflow, pytest.mark.skipif(not MODEL.is_file(), reason="examples/shapes.onnx is absent"),
    pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="MLflow is not installed (extra mlflow)"),
]  # fmt: skip


def test_a_bmodel_is_promoted_and_reported(airflow_folder: Path, airflow_ended: dict[str, Any]) -> None:
    assert airflow_ended["first"]["state"] == "success"
    found = results(airflow_folder, airflow_ended["first"])
    record = json.loads(Path(found["register/bm1684x"]["outputs"]["record"]["path"]).read_text())
    decision = json.loads(Path(found["gate/bm1684x"]["outputs"]["decision"]["path"]).read_text())
    assert record["promoted"]
    assert record["bmodel_sha256"] == decision["chosen"]["sha256"]
    assert record["event"]["reason"].startswith("Airflow compile_and_deploy manual__")  # the way back from the registry to the run
    report = Path(found["report"]["outputs"]["report"]["path"]).read_text()
    assert "bm1684x/INT8" in report


def test_the_second_run_does_nothing_twice_and_gives_the_same_bytes(airflow_folder: Path, airflow_ended: dict[str, Any]) -> None:
    first, second = (results(airflow_folder, airflow_ended[name]) for name in ("first", "second"))
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
def test_containers_give_the_digests_of_processes(
    airflow_folder: Path, airflow_ended: dict[str, Any], bars: Path, tmp_path: Path, server: str
) -> None:
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    env = environment(tmp_path, **containers(), BMFLOW_IMAGE_COMPILER=IMAGE, BMFLOW_IMAGE_TRAIN=IMAGE, MLFLOW_TRACKING_URI=server)
    if subprocess.run(["podman", "image", "exists", IMAGE], env=env, check=False).returncode:
        pytest.skip(f"the image {IMAGE} is not built; scripts/image build compiler")
    found = run_scenarios(tmp_path, [scenario(bars, "podman", backend="podman")], env)
    assert found["podman"]["state"] == "success", (tmp_path / "driver.log").read_text()[-3000:]
    assert digests(results(tmp_path, found["podman"])) == digests(results(airflow_folder, airflow_ended["first"]))
