"""Airflow's own backfill of past dates, by its scheduler: however often it is ordered, nothing is computed twice."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow_process import HERE, in_place_of_python, needs_airflow
from airflow_services import Services, services_up
from bmflow_components import contracts
from bmflow_components.airflow_dags.run import safe_name

pytestmark = [pytest.mark.slow, needs_airflow]
DAG = "retrain_and_deploy"
FORMAT = "%Y-%m-%dT%H:%M:%SZ"
FORM = {"processors": ["bm1684x"], "precisions": ["INT8"], "dataset_seed": 7}  # no run but these has this seed
WITHIN_S = 900
ALWAYS_ANEW = {stage.name for stage in contracts.STAGES if stage.volatile} | {"report"}
"""What asks the registry, and the report, which shows how long the other stages took; all else follows from its key."""


def strikes() -> list[str]:
    """The last two times that its clock struck: Mondays at three. Let go, Airflow would by itself run the later one alone."""
    now = datetime.now(UTC)
    last = (now - timedelta(days=now.weekday())).replace(hour=3, minute=0, second=0, microsecond=0)
    last -= timedelta(weeks=last >= now)
    return [date.strftime(FORMAT) for date in (last - timedelta(weeks=1), last)]


class Backfills:
    """Backfills of the two dates, and what is there after them."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._work = services.folder / "work"
        self.dates = strikes()

    def order(self, reprocess: str) -> list[dict[str, Any]]:
        """Order one and wait for its end; gives the runs of the two dates."""
        span = {"from_date": self.dates[0], "to_date": self.dates[1]}
        body = {"dag_id": DAG, **span, "dag_run_conf": FORM, "max_active_runs": 2, "reprocess_behavior": reprocess}
        made = wait_for(lambda: self._ask("/api/v2/backfills", body, "POST"))
        self._pause(False)
        wait_for(lambda: all(run["state"] in ("success", "failed") for run in self.runs()))
        self._pause(True)
        # the scheduler looks for ended backfills but twice a minute, and a DAG has one at a time
        wait_for(lambda: self._ask(f"/api/v2/backfills/{made['id']}/cancel", {}, "PUT") or self._ended(made["id"]))
        return self.runs()

    def _pause(self, paused: bool) -> None:
        """Hold the DAG while a backfill is made: Airflow takes its runs back when the database of one file is busy in the middle of it, and
        a scheduler that had begun with them would end by that."""
        wait_for(lambda: self._ask(f"/api/v2/dags/{DAG}", {"is_paused": paused}, "PATCH"))

    def _ask(self, path: str, data: Any, method: str) -> Any:
        """The answer, None where a later try may succeed: the DAG is not yet read, another backfill not yet closed, the database busy."""
        try:
            return self._services.call(path, data, method)
        except urllib.error.HTTPError as error:
            if error.code in (404, 409, 500, 503):
                return None
            raise

    def _ended(self, number: int) -> bool:
        return bool(self._services.call(f"/api/v2/backfills/{number}")["completed_at"])

    def runs(self) -> list[dict[str, Any]]:
        """The runs of the two dates, by date."""
        bounds = urllib.parse.urlencode({"logical_date_gte": self.dates[0], "logical_date_lte": self.dates[1], "order_by": "logical_date"})
        return self._services.call(f"/api/v2/dags/{DAG}/dagRuns?{bounds}")["dag_runs"]

    def started(self, run: dict[str, Any]) -> datetime:
        """When the first task of a run was started, of those that were not skipped."""
        name = urllib.parse.quote(run["dag_run_id"], safe="")
        tasks = self._services.call(f"/api/v2/dags/{DAG}/dagRuns/{name}/taskInstances?limit=100")["task_instances"]
        return min(datetime.fromisoformat(task["start_date"]) for task in tasks if task["state"] == "success")

    def folders(self) -> list[Path]:
        """The folders of backfilled runs, by name."""
        return sorted((self._services.folder / "runs" / DAG).glob("backfill*"))

    def results(self) -> dict[Path, dict[str, Any]]:
        """result.json of every task by its folder."""
        return {file.parent: json.loads(file.read_text()) for folder in self.folders() for file in sorted(folder.rglob("result.json"))}

    def kept(self) -> dict[Path, dict[str, Any]]:
        """Those of tasks whose outputs follow from their key."""
        return {folder: result for folder, result in self.results().items() if result["stage"] not in ALWAYS_ANEW}

    def work(self) -> Counter[str]:
        """How often the work of each key was done."""
        keys = {result["key"] for result in self.kept().values()}
        lines = (line.split() for line in self._work.read_text().splitlines())
        return Counter(key for _, key in lines if key in keys)


