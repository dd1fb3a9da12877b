"""Run a compiled pipeline on this machine: its containers' commands as processes, its loops, conditions and exit handler as they stand.

kfp's own local mode skips conditions, takes failures for success and does not run exit handlers after a failure; this goes by the
compiled file alone, with real exit codes. Images are not used: the commands find the Python and the packages that run this.

    FOLDER/artifacts/TASK/...      outputs of each task, its log.txt and executor_output.json
    FOLDER/run.json                what happened to every task
    CLAIMS/CLAIM/                  what is mounted from a volume claim
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from bmflow import artifacts
from bmflow.errors import InputError

from bmflow_components.children import Children, end
from bmflow_components.kubeflow import expression
from bmflow_components.kubeflow.placeholders import ExecutorInput, fill

_NO_COMMAND = 127
_PYTHONS = ("python", "python3")
_COMPLETED = "ALL_UPSTREAM_TASKS_COMPLETED"


class State(Enum):
    """What became of a task."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    """Its condition did not hold."""
    BLOCKED = "blocked"
    """What it needs failed, or was never made."""

    @property
    def bad(self) -> bool:
        """Whether tasks that need success must not start."""
        return self in (State.FAILED, State.BLOCKED)


@dataclass(frozen=True)
class Ended:
    """A task that has ended; `name` is its way through the loops: `exit-handler/for-each-processor[bm1684x]/gate`."""

    name: str
    state: State
    code: int | None = None
    tries: int = 0
    seconds: float = 0.0
    folder: str = ""


@dataclass(frozen=True)
class Order:
    """What is to be run.

    Attributes:
        spec, platform: the two documents of the file.
        folder: of the run.
        claims: folder that holds one folder for each volume claim.
        arguments: values of the pipeline's parameters.
        run_id: what `{{$.pipeline_job_uuid}}` stands for.
        jobs: processes at once.
        environment: where secrets and all else of processes come from.
    """

    spec: Mapping[str, Any]
    platform: Mapping[str, Any]
    folder: Path
    claims: Path
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    run_id: str = "run"
    jobs: int = 2
    python: str = sys.executable
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(frozen=True)
class _Inputs:
    """What a graph or container sees: parameters and artifacts by name."""

    parameters: Mapping[str, Any]
    artifacts: Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class _Outcome:
    state: State
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    artifacts: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict[str, Any])


def read(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The two documents of a compiled pipeline.

    Raises:
        InputError: it is none.
    """
    try:
        import yaml
    except ImportError as error:
        raise InputError(f"{path}: reading needs PyYAML, which is not installed; install the extra `kfp`") from error
    try:
        documents = list(yaml.safe_load_all(path.read_text()))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: expected a compiled pipeline, but it cannot be read ({error})") from error
    if not documents or not isinstance(documents[0], dict) or "root" not in documents[0] or len(documents) > 2:
        raise InputError(f"{path}: expected a compiled pipeline of one or two YAML documents, the first with `root` in it")
    return documents[0], documents[1] if len(documents) > 1 else {}


