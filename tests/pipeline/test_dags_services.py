"""`scripts/up` and `scripts/down`: the pages on loopback, runs started through Airflow's REST API, twenty candidates on two workers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from airflow_process import ROOT, environment, needs_airflow, stand_in
from bmflow_components.airflow_dags.run import safe_name

pytestmark = [pytest.mark.slow, needs_airflow]
PROCESSORS = ["bm1684x", "bm1688", "cv186x", "bm1690"]
MLFLOW_PAGE = "http://127.0.0.1:1/#/experiments/1/runs/ab"
PRECISIONS = ["F32", "F16", "BF16", "INT8", "MIXED"]


@dataclass
class Services:
    """What is up."""

    folder: Path
    ports: tuple[int, ...]
    log: str
    token: str = field(default="", repr=False)

    def call(self, path: str, data: Any = None) -> Any:
        """Ask Airflow's API; the token is fetched at the first call."""
        if not self.token and path != "/auth/token":
            note = json.loads((self.folder / "airflow" / "simple_auth_manager_passwords.json.generated").read_text())
            self.token = self.call("/auth/token", {"username": "admin", "password": note["admin"]})["access_token"]
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.token}"} if self.token else {})}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports[0]}{path}", json.dumps(data).encode() if data is not None else None, headers
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


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Generator[Services]:
    folder = tmp_path_factory.mktemp("services")
    env = {
        name: value
        for name, value in environment(folder, **stand_in(folder, register={"facts": {"link": MLFLOW_PAGE}}), BMFLOW_POOL="two").items()
        if not name.startswith("AIRFLOW")
    }
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


def test_the_password_is_for_this_user_alone_and_the_addresses_are_told(services: Services) -> None:
    note = services.folder / "airflow" / "simple_auth_manager_passwords.json.generated"
    assert note.stat().st_mode & 0o077 == 0
    assert all(f"http://127.0.0.1:{port}" in services.log for port in services.ports)


@pytest.mark.skipif(not Path("/proc/net/tcp").is_file(), reason="sockets are looked up in /proc, which only Linux has")
def test_everything_listens_on_loopback_alone(services: Services) -> None:
    group = json.loads((services.folder / "up.json").read_text())["group"]
    ours = {link for pid in os.listdir("/proc") if pid.isdigit() and group_of(int(pid)) == group for link in open_files(pid)}
    found = {address for inode, address in listening() if f"socket:[{inode}]" in ours}
    assert found == {f"0100007F:{port:04X}" for port in services.ports}  # 127.0.0.1, as the kernel writes it


def open_files(pid: str) -> set[str]:
    """What the descriptors of a process lead to."""
    links: set[str] = set()
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                links.add(os.readlink(f"/proc/{pid}/fd/{number}"))
    return links


def listening() -> list[tuple[str, str]]:
    """(inode, address:port in hexadecimal digits) of every TCP socket that listens, IPv4 and IPv6."""
    tables = [Path("/proc/net", name) for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables if table.is_file() for line in table.read_text().splitlines()[1:]]
    return [(row[9], row[1]) for row in rows if row[3] == "0A"]


def test_every_dag_is_there_and_those_with_a_clock_wait(services: Services) -> None:
    dags = {dag["dag_id"]: dag["is_paused"] for dag in services.call("/api/v2/dags")["dags"]}
    assert dags == {"compile_and_deploy": False, "evaluate_champion": True, "promote": False, "retrain_and_deploy": True, "rollback": False}
    assert services.call("/api/v2/importErrors")["total_entries"] == 0


def test_a_wrong_setting_is_refused_before_a_run_exists(services: Services) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        services.call("/api/v2/dags/promote/dagRuns", {"logical_date": None, "conf": {"promote_processor": "bm9"}})
    assert caught.value.code == 400
    assert "'bm9' is not one of" in caught.value.read().decode()


def test_twenty_candidates_on_two_workers_end_with_nothing_lost_or_mixed(services: Services) -> None:
    services.call("/api/v2/pools", {"name": "two", "slots": 2})
    model = services.folder / "model.onnx"
    model.write_bytes(b"not read by the stand-in")
    conf = {"model": str(model), "processors": PROCESSORS, "precisions": PRECISIONS}
    ended = services.run("compile_and_deploy", conf, 1500)
    assert ended["state"] == "success"
    deployed = [task for task in ended["tasks"] if task["task_id"] == "deploy"]
    assert {task["rendered_map_index"] for task in deployed} == {f"{p}/{q}" for p in PROCESSORS for q in PRECISIONS}
    assert most_at_once(ended["tasks"]) <= 2
    for task in deployed:
        place = ended["folder"] / "deploy" / task["rendered_map_index"].replace("/", "-")
        written = json.loads((place / "model.bmodel").read_text())
        processor, quantize = task["rendered_map_index"].split("/")
        assert written["place"] == str(place)
        assert f"--quantize={quantize}" in written["params"] or quantize == "INT8"  # the default is not given
        assert f"--processor={processor}" in written["params"] or processor == "bm1684x"
        assert all(hashlib.sha256(Path(path).read_bytes()).hexdigest() == digest for path, digest in written["inputs"].items())
    for processor in PROCESSORS:
        decision = json.loads((ended["folder"] / "gate" / processor / "decision.json").read_text())
        judged = {path for path in decision["inputs"] if "/evaluate/" in path}
        assert judged == {str(ended["folder"] / "evaluate" / f"{processor}-{quantize}" / "metrics.json") for quantize in PRECISIONS}
    assert_links(services, ended)


def assert_links(services: Services, ended: dict[str, Any]) -> None:
    """Tasks lead to the report, served on its port, and to the run in MLflow."""
    path = f"/api/v2/dags/compile_and_deploy/dagRuns/{urllib.parse.quote(ended['dag_run_id'], safe='')}/taskInstances"
    report = services.call(f"{path}/report/links")["extra_links"]
    assert report == {
        "Report": f"http://127.0.0.1:{services.ports[2]}/compile_and_deploy/{ended['folder'].name}/report/report.html",
        "MLflow run": None,
    }
    for number in range(len(PROCESSORS)):
        assert services.call(f"{path}/register/links?map_index={number}")["extra_links"] == {"Report": None, "MLflow run": MLFLOW_PAGE}


def most_at_once(tasks: list[dict[str, Any]]) -> int:
    """Most tasks that ran at the same time."""
    marks = sorted(mark for task in tasks if task["start_date"] for mark in ((task["start_date"], 1), (task["end_date"], -1)))
    running = most = 0
    for _, step in marks:
        running += step
        most = max(most, running)
    return most


def group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0
