"""Make a DAG of a pipeline: `build("retrain_and_deploy")`.

The first task, `plan`, settles the run and lists the places of the axes. Nodes with the same axes that follow each other become one
mapped group, so that each candidate goes its own way; a single one is mapped by itself. The other tasks are the graph's, one to one,
but for a last one, `verdict`, where a run would otherwise end with a task that runs in any case.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, CronTriggerTimetable, TriggerRule, get_current_context, task, task_group
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import AirflowFailException

from bmflow_components import contracts
from bmflow_components.airflow_dags import backends, form
from bmflow_components.airflow_dags.run import RefusedError, Run, safe_name, settle, upstream
from bmflow_components.airflow_dags.stage_task import BMODEL, PLAN, StageTask
from bmflow_components.pipelines import Node, Pipeline, Runs, items
from bmflow_components.ports import Port, Stage, Value

DATASET = Asset("bmflow_dataset", uri="bmflow://dataset")
"""An event of it starts retraining; its `extra` may name `repo`, `rev` and `path`."""
START = datetime(2026, 1, 1, tzinfo=UTC)
_EVENT = ("repo", "rev", "path")


def build(name: str) -> DAG:
    """The DAG of a pipeline; KeyError when there is none."""
    graph = contracts.pipeline(name)
    dag = DAG(
        name, description=graph.summary, doc_md=_page(graph), schedule=_schedule(graph), start_date=START, catchup=False,
        is_paused_upon_creation=bool(graph.cron),
        params=ParamsDict(form.fields(graph)), tags=["bmflow"], render_template_as_native_obj=True, default_args={"pool": _pool()},
    )  # fmt: skip
    with dag:
        _wire(graph, _plan(graph))
    return dag


def _schedule(graph: Pipeline) -> Any:
    if not graph.cron:
        return None
    clock = CronTriggerTimetable(graph.cron, timezone="UTC")
    return AssetOrTimeSchedule(timetable=clock, assets=[DATASET]) if graph.on_data else clock


def _pool() -> str:
    return os.environ.get("BMFLOW_POOL") or "default_pool"


def run_root() -> str:
    """Where all runs lie: BMFLOW_RUN_ROOT, a folder or URI; by default `runs` in AIRFLOW_HOME."""
    home = Path(os.environ.get("AIRFLOW_HOME") or Path.home() / "airflow")
    return (os.environ.get("BMFLOW_RUN_ROOT") or str(home / "runs")).rstrip("/")


def _plan(graph: Pipeline) -> Any:
    """The task that settles the run."""

    @task(task_id=PLAN, doc_md="Check the settings of the run.")
    def plan() -> dict[str, Any]:
        context: Any = get_current_context()
        try:
            run = settle(graph, context["params"], safe_name(context["run_id"]), run_root(), _overrides(graph, context))
            backends.check(run, os.environ)
        except RefusedError as error:
            raise AirflowFailException(str(error)) from error
        return run.json()

    return plan()


def _overrides(graph: Pipeline, context: Mapping[str, Any]) -> dict[str, Value]:
    """What the dataset event that started the run says, and a reason for the record that leads back to this run."""
    settings = {setting.name for setting in graph.settings()}
    found: dict[str, Value] = {}
    if "reason" in settings and not context["params"].get("reason"):
        found["reason"] = f"Airflow {graph.name} {context['run_id']}"
    events = (context.get("triggering_asset_events") or {}) if graph.on_data else {}
    for event in events.get(DATASET, ()):
        found |= {f"dataset_{name}": event.extra[name] for name in _EVENT if event.extra.get(name)}
    return {name: value for name, value in found.items() if name in settings}


def _places(node: Node, plan: Any) -> Any:
    """The task that lists the places of a set of axes."""
    stage, over = node.stage, node.over

    @task(task_id=f"{_axis(node)}s", doc_md=f"List every {_axis(node)} of the run.")
    def places(run: dict[str, Any]) -> list[dict[str, str]]:
        settled = Run.parse(run)
        return [vars(item) for item in items(Node("", stage, over=over), settled.processors, settled.precisions)]

    return places(plan)


def _axis(node: Node) -> str:
    """What a node runs once for."""
    return "candidate" if "quantize" in node.over else "processor"


def _wire(graph: Pipeline, plan: Any) -> None:
    places = {node.over: node for node in graph.nodes if node.over}
    lists = {over: _places(node, plan) for over, node in places.items()}
    made: dict[str, Any] = {}
    for nodes in groups(graph):
        first = nodes[0]
        if first.over and len(nodes) > 1:
            _mapped_group(graph, nodes, lists[first.over], made)
        elif first.over:
            made[first.name] = StageTask.partial(**_settings(graph, first)).expand(item=lists[first.over])
        else:
            made[first.name] = StageTask(**_settings(graph, first))
    for node in graph.nodes:
        before = upstream(graph, node)
        for name in before:
            made[node.name].set_upstream(made[name])
        if not before and not node.over:
            made[node.name].set_upstream(plan)
    if ends := _ends_always(graph):
        _verdict().set_upstream([made[name] for name in ends])


def _ends_always(graph: Pipeline) -> tuple[str, ...]:
    """The nodes that decide whether the run succeeded, where its last one runs in any case and would say nothing about that."""
    last = [node for node in graph.nodes if not any(node.name in upstream(graph, other) for other in graph.nodes)]
    if all(node.runs is not Runs.ALWAYS for node in last):
        return ()
    return tuple(node.name for node in graph.nodes if "quantize" not in node.over)


def _verdict() -> Any:
    @task(task_id="verdict", doc_md="Fails with any task before it, so that the run does.")
    def verdict() -> None:
        return None

    return verdict()


def _mapped_group(graph: Pipeline, nodes: Sequence[Node], places: Any, made: dict[str, Any]) -> None:
    """Tasks that go through one place after the other by themselves, however it goes elsewhere."""
    name = _axis(nodes[0])

    @task_group(group_id=name, prefix_group_id=False, tooltip=f"once for every {name}")
    def group(item: Any) -> None:
        for node in nodes:
            made[node.name] = StageTask(item=item, **_settings(graph, node))

    group.expand(item=places)


def groups(graph: Pipeline) -> list[tuple[Node, ...]]:
    """Nodes that belong together, in an order that respects the links: each without axes by itself, others with the same axes joined
    unless a way between two of them leads through a node outside."""
    found: list[list[Node]] = []
    for node in graph.nodes:
        home = next((group for group in found if _may_join(graph, group, node)), None)
        if home is None:
            found.append([node])
        else:
            home.append(node)
    return [tuple(group) for group in found]


def _may_join(graph: Pipeline, group: Sequence[Node], node: Node) -> bool:
    if not node.over or group[0].over != node.over:
        return False
    names = {member.name for member in group}
    outside = [name for name in upstream(graph, node) if name not in names]
    return not any(names & _ancestors(graph, name) for name in outside)


def _ancestors(graph: Pipeline, name: str) -> set[str]:
    before = upstream(graph, graph.node(name))
    return set(before).union(*(_ancestors(graph, other) for other in before))


def _settings(graph: Pipeline, node: Node) -> dict[str, Any]:
    """Arguments of a node's task."""
    stage = contracts.stage(node.stage)
    settings: dict[str, Any] = {
        "task_id": node.name, "node": node.name, "trigger_rule": _rule(graph, node), "doc_md": _doc(stage), "retries": stage.retries,
        "retry_delay": _retry_delay(), "retry_exponential_backoff": True, "max_retry_delay": timedelta(minutes=5),
    }  # fmt: skip
    if node.over:
        settings["map_index_template"] = "{{ task.place }}"
    if stage.name == "register":
        settings["outlets"] = [BMODEL]
    return settings


