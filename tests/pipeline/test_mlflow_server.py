"""The same work against an MLflow server on PostgreSQL: runs, registry, promotion, and a server that is gone for a while or for good.

Both servers are started here on loopback, in process groups of their own, and stopped as groups.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

pytest.importorskip("mlflow", reason="MLflow is not installed; install the extra `mlflow`")
pytest.importorskip("psycopg2", reason="psycopg2 is not installed; install the extra `mlflow`")

from bmflow_components.tracking import registry
from bmflow_components.tracking.registration import register
from bmflow_components.tracking.runs import RunRecord, log_run
from bmflow_components.tracking.store import Patience, Store, TrackingError

sys.path.insert(0, str(Path(__file__).parent.parent / "unit" / "components"))
from tracking_store import registration, small_bmodel

pytestmark = pytest.mark.slow
_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").is_dir() else []


@dataclass
class Server:
    """A process group on a port of loopback."""

    command: list[str]
    port: int
    environment: dict[str, str]
    log: Path
    user: str = ""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=self.environment, start_new_session=True, user=self.user or None, cwd=self.log.parent
            )  # fmt: skip

    def stop(self, with_: signal.Signals = signal.SIGTERM) -> None:
        """End the whole group."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, with_)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(20)
        self.process = None

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(ready: object, what: str, log: Path, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if ready():  # type: ignore[operator]
                return
        time.sleep(0.3)
    pytest.fail(f"{what} did not answer within {seconds:.0f} s:\n{log.read_text()[-3000:]}")


def healthy(server: Server) -> bool:
    with urllib.request.urlopen(f"{server.address}/health", timeout=2) as answer:
        return answer.status == 200


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """Address of an empty PostgreSQL database."""
    if not _BINARIES:
        pytest.skip("PostgreSQL is not installed (Debian package postgresql)")
    binaries, port = _BINARIES[-1], free_port()
    user = "postgres" if os.getuid() == 0 else ""  # PostgreSQL refuses to run as root
    if user and user not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip("running as root, and there is no user postgres to run PostgreSQL as")
    folder = Path("/tmp" if user else tmp_path_factory.mktemp("db")) / f"bmflow-postgres-{os.getpid()}"
    folder.mkdir()
    if user:
        shutil.chown(folder, user)
    environment = {**os.environ, "LC_ALL": "C"}
    subprocess.run(
        [binaries / "initdb", "-D", folder / "data", "-U", "bmflow", "-A", "trust", "--no-sync"], check=True, capture_output=True,
        env=environment, user=user or None, cwd="/",
    )  # fmt: skip
    server = Server(
        [str(binaries / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", str(folder), "-F"],
        port, environment, folder / "log", user,
    )  # fmt: skip
    server.log.touch()
    if user:
        shutil.chown(server.log, user)
    server.start()
    try:
        wait_for(lambda: socket.create_connection(("127.0.0.1", port), 1).close() or True, "PostgreSQL", server.log)
        time.sleep(0.5)
        subprocess.run(
            [binaries / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "bmflow", "mlflow"],
            check=True,
            capture_output=True,
            env=environment,
        )
        yield f"postgresql+psycopg2://bmflow:unused-pw@127.0.0.1:{port}/mlflow"
    finally:
        server.stop(signal.SIGINT)  # fast shutdown
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """An MLflow server on that database, files in a folder."""
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", database,
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        environment.pop(name, None)
    made = Server(command, port, environment, folder / "log")
    made.start()
    try:
        wait_for(lambda: healthy(made), "the MLflow server", made.log)
        yield made
    finally:
        made.stop()


def store(server: Server, gone_s: float = 60) -> Store:
    return Store.open(server.address, experiment="server", patience=Patience(gone_s, 60, 0.2, 1.0))


def test_a_run_is_logged_registered_promoted_and_rolled_back(server: Server, tmp_path: Path) -> None:
    place = store(server)
    run = log_run(place, RunRecord("shapes", "server-1", {"a": 1}, {"int8/map": 0.8}, texts={"report.html": "<p>"}))
    assert log_run(place, RunRecord("shapes", "server-1")) == run
    numbers = [register(place, run, registration("shapes-bm1684x", f"server {scale}", scale)).number for scale in (0.1, 0.2, 0.2)]
    assert numbers == ["1", "2", "2"]
    for number in ("1", "2"):
        registry.promote(place, "shapes-bm1684x", number, "anna", "gate passed", key=f"k{number}")
    assert registry.rollback(place, "shapes-bm1684x", who="anna", reason="bad").new == "1"
    assert [e.new for e in registry.history(place, "shapes-bm1684x")] == ["1", "2", "1"]
    assert registry.drifted(place, "shapes-bm1684x") == ""
    fetched = registry.fetch(place, "shapes-bm1684x", "champion", tmp_path)
    assert fetched.bmodel.read_bytes() == small_bmodel(0.1).read_bytes()


def test_a_server_gone_for_good_is_given_up_in_time_and_one_gone_for_a_while_costs_only_time(server: Server) -> None:
    place = store(server)
    run = log_run(place, RunRecord("before", "server-before"))
    server.stop(signal.SIGKILL)
    began = time.monotonic()
    impatient = replace(place, patience=Patience(1.5, 10, 0.2, 0.5))
    with pytest.raises(TrackingError, match=r"did not answer for 1\.5 s") as caught:
        register(impatient, run, registration("shapes-later", "server later", 0.3))
    assert caught.value.exit_code == 1
    assert time.monotonic() - began < 15
    patient = replace(place, patience=Patience(120, 60, 0.2, 1.0))
    made: list[str] = []
    thread = threading.Thread(target=lambda: made.append(log_run(patient, RunRecord("late", "server-late", {"a": 1}, {"m": 0.5}))))
    thread.start()
    server.start()
    wait_for(lambda: healthy(server), "the MLflow server", server.log)
    thread.join(60)
    found = place.client.get_run(made[0])
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"m": 0.5})
    assert register(place, run, registration("shapes-later", "server later", 0.3)).number == "1"  # what was given up is completed


def test_both_servers_listen_on_loopback_alone(server: Server) -> None:
    listening = subprocess.run(["ss", "-ltnH"], check=False, capture_output=True, text=True) if shutil.which("ss") else None
    if listening is None:
        pytest.skip("ss is not installed (Debian package iproute2)")
    mine = [line.split()[3] for line in listening.stdout.splitlines() if line.split()[3].endswith(f":{server.port}")]
    assert mine == [f"127.0.0.1:{server.port}"]


def test_the_password_of_the_database_is_not_in_the_log_of_the_client(database: str) -> None:
    assert "unused-pw" not in str(Store.open(database))
