"""dvc.yaml and params.yaml of the repository's example: the pipeline compile_and_deploy up to gate and report, task by task."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from bmflow_components import contracts, yaml_text
from bmflow_components.pipelines import DEFAULT_PRECISIONS, DEFAULT_PROCESSORS, Pipeline, Setting, Task
from bmflow_components.ports import RESULT, Kind, Value

FOLDER = "runs/dvc"
INPUTS = {"model": "examples/shapes.onnx", "detector": "examples/detector.json"}
EXAMPLE: Mapping[str, Value] = {"model_name": "shapes"}
CODE = ("compiler/bmflow", "components/bmflow_components")
_LINE: Mapping[str, str] = {"template": "simple", "y": "cosine", "x_label": "layer, in the order of the network"}
"""By number of the layer: DVC's lines take numbers alone on both axes."""
HEAD = "# Written by `scripts/generate` from the list of stages; a test keeps it so.\n"


def pipeline() -> Pipeline:
    """What `dvc repro` runs: everything that needs no registry and no search."""
    return contracts.without(contracts.pipeline("compile_and_deploy"), ["fetch", "register", "qtable"])


def _tasks() -> tuple[Task, ...]:
    return contracts.expand(pipeline(), DEFAULT_PROCESSORS, DEFAULT_PRECISIONS, list(INPUTS))


def params_yaml() -> str:
    """The settings, by stage."""
    found: dict[str, Any] = {}
    for setting in pipeline().settings():
        value = EXAMPLE.get(setting.name, setting.param.default)
        if setting.param.shared:
            found[setting.name] = value
        else:
            found.setdefault(setting.stages[0], {})[setting.param.name] = value
    return f"{HEAD}{yaml_text.dump(found)}"


def dvc_yaml() -> str:
    """Stages with their commands, dependencies, parameters, outputs and metrics; and what to plot.

    Results of processes hold times and are no dependencies.
    """
    tasks = _tasks()
    stages = {_name(task): _stage(task) for task in tasks}
    drawn = [task for task in tasks if any(port.name == "similarity" for port in task.stage.outputs)]
    plots = [{f"{FOLDER}/{task.folder}/similarity.json": {**_LINE, "title": f"{task.name}: cosine of each layer"}} for task in drawn]
    return f"{HEAD}{yaml_text.dump({'stages': stages, 'plots': plots})}"


def _name(task: Task) -> str:
    return task.folder.replace("/", "-")


def _stage(task: Task) -> dict[str, Any]:
    folder = f"{FOLDER}/{task.folder}"
    inputs = {port: [_path(link) for link in links if link[1] != RESULT.name] for port, links in task.inputs.items()}
    inputs = {port: paths for port, paths in inputs.items() if paths}
    outputs = {port.name: f"{folder}/{port.file}" for port in task.stage.outputs}
    settings = [setting for setting in pipeline().settings() if task.stage.name in setting.stages and setting.param.name not in task.params]
    values: dict[str, Value] = {setting.param.name: f"${{{_key(setting)}}}" for setting in settings}
    words = contracts.argv(task.stage, inputs, outputs, {**values, **task.params}, f"{folder}/{RESULT.file}")
    metrics = [outputs[port.name] for port in task.stage.outputs if port.kind is Kind.METRICS and port.name != "similarity"]
    found: dict[str, Any] = {
        "cmd": _command(words),
        "deps": [*CODE, *dict.fromkeys(path for paths in inputs.values() for path in paths)],
        "params": [_key(setting) for setting in settings],
        "outs": [path for path in outputs.values() if path not in metrics],
        "metrics": metrics,
    }  # fmt: skip
    return {key: value for key, value in found.items() if value}


def _command(words: list[str]) -> str:
    """One option a line; DVC joins the lines."""
    return " ".join(word if word.startswith("--") else _quoted(word) for word in words).replace(" --", "\n--")


def _quoted(word: str) -> str:
    """A word for the shell; what DVC fills in stays visible to it."""
    return f'"{word}"' if word.startswith("${") else shlex.quote(word)


def _path(link: tuple[str, str]) -> str:
    name, output = link
    if not name:
        return INPUTS[output]
    before = next(item for item in _tasks() if item.name == name)
    return f"{FOLDER}/{before.folder}/{before.stage.output(output).file}"


def _key(setting: Setting) -> str:
    return setting.name if setting.param.shared else f"{setting.stages[0]}.{setting.param.name}"
