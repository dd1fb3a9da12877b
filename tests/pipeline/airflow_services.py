"""`scripts/up` and `scripts/down` in a folder of their own: Airflow with its scheduler, MLflow, and the REST API that runs are started by."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_process import ROOT, environment
from bmflow_components.airflow_dags.run import safe_name


@dataclass
class Services:
    """What is up."""

    folder: Path
    ports: tuple[int, ...]
    log: str
    token: str = field(default="", repr=False)

    def call(self, path: str, data: Any = None, method: str | None = None) -> Any:
        """Ask Airflow's API, by default with GET, or POST where there is data; the token is fetched at the first call."""
        if not self.token and path != "/auth/token":
            note = json.loads((self.folder / "airflow" / "simple_auth_manager_passwords.json.generated").read_text())
            self.token = self.call("/auth/token", {"username": "admin", "password": note["admin"]})["access_token"]
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.token}"} if self.token else {})}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports[0]}{path}", json.dumps(data).encode() if data is not None else None, headers, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def run(self, dag: str, conf: dict[str, Any], within_s: float) -> dict[str, Any]:
        """Start a run and wait for its end."""
        made = self.call(f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None, "conf": conf})
        path = f"/api/v2/dags/{dag}/dagRuns/{urllib.parse.quote(made['dag_run_id'], safe='')}"
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            found = self.call(path)
            if found["state"] in ("success", "failed"):
                tasks = self.call(f"{path}/taskInstances?limit=200")["task_instances"]
                return {**found, "tasks": tasks, "folder": self.folder / "runs" / dag / safe_name(made["dag_run_id"])}
            time.sleep(1)
        raise AssertionError(f"{dag} did not end within {within_s} s")


def free_ports(count: int) -> tuple[int, ...]:
    """Ports that are free now."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = tuple(probe.getsockname()[1] for probe in probes)
    for probe in probes:
        probe.close()
    return ports


def script(name: str, folder: Path, *words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / name), "--folder", str(folder), *words], env=env, text=True, capture_output=True, timeout=400,
        check=False,
    )  # fmt: skip


@contextmanager
def services_up(folder: Path, **more: str) -> Generator[Services]:
    """Everything up in a folder, with more variables; all ports are free again afterwards."""
    env = {name: value for name, value in environment(folder, **more).items() if not name.startswith("AIRFLOW")}
    ports = free_ports(3)
    words = [f"--{name}-port={port}" for name, port in zip(("airflow", "mlflow", "runs"), ports, strict=True)]
    try:
        up = script("up", folder, *words, env=env)
        assert up.returncode == 0, up.stderr + "".join(file.read_text()[-1500:] for file in folder.glob("logs/*.log"))
        yield Services(folder, ports, up.stdout)
        again = script("up", folder, *words, env=env)
        assert (again.returncode, "is up already" in again.stderr) == (2, True)
    finally:
        down = script("down", folder, env=env)
    assert down.returncode == 0, down.stderr
    assert down.stdout.startswith("stopped in")
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert script("down", folder, env=env).stdout == "nothing is up\n"
