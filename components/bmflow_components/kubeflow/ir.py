"""A pipeline in the form that Kubeflow's own compiler writes: PipelineSpec, and after it what Kubernetes has to know.

Made from the graph without importing kfp, the same text every time. One file goes from task to task as an artifact, so that Kubeflow
shows where things come from. Files of a whole loop come from the folder of the run on the claim (`--find`): Kubeflow hands on nothing
of a loop in which one round failed, and nothing of a container that ended with exit code 3, but gate and report need both. For the same
reason its cache stays off: it goes by the names of artifacts, and what it skips leaves nothing there; the cache on the claim goes by
content. Its retries stay off too: they would repeat bad input as well, so a process tries again by itself (`--tries`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bmflow_components import component_yaml, contracts, yaml_text
from bmflow_components.kubeflow.cluster import Cluster
from bmflow_components.kubeflow.layout import AXES, LISTS, Block, Entry, Leaf, exit_node, layout, leaves
from bmflow_components.pipelines import DEFAULT_PRECISIONS, DEFAULT_PROCESSORS, OUTSIDE, Node, Pipeline, Runs, links
from bmflow_components.ports import RESULT, Port, Stage, Value

RUN = "run"
"""The parameter that names the folder of the run: Kubeflow's id of it."""
_RUN_ID = "{{$.pipeline_job_uuid}}"
_STRING = {"parameterType": "STRING"}
_COMPLETED = {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}


def text(pipeline: Pipeline, cluster: Cluster | None = None) -> str:
    """The file: two YAML documents."""
    spec, platform = compiled(pipeline, cluster or Cluster())
    head = f"# Written by `bmflow-pipeline compile kubeflow {pipeline.name}` from the list of stages.\n"
    return f"{head}{yaml_text.dump(spec)}---\n{yaml_text.dump(platform)}"


def compiled(pipeline: Pipeline, cluster: Cluster) -> tuple[dict[str, Any], dict[str, Any]]:
    """PipelineSpec and PlatformSpec as plain values."""
    writer = _Writer(pipeline, cluster)
    tasks = writer.root()
    spec: dict[str, Any] = {
        "components": dict(sorted(writer.components.items())),
        "deploymentSpec": {"executors": dict(sorted(writer.executors.items()))},
        "pipelineInfo": {"description": pipeline.summary, "name": pipeline.name.replace("_", "-")},
        "root": {"dag": {"tasks": tasks}, "inputDefinitions": {"parameters": parameters(pipeline)}},
        "schemaVersion": "2.1.0", "sdkVersion": component_yaml.SDK,
    }  # fmt: skip
    return spec, {"platforms": {"kubernetes": {"deploymentSpec": {"executors": dict(sorted(writer.platform.items()))}}}}


def parameters(pipeline: Pipeline) -> dict[str, Any]:
    """What can be set when a run is begun: files by path or URI, axes, settings."""
    found: dict[str, Any] = {}
    for port in pipeline.inputs:
        optional: dict[str, Any] = {"defaultValue": "", "isOptional": True} if port.optional else {}
        found[port.name] = {"description": f"{port.help} (path on the claim, or URI)", **optional, **_STRING}
    if pipeline.maps:
        found["processors"] = _list(DEFAULT_PROCESSORS, "processors to compile for")
    if any("quantize" in node.over for node in pipeline.nodes):
        found["precisions"] = _list(DEFAULT_PRECISIONS, "number types to compile in; MIXED searches the type of every layer")
    return found | {setting.name: component_yaml.parameter(setting.param) for setting in pipeline.settings()}


def _list(default: Sequence[str], about: str) -> dict[str, Any]:
    return {"defaultValue": list(default), "description": about, "isOptional": True, "parameterType": "LIST"}


@dataclass
class _Needs:
    """What a group of tasks takes from around it: parameters by name, artifacts by name with the port they come from."""

    parameters: set[str] = field(default_factory=set[str])
    artifacts: dict[str, tuple[str, str, Port]] = field(default_factory=dict[str, tuple[str, str, Port]])


