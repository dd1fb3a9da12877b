"""The one operator of all DAGs: it runs a stage where the run asks for it, and judges the end by exit code and result.json."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, BaseOperator, BaseOperatorLink
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from bmflow_components import contracts
from bmflow_components.airflow_dags import backends
from bmflow_components.airflow_dags.backends import Order
from bmflow_components.airflow_dags.processes import LimitError, Supervised
from bmflow_components.airflow_dags.run import Ready, RefusedError, Run, is_remote
from bmflow_components.pipelines import Item, Runs, Task
from bmflow_components.ports import RESULT

PLAN = "plan"
OUTCOME = "outcome"
BMODEL = Asset("bmflow_bmodel", uri="bmflow://bmodel")
_STATUS = {contracts.DONE: "done", contracts.BAD_INPUT: "bad_input", contracts.BELOW_BAR: "below_bar"}
_MOST_FIGURES = 24


class ReportLink(BaseOperatorLink):
    """To the report that the task wrote."""

    LABEL = "Report"

    @property
    def name(self) -> str:
        """What the page shows."""
        return self.LABEL

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Its address, empty for tasks that write none."""
        return getattr(operator, "links", {}).get(self.LABEL, "")


class TrackingLink(ReportLink):
    """To the run in MLflow."""

    LABEL = "MLflow run"


