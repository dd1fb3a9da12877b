"""Run Airflow in processes of its own, in a home of its own, and read what they say."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bmflow_components.airflow_dags import home

ROOT = Path(__file__).resolve().parents[2]
DAGS = ROOT / "dags"
HERE = Path(__file__).resolve().parent
needs_airflow = pytest.mark.skipif(importlib.util.find_spec("airflow") is None, reason="Airflow is not installed (extra airflow)")


def environment(folder: Path, **more: str) -> dict[str, str]:
    """An environment whose Airflow lives in a folder."""
    path = os.pathsep.join([str(ROOT / "components"), str(ROOT / "compiler")])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "BMFLOW", "MLFLOW", "AWS"))}
    pinned = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "BMFLOW_RUN_ROOT": str(folder / "runs")}
    return {**kept, **home.environment(folder / "airflow", DAGS), **pinned, **more}


def stand_in(folder: Path, **plan: Any) -> dict[str, str]:
    """Variables that put the stand-in in the place of the stages, and what it shall do."""
    note = folder / "stand_in.json"
    note.write_text(json.dumps(plan))
    return {"BMFLOW_PYTHON": str(in_place_of_python(folder, "-S", HERE / "stand_in_stage.py")), "STAND_IN": str(note)}


def in_place_of_python(folder: Path, *words: str | Path) -> Path:
    """A program that hands its command line to Python after these words."""
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {shlex.join(map(str, words))} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def drive(folder: Path, verb: str, *paths: Path, env: dict[str, str], timeout_s: float = 600) -> Any:
    """What the driver answers."""
    (folder / "airflow").mkdir(parents=True, exist_ok=True)
    answer, log = folder / "answer.json", folder / "driver.log"
    with log.open("w") as output:
        ended = subprocess.run(
            [sys.executable, str(HERE / "dag_driver.py"), verb, *map(str, paths), str(answer)],
            env=env, stdout=output, stderr=subprocess.STDOUT, timeout=timeout_s, check=False,
        )  # fmt: skip
    assert ended.returncode == 0, log.read_text()[-4000:]
    return json.loads(answer.read_text())


def run_scenarios(folder: Path, scenarios: list[dict[str, Any]], env: dict[str, str]) -> dict[str, Any]:
    """Run scenarios one after the other in one process; results by name."""
    note = folder / "scenarios.json"
    note.write_text(json.dumps(scenarios))
    return drive(folder, "run", note, env=env)
