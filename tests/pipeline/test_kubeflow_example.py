"""The example through the pipeline compiled for Kubeflow: its commands as processes, the same bytes as by every other way to run it."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from airflow_process import needs_airflow
from bmflow_components import contracts
from bmflow_components.kubeflow import ir
from bmflow_components.kubeflow.cluster import Cluster
from bmflow_components.kubeflow.execute import Ended, Execution, Order, State, read
from example_run import MODEL, ROOT, SETTINGS, Made, digests, results, results_below

pytest.importorskip("yaml", reason="PyYAML is not installed; install the extra `kfp`")
pytestmark = [
    pytest.mark.slow, pytest.mark.skipif(not MODEL.is_file(), reason="examples/shapes.onnx is absent"),
    pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="MLflow is not installed (extra mlflow)"),
]  # fmt: skip
_LOOP = "exit-handler/for-each-processor[bm1684x]"
_PLAIN = f"{_LOOP}/for-each-precision[INT8]/branches/not-mixed"


@dataclass(frozen=True)
class Bench:
    """A folder with the compiled pipeline, the folders of its claims, and a store of models."""

    folder: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """Of every process."""
        path = os.pathsep.join([str(ROOT / "components"), str(ROOT / "compiler")])
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "AWS"))}
        store = f"sqlite:///{self.folder}/mlflow/mlflow.db"
        return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": store, "BMFLOW_RETRY_S": "0.1"}

    def run(self, name: str, given: Mapping[str, Any]) -> Run:
        """Execute the compiled file."""
        spec, platform = read(self.folder / "pipeline.yaml")
        order = Order(spec, platform, self.folder / "runs" / name, self.folder / "claims", given, name, environment=self.environment)
        execution = Execution(order)
        return Run(self, name, execution.run(), {item.name: item for item in execution.ended})


@dataclass(frozen=True)
class Run:
    """A run that has ended."""

    bench: Bench
    name: str
    code: int
    ended: Mapping[str, Ended]

    @property
    def shared(self) -> Path:
        """Its folder on the claim."""
        return self.bench.folder / "claims/bmflow-runs/compile_and_deploy" / self.name

    def log(self, task: str) -> str:
        """What a task said."""
        return (self.bench.folder / "runs" / self.name / self.ended[task].folder / "log.txt").read_text()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("kubeflow")
    (folder / "mlflow").mkdir()
    (folder / "pipeline.yaml").write_text(ir.text(contracts.pipeline("compile_and_deploy"), Cluster()))
    return Bench(folder)


@pytest.fixture(scope="module")
def arguments(bars: Path) -> dict[str, Any]:
    return {"model": str(MODEL), "bars": str(bars), "precisions": ["F16", "INT8"], **SETTINGS}


@pytest.fixture(scope="module")
def first(bench: Bench, arguments: dict[str, Any]) -> Run:
    return bench.run("first", arguments)


def test_the_compiled_pipeline_promotes_a_bmodel_and_reports(first: Run) -> None:
    assert first.code == 0, first.ended
    assert {name for name, item in first.ended.items() if item.state is State.SKIPPED} == {
        f"{_LOOP}/for-each-precision[{precision}]/branches/only-mixed" for precision in ("F16", "INT8")
    }
    record = json.loads((first.shared / "register/bm1684x/register.json").read_text())
    decision = json.loads((first.shared / "gate/bm1684x/decision.json").read_text())
    assert record["promoted"]
    assert record["bmodel_sha256"] == decision["chosen"]["sha256"]
    assert "bm1684x/INT8" in (first.shared / "report/report.html").read_text()


def test_every_artifact_is_that_of_the_local_runner(first: Run, made: Made) -> None:
    """Up to the gate, whose decision without a champion is the same."""
    ours = digests(results_below(first.shared), ("evaluate_champion", "report"))
    assert made.code == 0
    assert {task.split(".")[0] for task in ours} >= {"dataset", "transform", "calibrate", "deploy/bm1684x-INT8", "evaluate/bm1684x-F16"}
    assert ours == made.digests()


@needs_airflow
def test_every_artifact_is_that_of_a_run_by_airflow(first: Run, airflow_folder: Path, airflow_ended: dict[str, Any]) -> None:
    """The champion's stages too: neither store had one."""
    assert airflow_ended["first"]["state"] == "success"
    theirs = results(airflow_folder, airflow_ended["first"])
    assert digests(results_below(first.shared), ("report",)) == digests(theirs, ("report",))


