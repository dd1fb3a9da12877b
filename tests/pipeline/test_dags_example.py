"""The example through Airflow with the real stages: a promoted bmodel, the same digests the second time, and in containers."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
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
from containers import Image, script
from example_run import MODEL, digests, results, scenario

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
    image: Image, airflow_folder: Path, airflow_ended: dict[str, Any], bars: Path, tmp_path: Path, server: str
) -> None:
    named = {"BMFLOW_IMAGE_COMPILER": image.name, "BMFLOW_IMAGE_TRAIN": image.name, "MLFLOW_TRACKING_URI": server}
    env = environment(tmp_path, **named) | {name: value for name, value in script.environment().items() if name == "CONTAINERS_CONF"}
    found = run_scenarios(tmp_path, [scenario(bars, "podman", backend="podman")], env)
    assert found["podman"]["state"] == "success", (tmp_path / "driver.log").read_text()[-3000:]
    assert digests(results(tmp_path, found["podman"])) == digests(results(airflow_folder, airflow_ended["first"]))
