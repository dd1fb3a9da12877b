"""Run a pipeline on this machine: every task a process, as many at once as allowed, each skipped when it is done already.

    ROOT/PIPELINE/RUN/NODE[/PROCESSOR-TYPE]/   outputs, result.json, log.txt
    ROOT/PIPELINE/RUN/run.json                 what happened to every task

The same run id again goes on where the run stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from bmflow import artifacts
from bmflow.errors import InputError

from bmflow_components import contracts
from bmflow_components.children import Children, end
from bmflow_components.contracts import Pipeline, Runs, Stage, Task, Value
from bmflow_components.ports import RESULT
from bmflow_components.result import Result
from bmflow_components.uri import is_remote

_RETRY_S = 5.0
Wrap = Callable[[Stage, list[str], Path], list[str]]


class State(Enum):
    """What became of a task."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    KEPT = "kept"
    """Done before, outputs intact."""
    BELOW_BAR = "below the bar"
    FAILED = "failed"
    BLOCKED = "blocked"
    """What it needs did not succeed."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self not in (State.WAITING, State.RUNNING)

    @property
    def succeeded(self) -> bool:
        """Whether its outputs may be used by tasks that need success."""
        return self in (State.DONE, State.KEPT)


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        folder: the run's folder.
        inputs: path or URI by the pipeline's input.
        settings: values by setting.
        jobs: processes at once.
        cache: folder of finished work, empty for none.
        wrap: turns a command into one that runs it elsewhere, given the stage and the run's root, such as in a container.
    """

    pipeline: Pipeline
    folder: Path
    processors: Sequence[str]
    precisions: Sequence[str]
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    settings: Mapping[str, Value] = field(default_factory=dict[str, Value])
    jobs: int = 2
    cache: str = ""
    python: str = sys.executable
    wrap: Wrap | None = None
    retry_s: float = _RETRY_S


@dataclass
class Progress:
    """A task's state as it is shown."""

    task: Task
    state: State = State.WAITING
    code: int | None = None
    seconds: float = 0.0
    started: float = 0.0
    result: Result | None = None
    tries: int = 0


Show = Callable[[Progress], None]