class _Writer:
    """Collects components, executors and their Kubernetes side while it goes through the graph."""

    def __init__(self, pipeline: Pipeline, cluster: Cluster) -> None:
        self._pipeline = pipeline
        self._cluster = cluster
        self.components: dict[str, Any] = {}
        self.executors: dict[str, Any] = {}
        self.platform: dict[str, Any] = {}

    def root(self) -> dict[str, Any]:
        """The outermost tasks: all the others as one, and the one that ends the run in any case."""
        entries, last = layout(self._pipeline), exit_node(self._pipeline)
        if last is None:
            return self._tasks(entries, (), _Needs())
        body = Block("exit-handler", entries)
        found = self._tasks((body,), (), _Needs())
        leaf = Leaf(last, "-of-the-run" if any(other.node.name == last.name for other in leaves(entries)) else "")
        task = self._leaf(leaf, (), (), _Needs())
        return {**found, leaf.name: task | {"dependentTasks": [body.name], "triggerPolicy": _COMPLETED}}

    def _tasks(self, entries: Sequence[Entry], axes: Sequence[str], needs: _Needs) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for entry in entries:
            task = self._leaf(entry, entries, axes, needs) if isinstance(entry, Leaf) else self._block(entry, entries, axes, needs)
            if before := _before(entry, entries):
                task["dependentTasks"] = before
            found[entry.name] = dict(sorted(task.items()))
        return found

    def _block(self, block: Block, around: Sequence[Entry], axes: Sequence[str], needs: _Needs) -> dict[str, Any]:
        """A task that is a graph of its own."""
        inside = _Needs()
        inner = (*axes, block.over) if block.over else tuple(axes)
        tasks = self._tasks(block.entries, inner, inside)
        if block.over:
            inside.parameters.add(LISTS[block.over])
        definitions = {
            "artifacts": {
                name: {"artifactType": component_yaml.artifact_type(port)} for name, (_, _, port) in sorted(inside.artifacts.items())
            },
            "parameters": {name: self._type(name) for name in sorted(inside.parameters | ({block.over} if block.over else set()))},
        }
        self.components[f"comp-{block.name}"] = {"dag": {"tasks": tasks}, "inputDefinitions": {k: v for k, v in definitions.items() if v}}
        given = {
            "artifacts": {name: _source(name, *found, around, needs) for name, found in sorted(inside.artifacts.items())},
            "parameters": {name: self._parameter(name, needs) for name in sorted(inside.parameters - {block.over})},
        }
        task: dict[str, Any] = {
            "componentRef": {"name": f"comp-{block.name}"}, "inputs": {k: v for k, v in given.items() if v}, "taskInfo": {"name": block.name},
        }  # fmt: skip
        if block.over:
            task["parameterIterator"] = {"itemInput": block.over, "items": {"inputParameter": LISTS[block.over]}}
            if self._cluster.parallel:
                task["iteratorPolicy"] = {"parallelismLimit": self._cluster.parallel}
        if block.when:
            task["triggerPolicy"] = {"condition": block.when}
            needs.parameters.add("quantize")
        return task

    def _type(self, name: str) -> dict[str, str]:
        known = parameters(self._pipeline).get(name, _STRING)
        return {"parameterType": known["parameterType"]}

    def _parameter(self, name: str, needs: _Needs) -> dict[str, Any]:
        needs.parameters.add(name)
        return {"componentInputParameter": name}

    def _leaf(self, leaf: Leaf, around: Sequence[Entry], axes: Sequence[str], needs: _Needs) -> dict[str, Any]:
        """A task that is a container."""
        node, stage = leaf.node, contracts.stage(leaf.node.stage)
        single = dict(_single(node, stage)) if around else {}
        label = self._container(leaf, stage, list(single), axes, bool(around))
        given: dict[str, Any] = {
            "artifacts": {
                port: _source(f"{source}-{output}".replace("_", "-"), source, output, _port(self._pipeline, source, output), around, needs)
                for port, (source, output) in single.items()
            },
            "parameters": {name: self._value(node, stage, name, axes, needs) for name in self.components[label]["inputDefinitions"]["parameters"]},
        }  # fmt: skip
        task: dict[str, Any] = {
            "cachingOptions": {}, "componentRef": {"name": label}, "inputs": {k: v for k, v in given.items() if v},
            "taskInfo": {"name": leaf.name},
        }  # fmt: skip
        if node.runs is not Runs.ALL:
            task["triggerPolicy"] = _COMPLETED
        return task

    def _value(self, node: Node, stage: Stage, name: str, axes: Sequence[str], needs: _Needs) -> dict[str, Any]:
        """Where a parameter comes from: fixed by the graph, an axis, the run, or a parameter of the pipeline."""
        if name == RUN:
            return {"runtimeValue": {"constant": _RUN_ID}}
        if name in node.params:
            return {"runtimeValue": {"constant": _number(node.params[name])}}
        if name in axes and (name in node.over or name not in {param.name for param in stage.params}):
            return self._parameter(name, needs)
        if name in _paths(node):
            return self._parameter(_paths(node)[name], needs)
        return self._parameter(name if stage.param(name).shared else f"{stage.name}_{name}", needs)

    def _container(self, leaf: Leaf, stage: Stage, single: Sequence[str], axes: Sequence[str], inside: bool) -> str:
        """Write the component of a task, its executor, and its executor's Kubernetes side."""
        node, name = leaf.node, leaf.name
        paths, known = _paths(node), {param.name for param in stage.params}
        params: dict[str, Any] = dict.fromkeys(paths, _STRING)
        params |= {param.name: {"parameterType": component_yaml.parameter(param)["parameterType"]} for param in stage.params}
        params |= {axis: _STRING for axis in axes if axis not in known} | {RUN: _STRING}
        inputs = {"artifacts": {port: component_yaml.input_artifact(stage.input(port), False) for port in single}, "parameters": params}
        outputs = {port.name: component_yaml.output_artifact(port) for port in (*stage.outputs, RESULT)}
        self.components[f"comp-{name}"] = {
            "executorLabel": f"exec-{name}", "inputDefinitions": {key: value for key, value in inputs.items() if value},
            "outputDefinitions": {"artifacts": outputs},
        }  # fmt: skip
        self.executors[f"exec-{name}"] = {"container": self._command(node, stage, single, axes, inside)}
        self.platform[f"exec-{name}"] = self._cluster.executor(stage)
        return f"comp-{name}"

    def _command(self, node: Node, stage: Stage, single: Sequence[str], axes: Sequence[str], inside: bool) -> dict[str, Any]:
        args = [word for port in single for word in (f"--in-{port}", f"{{{{$.inputs.artifacts['{port}'].path}}}}")]
        args += [word for port in _paths(node) for word in (f"--in-{port}", _given(port))]
        args += [word for pattern in self._patterns(node, stage, single, axes) for word in ("--find", pattern)]
        for port in stage.outputs:
            args += [f"--out-{port.name}", f"{{{{$.outputs.artifacts['{port.name}'].path}}}}"]
        for param in stage.params:
            args += [f"--{param.name}", _given(param.name)]
        args += ["--result", f"{{{{$.outputs.artifacts['{RESULT.name}'].path}}}}", "--copies", self._place(node, axes)]
        args += [] if stage.volatile else ["--cache", f"{self._cluster.mount}/cache"]
        args += ["--tries", str(stage.retries + 1)] if stage.retries else []
        cpu, memory = stage.resources.cpu, stage.resources.memory
        resources = {"resourceCpuLimit": cpu, "resourceCpuRequest": cpu, "resourceMemoryLimit": memory, "resourceMemoryRequest": memory}
        return {
            "args": [*args, "--executor-input", "{{$}}"], "command": ["python", "-m", "bmflow_components", stage.name],
            "env": [{"name": name, "value": value} for name, value in sorted(self._cluster.variables(stage).items())],
            "image": self._cluster.image(stage), "resources": resources,
        }  # fmt: skip

    def _patterns(self, node: Node, stage: Stage, single: Sequence[str], axes: Sequence[str]) -> Iterator[str]:
        """Inputs that are gathered from the folder of the run."""
        for port, source, output in links(node):
            if source == OUTSIDE or port in single:
                continue
            before = self._pipeline.node(source)
            file = _port(self._pipeline, source, output).file
            parts = [_given(axis) if axis in axes else "*" for axis in AXES if axis in before.over]
            yield f"{port}={'/'.join([self._folder(), source, *(['-'.join(parts)] if parts else []), file])}"

    def _place(self, node: Node, axes: Sequence[str]) -> str:
        """The folder of a task in the folder of the run, as in that of a run on one machine."""
        parts = [_given(axis) for axis in axes]
        return "/".join([self._folder(), node.name, *(["-".join(parts)] if parts else [])])

    def _folder(self) -> str:
        return f"{self._cluster.mount}/{self._pipeline.name}/{_given(RUN)}"


