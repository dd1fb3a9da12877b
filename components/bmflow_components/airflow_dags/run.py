"""One run of a pipeline as every task of it sees it: what was asked for, and where the files of each task lie.

The standard library alone. The run travels from the first task to the others as a small JSON.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bmflow_components import contracts
from bmflow_components.pipelines import OUTSIDE, Item, Node, Pipeline, Runs, Task
from bmflow_components.ports import RESULT, Stage, Value

BACKENDS = ("local", "podman", "k8s")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")
_CREDENTIALS = re.compile(r"://[^/@\s]*:[^/@\s]+@")

Ready = Callable[[str, str], bool]
"""Whether an output (task name, port) may be read."""


class RefusedError(Exception):
    """The run cannot be what was asked for; the text is one paragraph for the user."""


def is_remote(path: str) -> bool:
    """Whether a path is a URI of something that is no local file."""
    return bool(_SCHEME.match(path)) and not path.startswith("file://")


def safe_name(run_id: str) -> str:
    """A run id as the name of a folder: other ids give other names, and no character needs quoting."""
    name = _UNSAFE.sub("-", run_id).strip(".-")[:120] or "run"
    return name if name == run_id else f"{name}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Run:
    """What was asked for.

    Attributes:
        name: of the run's folder.
        root: folder or URI that holds the runs of all pipelines.
        settings: every setting of the pipeline by name.
        given: path or URI by name of the pipeline's inputs that the user gave.
    """

    pipeline: str
    name: str
    root: str
    backend: str
    processors: tuple[str, ...]
    precisions: tuple[str, ...]
    settings: Mapping[str, Value]
    given: Mapping[str, str]

    def json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @staticmethod
    def parse(data: Mapping[str, Any]) -> Run:
        """The run whose plain values these are."""
        lists = {"processors": tuple(data["processors"]), "precisions": tuple(data["precisions"])}
        return Run(**{**data, **lists})

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """All tasks by name."""
        graph = contracts.pipeline(self.pipeline)
        return {task.name: task for task in contracts.expand(graph, self.processors, self.precisions, tuple(self.given))}

    def task(self, node: str, item: Item) -> Task | None:
        """The task of a node at a place; None when the node does not run there."""
        return next((task for task in self.tasks.values() if task.node.name == node and task.item == item), None)

    @property
    def folder(self) -> str:
        """Folder or URI of the run."""
        return f"{self.root.rstrip('/')}/{self.pipeline}/{self.name}"

    @property
    def cache(self) -> str:
        """Folder of finished work that all runs share; empty where the root is no local folder."""
        return "" if is_remote(self.root) else f"{self.root.rstrip('/')}/cache"

    def path(self, task: Task, port: str) -> str:
        """Where an output lies."""
        file = RESULT.file if port == RESULT.name else task.stage.output(port).file
        return f"{self.folder}/{task.folder}/{file}"

    def outputs(self, task: Task) -> dict[str, str]:
        """Where all outputs of a task lie."""
        return {port.name: self.path(task, port.name) for port in task.stage.outputs}

    def params(self, task: Task) -> dict[str, Value]:
        """Parameters of a task: fixed by the graph and the axes, else set by the user."""
        stage = task.stage
        return {
            param.name: task.params[param.name] if param.name in task.params else self._setting(stage, param.name) for param in stage.params
        }

    def _setting(self, stage: Stage, name: str) -> Value:
        return self.settings[name if stage.param(name).shared else f"{stage.name}_{name}"]

    def inputs(self, task: Task, ready: Ready) -> dict[str, tuple[str, ...]]:
        """The files of a task's inputs.

        Raises:
            RefusedError: what it needs is not there, so it must not start.
        """
        found: dict[str, tuple[str, ...]] = {}
        for port, sources in task.inputs.items():
            there = [source for source in sources if source[0] == "" or ready(*source)]
            missing = [f"{name}.{output}" for name, output in sources if (name, output) not in there]
            optional, many = task.stage.input(port).optional and port not in task.node.needs, task.stage.input(port).many
            if missing and not _may_miss(task.node.runs, optional, many, bool(there)):
                raise RefusedError(f"{task.name} is not started: it needs {', '.join(missing)}, which did not succeed")
            if there:
                found[port] = tuple(self.given[output] if name == "" else self.path(self.tasks[name], output) for name, output in there)
        return found

    def command(self, task: Task, ready: Ready, python: str = "python") -> list[str]:
        """The command line of a task.

        Raises:
            RefusedError: what it needs is not there.
        """
        words = contracts.argv(
            task.stage, self.inputs(task, ready), self.outputs(task), self.params(task), self.path(task, RESULT.name), python
        )  # fmt: skip
        return [*words, "--cache", self.cache] if self.cache else words


def _may_miss(runs: Runs, optional: bool, many: bool, some: bool) -> bool:
    """Whether a task may start although not all files of an input are there; `some` of them are."""
    if runs is Runs.ALL:
        return False
    if runs is Runs.ALWAYS:
        return optional or (many and some)
    return many and (optional or some)


def upstream(graph: Pipeline, node: Node) -> tuple[str, ...]:
    """Nodes that a node has links to, in the order of the graph."""
    sources = {link.partition(".")[0] for text in node.inputs.values() for link in text.split()}
    return tuple(other.name for other in graph.nodes if other.name in sources - {OUTSIDE})


def settle(graph: Pipeline, form: Mapping[str, Any], name: str, root: str, overrides: Mapping[str, Value]) -> Run:
    """Turn a filled form into a run; fields left empty take their defaults.

    Args:
        overrides: settings that something else than the form decides, such as the revision that a dataset event names.
    Raises:
        RefusedError: with what was expected and found.
    """
    _refuse_unknown(graph, form)
    settings: dict[str, Value] = {}
    for setting in graph.settings():
        value = overrides.get(setting.name, form.get(setting.name))
        settings[setting.name] = setting.param.default if value in (None, "") else value
    given = {port.name: str(form[port.name]) for port in graph.inputs if form.get(port.name)}
    missing = [f"{port.name} ({port.help})" for port in graph.inputs if not port.optional and port.name not in given]
    if missing:
        raise RefusedError(f"{graph.name} needs {', '.join(missing)}")
    backend = str(form.get("backend") or BACKENDS[0])
    _refuse_secrets({**settings, **given})
    if backend != "k8s":
        _refuse_absent(given)
    processors, precisions = (_axis(graph, form, axis) for axis in ("processors", "precisions"))
    return Run(graph.name, name, root, backend, processors, precisions, settings, given)


def _axis(graph: Pipeline, form: Mapping[str, Any], axis: str) -> tuple[str, ...]:
    chosen: Sequence[str] = form.get(axis) or ()
    if graph.maps and axis in form and not chosen:
        raise RefusedError(f"{axis}: choose at least one")
    return tuple(dict.fromkeys(chosen))


def _refuse_unknown(graph: Pipeline, form: Mapping[str, Any]) -> None:
    known = {*(setting.name for setting in graph.settings()), *(port.name for port in graph.inputs), "processors", "precisions", "backend"}
    for name in sorted(set(form) - known):
        near = difflib.get_close_matches(name, known, 3) or sorted(known)
        raise RefusedError(f"{graph.name} has no setting {name}; nearest are {', '.join(near)}")


def _refuse_secrets(values: Mapping[str, Value]) -> None:
    named = [name for name, value in values.items() if isinstance(value, str) and _CREDENTIALS.search(value)]
    if named:
        raise RefusedError(
            f"{', '.join(named)}: an address with a password in it would stand in every record of this run; "
            "give credentials in environment variables of the worker or in a secret of the cluster"
        )


def _refuse_absent(given: Mapping[str, str]) -> None:
    for name, path in given.items():
        if is_remote(path):
            continue
        file = Path(path.removeprefix("file://"))
        if not file.is_absolute() or not file.exists():
            found = "no such file or folder" if file.is_absolute() else "a relative path"
            raise RefusedError(f"{name}: expected an absolute path or a URI that the worker can read, found {path} ({found})")