class StageTask(BaseOperator):
    """Runs a node of a pipeline at one place of its axes.

    Retried for failures of the machinery alone, as often as the stage's description says.
    """

    template_fields = ("item",)
    operator_extra_links = (ReportLink(), TrackingLink())
    ui_color = "#e8f0fe"

    def __init__(self, *, node: str, item: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.node = node
        self.item = item
        self.links: dict[str, str] = {}
        self._supervised: Supervised | None = None
        self._pod: Any = None

    @property
    def place(self) -> str:
        """Where it stands on the axes: `bm1684x/INT8`."""
        return str(Item(**(self.item or {})))

    def execute(self, context: Any) -> dict[str, Any]:
        """Run the stage; gives its outcome as small JSON."""
        ti = context["ti"]
        run = _run_of(ti)
        task = run.task(self.node, Item(**(self.item or {})))
        if task is None:
            raise AirflowSkipException(f"{self.node} does not run for {self.place}")
        order = Order(run, task, _readiness(task, ti))
        limit = ""
        try:
            code = self._end(order, context)
        except RefusedError as error:
            raise AirflowFailException(str(error)) from error
        except LimitError as error:
            code, limit = contracts.FAILED, f"{task.name} was {error}; the list of stages sets it"
        outcome = _outcome(run, task, code)
        ti.xcom_push(key=OUTCOME, value=outcome)
        self._show(run, task, outcome)
        self._judge(task, outcome, limit)
        self._tell(outcome, context)
        return outcome

    def on_kill(self) -> None:
        """Airflow stops the task."""
        if self._supervised is not None:
            self._supervised.stop()
        if self._pod is not None:
            self._pod.on_kill()

    def _end(self, order: Order, context: Any) -> int:
        """Run it on the backend of the run; gives the exit code."""
        if order.run.backend == "k8s":
            return self._end_of_pod(order, context)
        if order.run.backend == "podman":
            return self._end_of_container(order)
        return self._end_of_process(order, backends.local_command(order))

    def _end_of_process(self, order: Order, words: list[str]) -> int:
        hidden = backends.secret_values(order.stage, os.environ)

        def say(line: str) -> None:
            for secret in hidden:
                line = line.replace(secret, "***")
            self.log.info("%s", line)

        env = backends.environment(order.stage, order.run, os.environ)
        self._supervised = Supervised(words, env, say, order.stage.resources.timeout_s)
        code = self._supervised.run()
        if self._supervised.stopped:
            raise AirflowException(f"{order.task.name}: stopped; no output was written")
        return code

    def _end_of_container(self, order: Order) -> int:
        if shutil.which("podman") is None:
            raise RefusedError("backend podman: podman is not installed on this worker; install it or choose another backend")
        try:
            return self._end_of_process(order, backends.podman_command(order, os.environ))
        finally:
            name = backends.container_name(order)
            subprocess.run(["podman", "rm", "--force", "--ignore", "--time=0", name], capture_output=True, check=False, timeout=60)

    def _end_of_pod(self, order: Order, context: Any) -> int:
        try:
            from bmflow_components.airflow_dags import pods
        except ImportError as error:
            raise RefusedError(f"backend k8s needs the provider apache-airflow-providers-cncf-kubernetes ({error})") from error
        self._pod = pods.operator(order, self.task_id)
        try:
            self._pod.execute(context)
        except AirflowException:
            if self._pod.exit_code is None:  # it never ran to an end: evicted, image not pulled, node gone
                raise
            return self._pod.exit_code
        return contracts.DONE

    def _show(self, run: Run, task: Task, outcome: Mapping[str, Any]) -> None:
        """Links of the page, and lines of the log that say what came of it."""
        figures = "  ".join(f"{name} {value:.6g}" for name, value in outcome["metrics"].items())
        self.log.info("%s: %s  %s", task.name, outcome["status"], figures)
        if "report" in outcome["digests"] and task.stage.name == "report":
            self.links[ReportLink.LABEL] = address(run, run.path(task, "report"))
        if outcome["facts"].get("link"):
            self.links[TrackingLink.LABEL] = outcome["facts"]["link"]
        for name, link in self.links.items():
            self.log.info("%s: %s", name, link)

    def _judge(self, task: Task, outcome: Mapping[str, Any], limit: str) -> None:
        """Let a failure of the machinery be tried again, and nothing else."""
        code = outcome["exit_code"]
        if code == contracts.DONE:
            return
        why = limit or f"{task.name}: {outcome['status']} (exit {code}). {outcome['error'] or 'Its own words are above.'}"
        if not limit and contracts.may_retry(task.stage, code, outcome["retryable"]):
            raise AirflowException(why)
        raise AirflowFailException(why)

    def _tell(self, outcome: Mapping[str, Any], context: Any) -> None:
        """Say what was registered with the event of the asset."""
        if BMODEL in self.outlets:
            context["outlet_events"][BMODEL].extra = {"task": outcome["task"], **outcome["facts"]}


def address(run: Run, path: str) -> str:
    """What a browser opens for a file of the run: below BMFLOW_RUNS_URL where the run root is served, else the file itself."""
    base = os.environ.get("BMFLOW_RUNS_URL", "").rstrip("/")
    if base and path.startswith(run.root):
        return base + path.removeprefix(run.root.rstrip("/"))
    return path if is_remote(path) else f"file://{path}"


def _run_of(ti: Any) -> Run:
    data = ti.xcom_pull(task_ids=PLAN)
    if not data:
        raise AirflowFailException(f"the settings of this run were refused; the log of the task `{PLAN}` says why")
    return Run.parse(data)


def _readiness(task: Task, ti: Any) -> Ready:
    """Which outputs of the tasks before may be read; asked for only where a task may start without some of them."""
    if task.node.runs is Runs.ALL:
        return lambda name, port: True
    names = {name for sources in task.inputs.values() for name, _ in sources if name}
    found = {outcome["task"]: outcome for node in sorted({name.partition("[")[0] for name in names}) for outcome in _outcomes(ti, node)}

    def ready(name: str, port: str) -> bool:
        outcome = found.get(name)
        if outcome is None:
            return False
        if port == RESULT.name:
            return outcome["written"] and (task.node.runs is Runs.ALWAYS or outcome["status"] == "done" or outcome["candidate"])
        return port in outcome["digests"] and (task.node.runs is Runs.ALWAYS or outcome["status"] == "done")

    return ready


def _outcomes(ti: Any, node: str) -> list[dict[str, Any]]:
    """Outcomes of a node in this run, of one task or of all it is mapped to."""
    found = ti.xcom_pull(task_ids=node, key=OUTCOME)
    entries = [found] if isinstance(found, Mapping) else list(found or ())
    return [dict(entry) for entry in entries if entry]


def _outcome(run: Run, task: Task, code: int) -> dict[str, Any]:
    """What is told to other tasks: status, figures and digests from result.json, never data."""
    result = _result(run.path(task, RESULT.name), code)
    ended = result is not None or is_remote(run.root) or run.backend == "k8s"
    result = result or {}
    complete = code in (contracts.DONE, contracts.BELOW_BAR)
    digests = {port: item["digest"] for port, item in result.get("outputs", {}).items()}
    if complete and not digests:  # result.json lies where this worker cannot read it
        digests = {port.name: "" for port in task.stage.outputs}
    return {
        "task": task.name, "candidate": task.is_candidate, "exit_code": code,
        "status": _STATUS.get(code) or result.get("status") or "killed", "error": result.get("error", ""),
        "retryable": result.get("retryable"), "key": result.get("key", ""), "written": ended, "digests": digests if complete else {},
        "metrics": dict(list(result.get("metrics", {}).items())[:_MOST_FIGURES]), "facts": result.get("facts", {}),
        "seconds": result.get("seconds", {}).get("total"), "folder": f"{run.folder}/{task.folder}",
    }  # fmt: skip


def _result(path: str, code: int) -> dict[str, Any] | None:
    """result.json, None when this worker cannot read it or another process than this one wrote it."""
    try:
        text = _read(path)
        found = json.loads(text)
    except (OSError, ValueError, ImportError):
        return None
    return found if found.get("exit_code") == code else None


def _read(path: str) -> str:
    if not is_remote(path):
        return Path(path.removeprefix("file://")).read_text()
    import fsspec

    opened: Any = fsspec.open(path, "rt")
    with opened as file:
        return file.read()
