"""Work with the DAGs in a process of its own, so that tests stay free of Airflow's imports and settings.

dag_driver.py describe OUT              structure of every DAG, time and modules of the import
dag_driver.py run SCENARIOS OUT         run scenarios one after the other, in process
dag_driver.py pods OUT                  the pod of every stage, as KubernetesPodOperator asks the cluster for it
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

DAGS = Path(__file__).resolve().parents[2] / "dags"
ABSENT = {"numpy", "onnx", "onnxruntime", "mlflow", "cv2", "xdsl", "torch", "dvc", "kfp", "pandas", "PIL", "pycocotools", "bmflow"}


class Blocker:
    """Makes modules look as if they were not installed."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse those of ABSENT."""
        if name.partition(".")[0] in ABSENT:
            self.asked.add(name)
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)


def dags() -> dict[str, Any]:
    """Every DAG by id."""
    sys.path.insert(0, str(DAGS))
    return {file.stem: importlib.import_module(file.stem).dag for file in sorted(DAGS.glob("*.py"))}


def describe() -> dict[str, Any]:
    """Structure of every DAG, imported without anything of the components' environment."""
    import airflow.sdk  # noqa: F401 (its own time is no concern of ours)

    blocker = Blocker()
    sys.meta_path.insert(0, blocker)
    known = set(sys.modules)
    start = time.process_time()
    found = dags()
    seconds = time.process_time() - start
    new = {name.partition(".")[0] for name in set(sys.modules) - known}
    return {
        "seconds": seconds,
        "asked": sorted(blocker.asked),
        "modules": sorted(new),
        "dags": {name: dag_facts(dag) for name, dag in found.items()},
    }


def dag_facts(dag: Any) -> dict[str, Any]:
    """What tests look at."""
    params = {name: param_facts(dag.params.get_param(name)) for name in dag.params}
    return {
        "id": dag.dag_id, "timetable": type(dag.timetable).__name__, "schedule": repr(dag.timetable), "doc": dag.doc_md, "catchup": dag.catchup,
        "params": json.loads(json.dumps(params, default=lambda value: None)), "tasks": {task.task_id: task_facts(task) for task in dag.tasks},
    }  # fmt: skip


def param_facts(param: Any) -> dict[str, Any]:
    """What tests look at."""
    return {"value": param.dump()["value"], "schema": param.schema, "help": param.description}


def task_facts(task: Any) -> dict[str, Any]:
    """What tests look at."""
    return {
        "upstream": sorted(task.upstream_task_ids), "rule": task.trigger_rule.value, "retries": task.retries, "doc": task.doc_md or "",
        "group": task.task_group.group_id, "mapped": task.is_mapped or bool(list(task.iter_mapped_task_groups())), "name": task.map_index_template,
        "outlets": [str(outlet.name) for outlet in task.outlets],
    }  # fmt: skip


def run(scenarios: list[dict[str, Any]]) -> dict[str, Any]:
    """States and times of the tasks of each scenario by its name."""
    from bmflow_components.airflow_dags import once

    once.prepare()
    return {scenario["name"]: run_one(scenario) for scenario in scenarios}


def run_one(scenario: dict[str, Any]) -> dict[str, Any]:
    """Run one scenario."""
    from bmflow_components.airflow_dags import once

    if "plan" in scenario:
        Path(os.environ["STAND_IN"]).write_text(json.dumps(scenario["plan"]))
    start = time.perf_counter()
    ended = once.run(scenario["dag"], scenario.get("conf", {}), datetime.fromisoformat(scenario["date"]) if "date" in scenario else None)
    tasks = {
        f"{item.task_id}[{item.map_index}]" if item.map_index >= 0 else item.task_id: {
            "state": str(item.state), "name": item.rendered_map_index, "tries": item.try_number,
            "start": item.start_date and item.start_date.timestamp(), "end": item.end_date and item.end_date.timestamp(),
        }
        for item in ended.get_task_instances()
    }  # fmt: skip
    return {"state": str(ended.state), "run": ended.run_id, "seconds": time.perf_counter() - start, "tasks": tasks}


def pods() -> dict[str, Any]:
    """The pod request of every stage."""
    from bmflow_components import contracts
    from bmflow_components.airflow_dags import pods
    from bmflow_components.airflow_dags.backends import Order
    from bmflow_components.airflow_dags.run import Run, settle
    from kubernetes.client import ApiClient

    found: dict[str, Any] = {}
    for graph in contracts.PIPELINES:
        form = {
            "backend": "k8s",
            "processors": ["bm1684x"],
            "precisions": ["MIXED"],
            **{port.name: f"/runs/{port.file}" for port in graph.inputs},
        }
        order: Run = settle(graph, form, "test", "/runs", {})
        for task in order.tasks.values():
            operator = pods.operator(Order(order, task, lambda name, port: True), task.node.name)
            found[f"{graph.name}.{task.name}"] = ApiClient().sanitize_for_serialization(operator.build_pod_request_obj())
    return found


def ends() -> dict[str, Any]:
    """Exit code, or name of the exception, by the way a pod ends."""
    from types import SimpleNamespace as Fake

    from airflow.sdk.exceptions import AirflowException
    from bmflow_components import contracts
    from bmflow_components.airflow_dags import pods
    from bmflow_components.airflow_dags.backends import Order
    from bmflow_components.airflow_dags.run import settle
    from bmflow_components.airflow_dags.stage_task import StageTask

    run = settle(contracts.pipeline("promote"), {"backend": "k8s"}, "test", "/runs", {})
    order = Order(run, run.tasks["promote"], lambda name, port: True)

    def ended(code: int | None) -> Any:
        state = Fake(terminated=Fake(exit_code=code) if code is not None else None)
        pod = Fake(status=Fake(container_statuses=[Fake(name="base", state=state)]))

        def execute(self: Any, context: Any) -> None:
            self._killed = True  # so that the provider's own clean-up, which asks the cluster, has nothing to do
            self.cleanup(pod, pod)
            if code != 0:
                raise AirflowException("the pod failed")

        pods.StagePod.execute = execute
        try:
            return StageTask(task_id="promote", node="promote")._end_of_pod(order, {})
        except Exception as error:
            return type(error).__name__

    return {str(code): ended(code) for code in (0, 1, 2, 3, 137, None)}


def main() -> None:
    """Entry."""
    verb, *paths = sys.argv[1:]
    answer = run(json.loads(Path(paths[0]).read_text())) if verb == "run" else {"describe": describe, "pods": pods, "ends": ends}[verb]()
    Path(paths[-1]).write_text(json.dumps(answer, indent=1))


if __name__ == "__main__":
    main()
