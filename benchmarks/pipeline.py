"""What the pipeline costs around its stages: retrain_and_deploy three times on the example, in process, one after the other.

The first run does all the work, the second only what follows from the new champion, the third nothing but to find everything done.
Overhead is the time of a task less the time of its stage's own work: Airflow, process start, imports, digests, moving files.

    python -m benchmarks.pipeline [--write]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks import __main__ as page
from benchmarks import clock
from benchmarks.cases import Bar, Row

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks-pipeline.md"
DAG = "retrain_and_deploy"
RUNS = 3
OVERHEAD = Bar(2.0, 1.0)
WHOLE = Bar(360.0, 240.0)
MEMORY = Bar(4.0, 2.0)
TALKS_TO_MLFLOW = ("fetch", "register")
_SAMPLE_S = 0.5


@dataclass(frozen=True)
class Task:
    """A stage's task: wall seconds, and the seconds of its own work (0 when it was found done)."""

    name: str
    seconds: float
    work: float

    @property
    def overhead(self) -> float:
        """Seconds around the work."""
        return self.seconds - self.work


def child() -> int:
    """Run the DAG several times in this process and print what each task took."""
    from bmflow_components.airflow_dags import once
    from bmflow_components.airflow_dags.run import safe_name

    example = ROOT / "examples"
    conf = {
        "processors": ["bm1684x"], "precisions": ["F16", "INT8", "MIXED"], "model_name": "shapes", "dataset_train": 0,
        "model": str(example / "shapes.onnx"), "detector": str(example / "detector.json"), "reason": "a measurement",
    }  # fmt: skip
    once.prepare()
    found: list[dict[str, Any]] = []
    for _ in range(RUNS):
        start = time.perf_counter()
        ended = once.run(DAG, conf)
        seconds = time.perf_counter() - start
        place = Path(os.environ["BMFLOW_RUN_ROOT"], DAG, safe_name(ended.run_id))
        tasks = [vars(task) for task in _tasks(ended, place)]
        found.append({"state": str(ended.state), "seconds": seconds, "tasks": tasks})
    print(json.dumps(found))
    return 0


def _tasks(ended: Any, place: Path) -> Iterator[Task]:
    """The tasks of a run that are stages."""
    for item in ended.get_task_instances():
        label = str(item.rendered_map_index or "").replace("/", "-")
        file = place / item.task_id / label / "result.json"
        if item.start_date and item.end_date and file.is_file():
            seconds = json.loads(file.read_text())["seconds"]
            took = (item.end_date - item.start_date).total_seconds()
            yield Task(f"{item.task_id} {label}".strip(), took, 0.0 if "skipped" in seconds else seconds.get("work", 0.0))


def measure(folder: Path) -> tuple[list[dict[str, Any]], float]:
    """The runs, and the most memory that all processes held together, in GiB.

    Raises:
        RuntimeError: a run failed.
    """
    sys.path.insert(0, str(ROOT / "components"))
    from bmflow_components.airflow_dags import home

    airflow, log = folder / "airflow", folder / "log"
    airflow.mkdir()
    path = os.pathsep.join([str(ROOT), str(ROOT / "components"), str(ROOT / "compiler")])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "BMFLOW", "MLFLOW"))}
    env = {**kept, **home.environment(airflow, ROOT / "dags"), "PYTHONPATH": path, "BMFLOW_RUN_ROOT": str(folder / "runs")}
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.pipeline", "--child"], env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        peaks: list[int] = [0]
        watcher = threading.Thread(target=_watch, args=(process, peaks), daemon=True)
        watcher.start()
        printed, _ = process.communicate()
    runs = json.loads(printed.splitlines()[-1]) if process.returncode == 0 else []
    if not runs or any(run["state"] != "success" for run in runs):
        raise RuntimeError(f"a run failed: {log.read_text()[-2000:]}")
    return runs, peaks[0] / 2**30


def _watch(process: subprocess.Popen[str], peaks: list[int]) -> None:
    """Keep the largest sum of proportional sizes of a process and all below it (Linux)."""
    while process.poll() is None:
        peaks[0] = max(peaks[0], sum(map(_proportional_bytes, _family(process.pid))))
        time.sleep(_SAMPLE_S)


def _family(head: int) -> list[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [head]
    for pid in found:
        found += [other for other, parent in parents.items() if parent == pid]
    return found


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def rows(runs: Sequence[dict[str, Any]], peak_gib: float) -> Iterator[Row]:
    """The table."""
    each = [[Task(**task) for task in run["tasks"]] for run in runs]
    for number, run in enumerate(runs, 1):
        yield Row(f"run {number}: {len(each[number - 1])} stages", run["seconds"], "s", WHOLE if number == 1 else None)
    yield Row("peak memory of all processes together", peak_gib, "GiB", MEMORY)
    later = [task for tasks in each[1:] for task in tasks]
    quiet = [task.overhead for task in later if not task.name.startswith(TALKS_TO_MLFLOW)]
    yield Row("overhead of a stage after the first run, mean of all", mean(task.overhead for task in later), "s", OVERHEAD)
    yield Row("stages that do not speak to MLflow, median", median(quiet), "s", OVERHEAD)
    yield Row("the largest of these", max(quiet), "s", OVERHEAD)
    for name in TALKS_TO_MLFLOW:
        yield Row(f"{name}, its own work included: loading MLflow, and speaking to it", mean(_times(later, name)), "s")
    between = [run["seconds"] - sum(task.seconds for task in tasks) for run, tasks in zip(runs[1:], each[1:], strict=True)]
    yield Row("between the stages, per stage (tasks that list and join, scheduling)", mean(between) / len(each[-1]), "s")


def _times(tasks: Sequence[Task], name: str) -> list[float]:
    return [task.seconds for task in tasks if task.name.startswith(name)]


def text(table: str, note: str) -> str:
    """docs/benchmarks-pipeline.md."""
    return f"""# What the pipeline costs around its stages

Written by `python -m benchmarks.pipeline --write` on {date.today().isoformat()}: {page.machine()}.
`{DAG}` for F16, INT8 and MIXED on the built-in example, {RUNS} times in one process (Airflow's in-process run of a DAG, backend `local`, SQLite),
{clock.THREADS} threads. The first run does all the work; the later ones find it done, but for the measurement of a new champion, the page
and MLflow. Overhead is the time of a task less that of its stage's own work: Airflow, start of a process, imports, digests, moving files.
Bounds are those of the project's design; they are not timed tests.
{note and chr(10) + note + chr(10)}
{table}
"""


def main() -> int:
    """Entry."""
    parse = argparse.ArgumentParser(
        prog="python -m benchmarks.pipeline", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parse.add_argument("--write", action="store_true", help="write docs/benchmarks-pipeline.md")
    parse.add_argument("--note", default="", help="a sentence to write there, such as what else the machine was doing")
    parse.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parse.parse_args()
    if options.child:
        return child()
    clock.pin_threads()
    with tempfile.TemporaryDirectory(prefix="bmflow-benchmarks-") as folder:
        runs, peak_gib = measure(Path(folder))
    for task in runs[-1]["tasks"]:
        print(f"{task['name']:<32} {task['seconds']:6.2f} s, of which work {task['work']:6.2f} s")
    table = page.markdown(list(rows(runs, peak_gib)))
    print(table)
    if options.write:
        PAGE.write_text(text(table, options.note))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
