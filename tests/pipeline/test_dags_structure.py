"""Every DAG against the graph of its pipeline, and what its files cost and import."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow_process import DAGS, ROOT, drive, environment, needs_airflow
from bmflow_components import contracts
from bmflow_components.airflow_dags.run import BACKENDS, upstream
from bmflow_components.pipelines import Pipeline, Runs

PIPELINES = pytest.mark.parametrize("graph", contracts.PIPELINES, ids=lambda graph: graph.name)
PACKAGE = ROOT / "components" / "bmflow_components" / "airflow_dags"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("structure")
    return drive(folder, "describe", env=environment(folder))


def imported(file: Path) -> set[str]:
    """Modules that are imported when a file is."""
    tree = ast.parse(file.read_text())
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_there_is_one_file_for_each_pipeline() -> None:
    assert {file.stem for file in DAGS.glob("*.py")} == {graph.name for graph in contracts.PIPELINES}


@pytest.mark.parametrize("file", sorted(DAGS.glob("*.py")), ids=lambda file: file.stem)
def test_a_dag_file_is_wiring_alone(file: Path) -> None:
    assert imported(file) == {"bmflow_components.airflow_dags.factory"}
    assert len(file.read_text().splitlines()) <= 10


@needs_airflow
def test_dag_files_come_without_the_components_environment_in_less_than_a_second(found: dict[str, Any]) -> None:
    assert found["asked"] == []
    assert found["seconds"] < 1.0
    ours = {"airflow", "bmflow_components", *(graph.name for graph in contracts.PIPELINES)}
    assert {name for name in found["modules"] if name not in sys.stdlib_module_names} <= ours | {"croniter", "packaging"}


@needs_airflow
@PIPELINES
def test_tasks_are_the_nodes_and_what_settles_the_run(graph: Pipeline, found: dict[str, Any]) -> None:
    tasks = found["dags"][graph.name]["tasks"]
    axes = {"candidates" if "quantize" in node.over else "processors" for node in graph.nodes if node.over}
    verdict = {"verdict"} if graph.name == "evaluate_champion" else set()  # its last node, the report, runs in any case
    assert set(tasks) == {node.name for node in graph.nodes} | {"plan"} | axes | verdict


@needs_airflow
@PIPELINES
def test_every_link_is_a_dependency_and_there_is_no_other(graph: Pipeline, found: dict[str, Any]) -> None:
    tasks = found["dags"][graph.name]["tasks"]
    for node in graph.nodes:
        before = set(tasks[node.name]["upstream"]) - {"plan", "candidates", "processors"}
        assert before == set(upstream(graph, node)), node.name
        assert bool(node.over) == tasks[node.name]["mapped"]
        assert (tasks[node.name]["name"] is not None) == bool(node.over)


@needs_airflow
@PIPELINES
def test_rules_and_retries_follow_the_graph_and_the_list_of_stages(graph: Pipeline, found: dict[str, Any]) -> None:
    tasks = found["dags"][graph.name]["tasks"]
    for node in graph.nodes:
        stage = contracts.stage(node.stage)
        assert tasks[node.name]["retries"] == stage.retries
        waits = any(graph.node(name).only for name in upstream(graph, node))
        rule = "all_done" if node.runs is not Runs.ALL else "none_failed" if waits else "all_success"
        assert tasks[node.name]["rule"] == rule, node.name
        assert stage.summary in tasks[node.name]["doc"]
        assert all(f"`{port.name}`" in tasks[node.name]["doc"] for port in (*stage.inputs, *stage.outputs))


@needs_airflow
def test_a_run_that_ends_with_its_report_still_fails_with_its_gate(found: dict[str, Any]) -> None:
    verdict = found["dags"]["evaluate_champion"]["tasks"]["verdict"]
    assert (verdict["rule"], set(verdict["upstream"])) == ("all_success", {"dataset", "fetch", "evaluate", "gate", "report"})


@needs_airflow
def test_candidates_go_their_own_way_in_one_group(found: dict[str, Any]) -> None:
    tasks = found["dags"]["compile_and_deploy"]["tasks"]
    assert {name for name, task in tasks.items() if task["group"] == "candidate"} == {"qtable", "deploy", "evaluate"}
    assert {name for name, task in tasks.items() if task["group"] == "processor"} == {"fetch", "evaluate_champion", "gate"}
    assert tasks["register"]["group"] is None


@needs_airflow
def test_schedules_and_assets(found: dict[str, Any]) -> None:
    dags = found["dags"]
    assert [dags[name]["timetable"] for name in ("compile_and_deploy", "promote", "rollback")] == ["NullTimetable"] * 3
    assert dags["retrain_and_deploy"]["timetable"] == "AssetOrTimeSchedule"
    assert "bmflow_dataset" in dags["retrain_and_deploy"]["schedule"]
    assert contracts.pipeline("retrain_and_deploy").cron in dags["retrain_and_deploy"]["schedule"]
    assert contracts.pipeline("evaluate_champion").cron in dags["evaluate_champion"]["schedule"]
    assert not any(dag["catchup"] for dag in dags.values())
    assert dags["retrain_and_deploy"]["tasks"]["register"]["outlets"] == ["bmflow_bmodel"]


@needs_airflow
@PIPELINES
def test_the_form_has_every_setting_with_type_choices_and_help(graph: Pipeline, found: dict[str, Any]) -> None:
    params = found["dags"][graph.name]["params"]
    axes = {"processors", "precisions"} & set(params)
    assert set(params) == {setting.name for setting in graph.settings()} | {port.name for port in graph.inputs} | axes | {"backend"}
    types = {bool: "boolean", int: "integer", float: "number", str: "string"}
    for setting in graph.settings():
        field, param = params[setting.name], setting.param
        assert types[param.type] in ([field["schema"]["type"]] if isinstance(field["schema"]["type"], str) else field["schema"]["type"])
        assert field["schema"].get("enum") == (list(param.choices) or None)
        assert field["schema"].get("minimum") == param.least
        assert (field["value"] or param.type("")) == param.default if param.type is str else field["value"] == param.default
        assert field["help"] == param.help
    assert params["backend"]["schema"]["enum"] == list(BACKENDS)


@needs_airflow
def test_what_is_asked_first_stands_first(found: dict[str, Any]) -> None:
    for dag in found["dags"].values():
        sections = ["section" in param["schema"] for param in dag["params"].values()]
        assert sections == sorted(sections)