def test_figures_of_metrics_are_what_kubeflow_shows(first: Run) -> None:
    """The executor output of evaluate against its result."""
    folder = first.bench.folder / "runs/first" / first.ended[f"{_PLAIN}/evaluate"].folder
    [artifact] = json.loads((folder / "executor_output.json").read_text())["artifacts"]["metrics"]["artifacts"]
    result = json.loads((first.shared / "evaluate/bm1684x-INT8/result.json").read_text())
    assert artifact["type"]["schemaTitle"] == "system.Metrics"
    assert artifact["metadata"]["map50"] == result["metrics"]["map50"]
    assert artifact["metadata"]["sha256"] == result["outputs"]["metrics"]["digest"]


def test_nothing_that_passes_ends_with_exit_code_three_a_report_and_no_new_version(
    first: Run, bench: Bench, arguments: dict[str, Any], tmp_path: Path
) -> None:
    """And what the first run did is not done again."""
    strict = tmp_path / "gate.toml"
    strict.write_text("largest_milliseconds = 0.001\n")
    run = bench.run("strict", {**arguments, "bars": str(strict)})
    assert run.code == 3
    assert run.ended[f"{_LOOP}/gate"].code == 3
    assert run.ended[f"{_LOOP}/register"].state is State.BLOCKED
    assert run.ended["report-of-the-run"].state is State.DONE
    assert "Not passed" in (run.shared / "gate/bm1684x/decision.md").read_text()
    assert "above the allowed 0.001 ms" in (run.shared / "report/report.html").read_text()
    keys = [json.loads((item.shared / "deploy/bm1684x-INT8/result.json").read_text())["key"] for item in (first, run)]
    assert ("done already, outputs intact" in run.log(f"{_PLAIN}/deploy")) == (keys[0] == keys[1])  # sources may change while tests run


def test_a_stage_that_refuses_its_input_ends_the_run_and_is_reported(
    first: Run, bench: Bench, arguments: dict[str, Any], tmp_path: Path
) -> None:
    """Exit code 2; nothing that needs it starts, nothing is tried again, and the report names it."""
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    run = bench.run("broken", {**arguments, "model": str(broken)})
    assert run.code == 2
    assert (run.ended["exit-handler/transform"].code, run.ended["exit-handler/transform"].tries) == (2, 1)
    assert run.ended["exit-handler/dataset"].state is State.DONE
    assert run.ended["exit-handler/for-each-processor"].state is State.BLOCKED
    assert run.ended["report-of-the-run"].state is State.DONE
    assert "transform" in (run.shared / "report/report.html").read_text()
    assert not (run.shared / "gate").exists()


def test_a_candidate_that_fails_ends_neither_the_others_nor_the_gate(
    first: Run, bench: Bench, arguments: dict[str, Any], bars: Path
) -> None:
    """A number type that the stage refuses; the run says so, the other candidate is judged and registered."""
    run = bench.run("partly", {**arguments, "precisions": ["INT8", "NONE"]})
    assert run.code == 2
    assert run.ended[f"{_LOOP}/for-each-precision[NONE]/branches/not-mixed/deploy"].code == 2
    assert run.ended[f"{_LOOP}/gate"].state is State.DONE
    decision = json.loads((run.shared / "gate/bm1684x/decision.json").read_text())
    assert [item["label"] for item in decision["candidates"]] == ["bm1684x/INT8"]
    assert run.ended[f"{_LOOP}/register"].state is State.DONE