@pytest.fixture(scope="module")
def backfills(tmp_path_factory: pytest.TempPathFactory) -> Generator[Backfills]:
    folder = tmp_path_factory.mktemp("backfill")
    python = in_place_of_python(folder, HERE / "counted_stage.py")
    with services_up(folder, BMFLOW_PYTHON=str(python), WORK=str(folder / "work")) as services:
        yield Backfills(services)


@pytest.fixture(scope="module")
def first(backfills: Backfills) -> list[dict[str, Any]]:
    return backfills.order("none")


def wait_for(found: Callable[[], Any]) -> Any:
    """What is found once it is there."""
    end = time.monotonic() + WITHIN_S
    while not (it := found()):
        assert time.monotonic() < end, f"not within {WITHIN_S} s"
        time.sleep(1)
    return it


def stamps(folders: list[Path]) -> dict[Path, tuple[int, int]]:
    """Inode and time of every file: another one, or one written again, has others."""
    return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files(folders)}


def files(folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from (file for file in folder.rglob("*") if file.is_file())


def test_a_backfill_runs_every_date_once_in_a_folder_of_its_own(backfills: Backfills, first: list[dict[str, Any]]) -> None:
    assert [(run["logical_date"], run["run_type"], run["state"]) for run in first] == [
        (date, "backfill", "success") for date in backfills.dates
    ]
    assert backfills.folders() == sorted(backfills.folders()[0].parent / safe_name(run["dag_run_id"]) for run in first)
    assert set(backfills.work()) == {result["key"] for result in backfills.kept().values()}


def test_a_second_backfill_leaves_finished_dates_alone(backfills: Backfills, first: list[dict[str, Any]]) -> None:
    before = stamps(backfills.folders())
    again = backfills.order("none")
    assert [(run["dag_run_id"], run["start_date"], run["end_date"]) for run in again] == [
        (run["dag_run_id"], run["start_date"], run["end_date"]) for run in first
    ]
    assert stamps(backfills.folders()) == before


def test_a_backfill_that_reprocesses_finished_dates_runs_every_task_and_computes_nothing(
    backfills: Backfills, first: list[dict[str, Any]]
) -> None:
    folders, work, kept = backfills.folders(), backfills.work(), backfills.kept()
    before = stamps([Path(item["path"]).parent for result in kept.values() for item in result["outputs"].values()])
    again = backfills.order("completed")
    assert [(run["dag_run_id"], run["state"]) for run in again] == [(run["dag_run_id"], "success") for run in first]
    assert all(backfills.started(run) > datetime.fromisoformat(old["end_date"]) for old, run in zip(first, again, strict=True))
    assert (backfills.folders(), backfills.work()) == (folders, work)
    for folder, result in backfills.kept().items():
        assert "skipped" in result["seconds"]
        assert {name: result[name] for name in ("key", "outputs", "started", "status")} == {
            name: kept[folder][name] for name in ("key", "outputs", "started", "status")
        }
    after = stamps(list({file.parent for file in before}))
    assert {file: after[file] for file in before if file.name != "result.json"} == {
        file: stamp for file, stamp in before.items() if file.name != "result.json"
    }
