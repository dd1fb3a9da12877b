"""`scripts/up` and `scripts/down`: the pages on loopback, runs started through Airflow's REST API, twenty candidates on two workers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import urllib.error
import urllib.parse
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from airflow_process import needs_airflow, stand_in
from airflow_services import Services, services_up

pytestmark = [pytest.mark.slow, needs_airflow]
PROCESSORS = ["bm1684x", "bm1688", "cv186x", "bm1690"]
MLFLOW_PAGE = "http://127.0.0.1:1/#/experiments/1/runs/ab"
PRECISIONS = ["F32", "F16", "BF16", "INT8", "MIXED"]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Generator[Services]:
    folder = tmp_path_factory.mktemp("services")
    with services_up(folder, **stand_in(folder, register={"facts": {"link": MLFLOW_PAGE}}), BMFLOW_POOL="two") as up:
        yield up


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