def _given(name: str) -> str:
    return f"{{{{$.inputs.parameters['{name}']}}}}"


def _number(value: Value) -> Value:
    """Whole numbers as the doubles that Kubeflow holds them as."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _paths(node: Node) -> dict[str, str]:
    """Inputs that the user gives by path: the pipeline's input by port."""
    return {port: output for port, source, output in links(node) if source == OUTSIDE}


def _single(node: Node, stage: Stage) -> Iterator[tuple[str, tuple[str, str]]]:
    """Inputs of one file, which come as artifacts: (node, output) by port."""
    for port, source, output in links(node):
        if source != OUTSIDE and not stage.input(port).many:
            yield port, (source, output)


def _port(pipeline: Pipeline, source: str, output: str) -> Port:
    return RESULT if output == RESULT.name else contracts.stage(pipeline.node(source).stage).output(output)


def _source(name: str, source: str, output: str, port: Port, around: Sequence[Entry], needs: _Needs) -> dict[str, Any]:
    """Where an artifact comes from: a task beside this one, else from around."""
    beside = next((entry for entry in around if isinstance(entry, Leaf) and entry.node.name == source), None)
    if beside:
        return {"taskOutputArtifact": {"outputArtifactKey": output, "producerTask": beside.name}}
    needs.artifacts[name] = (source, output, port)
    return {"componentInputArtifact": name}


def _before(entry: Entry, around: Sequence[Entry]) -> list[str]:
    """The tasks beside an entry that must have ended, in the order of the graph; the branches of a condition have nothing to do with each other."""
    if isinstance(entry, Block) and entry.when:
        return []
    sources = {source for leaf in leaves([entry]) for _, source, _ in links(leaf.node)}
    return [other.name for other in around if other is not entry and sources & {leaf.node.name for leaf in leaves([other])}]
