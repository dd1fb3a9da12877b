"""The example with few pictures through every runner, and the digests of what it gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmflow_components import contracts
from bmflow_components.airflow_dags.run import safe_name
from bmflow_components.local import Plan, Runner
from bmflow_components.ports import Value
from bmflow_components.result import Result

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples" / "shapes.onnx"
SETTINGS: dict[str, Value] = {
    "model_name": "shapes", "dataset_calibration": 6, "dataset_evaluation": 6, "calibrate_tune_num": 0, "evaluate_pictures": 2,
}  # fmt: skip
WITHOUT = ["fetch", "register", "report"]

DIFFER = {"register", "fetch"}
"""Stages whose outputs name the run in MLflow or what was champion at the time."""


@dataclass(frozen=True)
class Made:
    """A run that has ended."""

    plan: Plan
    runner: Runner
    code: int

    def result(self, folder: str) -> Result:
        """What a task left."""
        found = Result.parse((self.plan.folder / folder / "result.json").read_text())
        assert found is not None
        return found

    def digests(self) -> dict[str, str]:
        """Digest of every output by task folder and port."""
        return {
            f"{p.task.folder}.{port}": item.digest
            for p in self.runner.progress.values()
            if p.result
            for port, item in p.result.outputs.items()
        }


def run_local(folder: Path, settings: dict[str, Value], bars: Path, jobs: int = 2, without: Sequence[str] = WITHOUT) -> Made:
    """Compile the example for F16 and INT8 up to the gate."""
    pipeline = contracts.without(contracts.pipeline("compile_and_deploy"), without)
    plan = Plan(pipeline, folder, ["bm1684x"], ["F16", "INT8"], {"model": str(MODEL), "bars": str(bars)}, settings, jobs)
    runner = Runner(plan)
    return Made(plan, runner, runner.run())


def scenario(bars: Path, name: str, **more: Any) -> dict[str, Any]:
    """A run for Airflow."""
    conf = {"model": str(MODEL), "bars": str(bars), "precisions": ["F16", "INT8"], **SETTINGS, **more}
    return {"name": name, "dag": "compile_and_deploy", "conf": conf}


def results(folder: Path, ended: dict[str, Any], root: str = "runs") -> dict[str, dict[str, Any]]:
    """result.json by task folder of a run of Airflow."""
    return results_below(folder / root / "compile_and_deploy" / safe_name(ended["run"]))


def results_below(run: Path) -> dict[str, dict[str, Any]]:
    """result.json by task folder."""
    return {str(file.parent.relative_to(run)): json.loads(file.read_text()) for file in run.glob("**/result.json")}


def digests(found: dict[str, dict[str, Any]], without: Sequence[str] = ("evaluate_champion", "gate", "report")) -> dict[str, str]:
    """Digest of every output of stages that give the same always.

    Args:
        without: first words of tasks; by default those that look at the champion that an earlier run may have made.
    """
    return {
        f"{task}.{port}": item["digest"]
        for task, result in found.items() if result["stage"] not in DIFFER and not task.startswith(tuple(without))
        for port, item in result["outputs"].items()
    }  # fmt: skip