class Runner:
    """One run; `progress` is by task name, in the graph's order."""

    def __init__(self, plan: Plan, show: Show = lambda _: None) -> None:
        """Expand the graph and check the settings.

        Raises:
            InputError: an input is missing or unknown, or a setting is unknown.
        """
        _check(plan)
        self._plan = plan
        self._show = show
        tasks = contracts.expand(plan.pipeline, plan.processors, plan.precisions, list(plan.inputs))
        self.progress = {task.name: Progress(task) for task in tasks}
        self._children = Children()

    def run(self) -> int:
        """Run every task that can run; returns the exit code of the run.

        0: done. Otherwise the code of the first task that failed; a candidate that failed counts only when the gate had none left.
        """
        self._plan.folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(self._plan.jobs) as pool, self._children.interruptible():
            running: dict[Future[None], str] = {}
            while True:
                for item in self._startable(len(running)):
                    item.state, item.started = State.RUNNING, time.monotonic()
                    self._show(item)
                    running[pool.submit(self._execute, item)] = item.task.name
                if not running:
                    break
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                    running.pop(future)
                self._write_summary()
        self._write_summary()
        return self.exit_code()

    def exit_code(self) -> int:
        """The run's exit code."""
        failed = [item for item in self.progress.values() if item.state in (State.FAILED, State.BELOW_BAR)]
        whole = [item for item in failed if not item.task.is_candidate]
        blocked = [item for item in self.progress.values() if item.state in (State.BLOCKED, State.WAITING) and not item.task.is_candidate]
        if whole:
            return whole[0].code or contracts.FAILED
        return (failed[0].code or contracts.FAILED) if failed and blocked else contracts.FAILED if blocked else contracts.DONE

    def stop(self) -> None:
        """End all processes; nothing more is started."""
        self._children.stop()

    def _startable(self, running: int) -> list[Progress]:
        """Tasks whose turn it is; those that never can start become blocked on the way."""
        found: list[Progress] = []
        for item in self.progress.values():
            if item.state is not State.WAITING or self._children.stopping or not self._all_ended(item.task):
                continue
            if self._inputs(item.task) is None:
                item.state = State.BLOCKED
                self._show(item)
            elif len(found) + running < self._plan.jobs:
                found.append(item)
        return found

    def _all_ended(self, task: Task) -> bool:
        return all(self.progress[name].state.ended for links in task.inputs.values() for name, _ in links if name)

    def _inputs(self, task: Task) -> dict[str, list[str]] | None:
        """Paths by port; None when something that the task needs is not there."""
        found: dict[str, list[str]] = {}
        for name, links in task.inputs.items():
            port = task.stage.input(name)
            paths = [path for link in links if (path := self._path(link, task.node.runs)) is not None]
            whole, spared = len(paths) == len(links), port.optional and name not in task.node.needs
            some = bool(paths) or spared
            enough = {Runs.ALL: whole, Runs.SOME: some if port.many else whole, Runs.ALWAYS: some}
            if not enough[task.node.runs]:
                return None
            if paths:
                found[name] = paths
        return found

    def _path(self, link: tuple[str, str], runs: Runs) -> str | None:
        name, output = link
        if not name:
            return self._plan.inputs[output]
        before = self.progress[name]
        folder = self._plan.folder / before.task.folder
        if output == RESULT.name:
            path = folder / RESULT.file
            usable = runs is Runs.ALWAYS or before.state.succeeded or before.task.is_candidate
            return str(path) if before.result and usable and path.is_file() else None
        if before.state.succeeded or (runs is Runs.ALWAYS and before.result and before.result.has_outputs):
            return str(folder / before.task.stage.output(output).file)
        return None

    def _command(self, task: Task) -> list[str]:
        folder = self._plan.folder / task.folder
        inputs = self._inputs(task) or {}
        outputs = {port.name: str(folder / port.file) for port in task.stage.outputs}
        params = {**self._settings(task), **task.params}
        words = contracts.argv(task.stage, inputs, outputs, params, str(folder / RESULT.file), self._plan.python)
        if self._plan.cache:
            words += ["--cache", self._plan.cache]
        return self._plan.wrap(task.stage, words, self._plan.folder) if self._plan.wrap else words

    def _settings(self, task: Task) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for setting in self._plan.pipeline.settings():
            if task.stage.name in setting.stages:
                found[setting.param.name] = self._plan.settings.get(setting.name, setting.param.default)
        return found

    def _execute(self, item: Progress) -> None:
        """Run one task to its end, with further tries after failures of the machinery."""
        folder = self._plan.folder / item.task.folder
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            item.tries += 1
            item.code = self._once(item.task, folder)
            item.result = _read_result(folder)
            item.seconds = time.monotonic() - item.started
            retryable = item.result.retryable if item.result else None
            if (
                item.tries > item.task.stage.retries
                or self._children.stopping
                or not contracts.may_retry(item.task.stage, item.code, retryable)
            ):
                break
            time.sleep(self._plan.retry_s * 2 ** (item.tries - 1))
        item.state = _state(item)
        self._show(item)

    def _once(self, task: Task, folder: Path) -> int:
        command = self._command(task)
        known = folder / RESULT.file
        stale = known.stat().st_mtime_ns if known.is_file() else 0
        with (folder / "log.txt").open("ab") as log:
            child = self._children.start(command, log)
            if child is None:
                return contracts.FAILED
            try:
                code = child.wait(task.stage.resources.timeout_s)
            except subprocess.TimeoutExpired:
                code = end(child)
                log.write(f"stopped after {task.stage.resources.timeout_s} s, the limit of the stage\n".encode())
            finally:
                self._children.forget(child)
        if code not in (contracts.DONE, contracts.BELOW_BAR) and known.is_file() and known.stat().st_mtime_ns == stale:
            known.unlink()  # a process that died could not say so; what an earlier one said must not be taken for its word
        return code

    def _write_summary(self) -> None:
        tasks = [
            {
                "task": item.task.name, "stage": item.task.stage.name, "state": item.state.value, "exit_code": item.code, "tries": item.tries,
                "seconds": round(item.seconds, 3), "folder": item.task.folder, "error": item.result.error if item.result else "",
            }
            for item in self.progress.values()
        ]  # fmt: skip
        content = {
            "schema": 1,
            "pipeline": self._plan.pipeline.name,
            "run": self._plan.folder.name,
            "exit_code": self.exit_code(),
            "tasks": tasks,
        }
        artifacts.write_text(self._plan.folder / "run.json", json.dumps(content, indent=1) + "\n")


def _state(item: Progress) -> State:
    if item.code == contracts.DONE:
        return State.KEPT if item.result and "skipped" in item.result.seconds else State.DONE
    return State.BELOW_BAR if item.code == contracts.BELOW_BAR else State.FAILED


def _read_result(folder: Path) -> Result | None:
    path = folder / RESULT.file
    return Result.parse(path.read_text()) if path.is_file() else None


def _check(plan: Plan) -> None:
    known = {port.name: port for port in plan.pipeline.inputs}
    if unknown := sorted(set(plan.inputs) - set(known)):
        raise InputError(f"{plan.pipeline.name} has no input {unknown[0]}; it has {', '.join(known) or 'none'}")
    for port in known.values():
        if not port.optional and port.name not in plan.inputs:
            raise InputError(f"{plan.pipeline.name} needs --input {port.name}=PATH: {port.help}")
    for name, path in plan.inputs.items():
        if not is_remote(path) and not Path(path).exists():
            raise InputError(f"--input {name}={path}: no such file or folder; expected {known[name].help}")
    settings = {setting.name for setting in plan.pipeline.settings()}
    if unknown := sorted(set(plan.settings) - settings):
        raise InputError(f"{plan.pipeline.name} has no setting {unknown[0]}")
    if plan.jobs < 1:
        raise InputError(f"--jobs {plan.jobs}: expected 1 or more")