def _retry_delay() -> timedelta:
    return timedelta(seconds=float(os.environ.get("BMFLOW_RETRY_S") or 15))


def _rule(graph: Pipeline, node: Node) -> TriggerRule:
    if node.runs is not Runs.ALL:
        return TriggerRule.ALL_DONE
    skips = any(graph.node(name).only for name in upstream(graph, node))
    return TriggerRule.NONE_FAILED if skips else TriggerRule.ALL_SUCCESS


def _page(graph: Pipeline) -> str:
    """The text on the DAG's page."""
    inputs = "\n".join(f"* `{port.name}`: {port.help}{' (optional)' if port.optional else ''}" for port in graph.inputs)
    stages = "\n".join(f"* `{node.name}`: {contracts.stage(node.stage).summary}" for node in graph.nodes)
    return "\n\n".join(part for part in (graph.summary, inputs and f"### Inputs\n{inputs}", f"### Tasks\n{stages}") if part)


def _doc(stage: Stage) -> str:
    """The text on a task's page."""
    row: Callable[[str, Port], str] = lambda what, port: f"| {what} | `{port.name}` | {port.help} |"  # noqa: E731
    ports = [*(row("in", port) for port in stage.inputs), *(row("out", port) for port in stage.outputs)]
    params = [f"| `{param.name}` | `{param.text(param.default)}` | {param.help} |" for param in stage.params]
    limits = f"{stage.resources.cpu} cores, {stage.resources.memory}, at most {stage.resources.timeout_s} s, {stage.retries} retries"
    tables = "\n".join(["| | port | |", "|---|---|---|", *ports, "", "| parameter | default | |", "|---|---|---|", *params])
    return f"{stage.summary}\n\n{tables}\n\nRuns with {limits}; {'with' if stage.network else 'without'} network."