def arguments(spec: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of all parameters of a pipeline; texts are read as their type says, lists as JSON or between commas.

    Raises:
        InputError: a parameter is unknown, missing, or of another type.
    """
    known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    if unknown := sorted(set(given) - set(known)):
        raise InputError(f"{spec['pipelineInfo']['name']} has no parameter {unknown[0]}; it has {', '.join(sorted(known))}")
    found: dict[str, Any] = {}
    for name, definition in known.items():
        if name in given:
            found[name] = _typed(name, definition["parameterType"], given[name])
        elif "defaultValue" in definition:
            found[name] = definition["defaultValue"]
        elif not definition.get("isOptional"):
            raise InputError(f"{spec['pipelineInfo']['name']} needs {name}: {definition.get('description', 'it has no default')}")
    return found


def _typed(name: str, kind: str, value: Any) -> Any:
    if not isinstance(value, str) or kind == "STRING":
        return value
    try:
        if kind == "LIST" and not value.lstrip().startswith("["):
            return [part.strip() for part in value.split(",") if part.strip()]
        found = json.loads(value)
    except ValueError:
        found = None
    types = {"NUMBER_INTEGER": (int, float), "NUMBER_DOUBLE": (int, float), "BOOLEAN": (bool,), "LIST": (list,), "STRUCT": (dict,)}
    if not isinstance(found, types[kind]) or (isinstance(found, bool) and kind != "BOOLEAN"):
        raise InputError(f"parameter {name}: expected {kind}, found {value}")
    return found


class Execution:
    """One run; `ended` has every task in the order in which they ended."""

    def __init__(self, order: Order, show: Callable[[Ended], None] = lambda _: None) -> None:
        """Settle the parameters.

        Args:
            show: told of every task that has ended.

        Raises:
            InputError: see `arguments`.
        """
        self._order = order
        self._show = show
        self._arguments = arguments(order.spec, order.arguments)
        self._slots = threading.Semaphore(order.jobs)
        self._lock = threading.Lock()
        self._children = Children()
        self.ended: list[Ended] = []

    def run(self) -> int:
        """Run everything; returns the exit code of the first process that failed, 0 when none did."""
        self._order.folder.mkdir(parents=True, exist_ok=True)
        root = self._order.spec["root"]
        with self._children.interruptible():
            outcome = self._graph("", root, _Inputs(self._arguments, {}))
        codes = [item.code for item in self.ended if item.code]
        code = codes[0] if codes else 1 if outcome.state.bad else 0
        tasks = [{**vars(item), "state": item.state.value} for item in self.ended]
        content = {
            "schema": 1,
            "pipeline": self._order.spec["pipelineInfo"]["name"],
            "run": self._order.run_id,
            "exit_code": code,
            "tasks": tasks,
        }
        artifacts.write_text(self._order.folder / "run.json", json.dumps(content, indent=1) + "\n")
        return code

    def stop(self) -> None:
        """End all processes; nothing more is started."""
        self._children.stop()

    def _graph(self, way: str, component: Mapping[str, Any], given: _Inputs) -> _Outcome:
        """Run the tasks of a graph, each as soon as those before it have ended."""
        tasks: Mapping[str, Any] = component["dag"]["tasks"]
        outcomes: dict[str, _Outcome] = {}
        running: dict[Future[_Outcome], str] = {}
        with ThreadPoolExecutor(max(1, len(tasks))) as pool:
            while True:
                for name, task in tasks.items():
                    if name not in outcomes and name not in running.values() and all(before in outcomes for before in _before(task)):
                        running[pool.submit(self._task, f"{way}{name}", task, given, dict(outcomes))] = name
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    outcomes[running.pop(future)] = future.result()
        if left := set(tasks) - set(outcomes):
            raise InputError(f"{way or 'root'}: {', '.join(sorted(left))} wait for each other, or for tasks that there are none of")
        state = State.FAILED if any(outcome.state.bad for outcome in outcomes.values()) else State.DONE
        return _Outcome(state, *_outputs(component["dag"].get("outputs", {}), outcomes))

    def _task(self, way: str, task: Mapping[str, Any], around: _Inputs, before: Mapping[str, _Outcome]) -> _Outcome:
        """One task: a container or a graph, once or once for every item."""
        trigger = task.get("triggerPolicy", {})
        if trigger.get("strategy") != _COMPLETED and any(before[name].state.bad for name in _before(task)):
            return self._end(way, State.BLOCKED)
        component = self._order.spec["components"][task["componentRef"]["name"]]
        given = self._inputs(task, component, around, before)
        if given is None or self._children.stopping:
            return self._end(way, State.BLOCKED)
        if trigger.get("condition") and not expression.holds(trigger["condition"], given.parameters):
            return self._end(way, State.SKIPPED)
        if "artifactIterator" in task:
            raise InputError(f"{way}: a loop over artifacts, which this runner does not know")
        if "parameterIterator" in task:
            return self._loop(way, task, component, given)
        return self._once(way, task, component, given)

    def _once(self, way: str, task: Mapping[str, Any], component: Mapping[str, Any], given: _Inputs) -> _Outcome:
        return self._graph(f"{way}/", component, given) if "dag" in component else self._container(way, task, component, given)

    def _loop(self, way: str, task: Mapping[str, Any], component: Mapping[str, Any], given: _Inputs) -> _Outcome:
        """All rounds; one that fails ends none of the others."""
        iterator = task["parameterIterator"]
        items = iterator["items"]
        values = json.loads(items["raw"]) if "raw" in items else given.parameters[items["inputParameter"]]
        limit = task.get("iteratorPolicy", {}).get("parallelismLimit") or len(values) or 1
        with ThreadPoolExecutor(limit) as pool:
            rounds = [
                pool.submit(
                    self._once, f"{way}[{value}]", task, component,
                    _Inputs({**given.parameters, iterator["itemInput"]: value}, given.artifacts),
                )
                for value in values
            ]  # fmt: skip
            found = [item.result() for item in rounds]
        artifacts: dict[str, list[Mapping[str, Any]]] = {}
        for outcome in found:
            for name, items in outcome.artifacts.items():
                artifacts.setdefault(name, []).extend(items)
        names = {name for outcome in found for name in outcome.parameters}
        parameters = {name: [outcome.parameters.get(name) for outcome in found] for name in names}
        return _Outcome(State.FAILED if any(outcome.state.bad for outcome in found) else State.DONE, parameters, artifacts)

    def _inputs(
        self, task: Mapping[str, Any], component: Mapping[str, Any], around: _Inputs, before: Mapping[str, _Outcome]
    ) -> _Inputs | None:  # fmt: skip
        """What a task is given; None when something that it needs was never made."""
        given, defined = task.get("inputs", {}), component.get("inputDefinitions", {})
        parameters = {name: _parameter(source, self._order, around, before) for name, source in given.get("parameters", {}).items()}
        known = {name: value for name, value in parameters.items() if value is not None}
        for name, definition in defined.get("parameters", {}).items():
            if name not in known and "defaultValue" in definition:
                known[name] = definition["defaultValue"]
        found = {name: _artifact(source, around, before) for name, source in given.get("artifacts", {}).items()}
        there = {name: items for name, items in found.items() if items is not None}
        items = {task["parameterIterator"]["itemInput"]} if "parameterIterator" in task else set()
        for kind, have in (("parameters", {*known, *items}), ("artifacts", set(there))):
            if any(name not in have and not definition.get("isOptional") for name, definition in defined.get(kind, {}).items()):
                return None
        return _Inputs(known, there)

    def _end(self, way: str, state: State, code: int | None = None, tries: int = 0, seconds: float = 0.0, folder: str = "") -> _Outcome:
        ended = Ended(way, state, code, tries, round(seconds, 3), folder)
        with self._lock:
            self.ended.append(ended)
            self._show(ended)
        return _Outcome(state)

    def _container(self, way: str, task: Mapping[str, Any], component: Mapping[str, Any], given: _Inputs) -> _Outcome:
        """The command of a container as a process; what a failed one wrote is not handed on, as Kubeflow does not."""
        label = component["executorLabel"]
        container = self._order.spec["deploymentSpec"]["executors"][label].get("container")
        if container is None:
            raise InputError(f"{way}: its executor is no container, and this runner knows nothing else")
        folder = self._order.folder / "artifacts" / re.sub(r"[^A-Za-z0-9._/-]+", "-", way)
        folder.mkdir(parents=True, exist_ok=True)
        told = _told(component.get("outputDefinitions", {}), given, folder)
        platform = self._platform(label)
        words = [self._mounted(word, platform) for word in fill([*container["command"], *container.get("args", ())], told)]
        words[0] = self._order.python if words[0] in _PYTHONS else words[0]
        retry = task.get("retryPolicy", {})
        start, tries, code = time.monotonic(), 0, 1
        while tries <= retry.get("maxRetryCount", 0) and code and not self._children.stopping:
            if tries:
                time.sleep(_seconds(retry.get("backoffDuration", "0s")) * retry.get("backoffFactor", 2.0) ** (tries - 1))
            tries += 1
            with self._slots:
                code = self._process(words, self._environment(container, platform), folder / "log.txt", platform)
        state = State.FAILED if code else State.DONE
        ended = self._end(way, state, code, tries, time.monotonic() - start, str(folder.relative_to(self._order.folder)))
        return ended if code else _made(told)

    def _platform(self, label: str) -> Mapping[str, Any]:
        kubernetes = self._order.platform.get("platforms", {}).get("kubernetes", {})
        return kubernetes.get("deploymentSpec", {}).get("executors", {}).get(label, {})

    def _mounted(self, word: str, platform: Mapping[str, Any]) -> str:
        """A word whose paths below a mounted claim are those of the claim's folder here."""
        for mount in platform.get("pvcMount", ()):
            place = self._order.claims / mount["constant"]
            place.mkdir(parents=True, exist_ok=True)
            word = re.sub(rf"(^|=){re.escape(mount['mountPath'])}(?=/|$)", lambda match, to=place: f"{match.group(1)}{to}", word)
        return word

    def _environment(self, container: Mapping[str, Any], platform: Mapping[str, Any]) -> dict[str, str]:
        """This machine's variables, but of secrets only those of the container; then the container's own."""
        known = self._order.environment
        everyone = self._order.platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
        secret = {name for other in everyone.values() for name in _secrets(other)} - set(_secrets(platform))
        own = {item["name"]: item["value"] for item in container.get("env", ())}
        return {name: value for name, value in known.items() if name not in secret} | own

    def _process(self, words: Sequence[str], environment: Mapping[str, str], log: Path, platform: Mapping[str, Any]) -> int:
        with log.open("ab") as output:
            try:
                child = self._children.start(words, output, environment, log.parent)
            except OSError as error:
                output.write(f"{words[0]}: cannot be started on this machine ({error.strerror})\n".encode())
                return _NO_COMMAND
            if child is None:
                return 1
            try:
                return _shell_code(child.wait(float(platform.get("activeDeadlineSeconds") or 24 * 3600)))
            except subprocess.TimeoutExpired:
                output.write(f"stopped after {platform['activeDeadlineSeconds']} s, its limit\n".encode())
                return _shell_code(end(child)) or 1
            finally:
                self._children.forget(child)


def _before(task: Mapping[str, Any]) -> set[str]:
    """The tasks beside one that it waits for."""
    given = task.get("inputs", {})
    artifacts = (source.get("taskOutputArtifact") for source in given.get("artifacts", {}).values())
    parameters = (source.get("taskOutputParameter") for source in given.get("parameters", {}).values())
    return {*task.get("dependentTasks", ()), *(source["producerTask"] for source in (*artifacts, *parameters) if source)}


def _parameter(source: Mapping[str, Any], order: Order, around: _Inputs, before: Mapping[str, _Outcome]) -> Any:
    """The value of a parameter, None when there is none."""
    if "runtimeValue" in source:
        value = source["runtimeValue"]["constant"]
        if not isinstance(value, str):
            return value
        name = order.spec["pipelineInfo"]["name"]
        return value.replace("{{$.pipeline_job_uuid}}", order.run_id).replace("{{$.pipeline_job_name}}", f"{name}-{order.run_id}")
    if "taskOutputParameter" in source:
        found = source["taskOutputParameter"]
        value = before[found["producerTask"]].parameters.get(found["outputParameterKey"])
    elif "componentInputParameter" in source:
        value = around.parameters.get(source["componentInputParameter"])
    else:
        raise InputError(f"a parameter comes from {', '.join(source)}, which this runner does not know")
    selector = source.get("parameterExpressionSelector", "")
    return _selected(selector, value) if selector and value is not None else value


def _selected(selector: str, value: Any) -> Any:
    match = re.fullmatch(r'parseJson\(string_value\)\["([^"]+)"\]', selector)
    if not match:
        raise InputError(f"parameterExpressionSelector {selector}: this runner knows none but parseJson(string_value)[...]")
    return (json.loads(value) if isinstance(value, str) else value)[match[1]]


def _artifact(source: Mapping[str, Any], around: _Inputs, before: Mapping[str, _Outcome]) -> Sequence[Mapping[str, Any]] | None:
    if "taskOutputArtifact" in source:
        found = source["taskOutputArtifact"]
        return before[found["producerTask"]].artifacts.get(found["outputArtifactKey"])
    return around.artifacts.get(source["componentInputArtifact"])


def _outputs(
    defined: Mapping[str, Any], outcomes: Mapping[str, _Outcome]
) -> tuple[dict[str, Any], dict[str, Sequence[Mapping[str, Any]]]]:  # fmt: skip
    """What a graph hands on: of several sources the first that was made, as of two branches."""
    artifacts: dict[str, Sequence[Mapping[str, Any]]] = {}
    for name, definition in defined.get("artifacts", {}).items():
        for selector in definition["artifactSelectors"]:
            made = outcomes[selector["producerSubtask"]].artifacts.get(selector["outputArtifactKey"])
            if made is not None:
                artifacts.setdefault(name, made)
    parameters: dict[str, Any] = {}
    for name, definition in defined.get("parameters", {}).items():
        one = definition.get("valueFromParameter")
        for selector in [one] if one else definition["valueFromOneof"]["parameterSelectors"]:
            made = outcomes[selector["producerSubtask"]].parameters.get(selector["outputParameterKey"])
            if made is not None:
                parameters.setdefault(name, made)
    return parameters, artifacts


def _told(defined: Mapping[str, Any], given: _Inputs, folder: Path) -> ExecutorInput:
    """The executor input; outputs get names without suffix, as in Kubeflow's store."""
    outputs = {
        name: {"name": name, "type": definition["artifactType"], "uri": str(folder / name), "metadata": {}}
        for name, definition in defined.get("artifacts", {}).items()
    }
    files = {name: str(folder / f"{name}.parameter") for name in defined.get("parameters", {})}
    return ExecutorInput(given.parameters, given.artifacts, outputs, files, str(folder / "executor_output.json"))


def _made(told: ExecutorInput) -> _Outcome:
    """What a container made: its artifacts with the metadata that it wrote to the executor output."""
    file = Path(told.output_file)
    said: Mapping[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    artifacts = {name: said.get("artifacts", {}).get(name, {}).get("artifacts") or [item] for name, item in told.outputs.items()}
    parameters = dict(said.get("parameterValues", {}))
    for name, path in told.output_parameters.items():
        if name not in parameters and Path(path).is_file():
            parameters[name] = Path(path).read_text()
    return _Outcome(State.DONE, parameters, artifacts)


def _secrets(platform: Mapping[str, Any]) -> list[str]:
    return [key["envVar"] for secret in platform.get("secretAsEnv", ()) for key in secret["keyToEnv"]]


def _shell_code(code: int) -> int:
    """The exit code as a shell says it: 128 and the number of the signal that ended the process."""
    return code if code >= 0 else 128 - code


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))
