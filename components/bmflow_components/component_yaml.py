"""Kubeflow Pipelines' description of a stage as a container component, in the compiled form that `load_component_from_file` reads.

Made without importing kfp. Lists of artifacts have no place on a command line there: they come through `--executor-input`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bmflow import __version__

from bmflow_components import yaml_text
from bmflow_components.ports import RESULT, Kind, Param, Port, Stage

SDK = "kfp-2.16.1"
_SYSTEM = {
    Kind.DATASET: "Dataset", Kind.MODEL: "Model", Kind.BMODEL: "Model", Kind.METRICS: "Metrics", Kind.DETECTOR: "Artifact", Kind.MLIR: "Artifact",
    Kind.TABLE: "Artifact", Kind.RECORD: "Artifact", Kind.PICTURES: "Artifact", Kind.REPORT: "HTML",
}  # fmt: skip
_PARAMETERS = {str: "STRING", int: "NUMBER_INTEGER", float: "NUMBER_DOUBLE", bool: "BOOLEAN"}


def image_of(stage: Stage, registry: str = "") -> str:
    """The image that a stage runs in."""
    return f"{registry.rstrip('/') + '/' if registry else ''}bmflow/{stage.image.value}:{__version__}"


def artifact_type(port: Port) -> dict[str, str]:
    """The system type of a port; types of our own would not be shown by the UI."""
    kind = "Markdown" if port.file.endswith(".md") else _SYSTEM[port.kind]
    return {"schemaTitle": f"system.{kind}", "schemaVersion": "0.0.1"}


def component(stage: Stage) -> dict[str, Any]:
    """ComponentSpec: ports and parameters, and the label of the executor."""
    found: dict[str, Any] = {"executorLabel": f"exec-{stage.name}", **_definitions(stage)}
    return {key: value for key, value in found.items() if value}


def _definitions(stage: Stage) -> dict[str, Any]:
    inputs = {
        "artifacts": {port.name: input_artifact(port, port.optional) for port in stage.inputs},
        "parameters": {param.name: parameter(param) for param in stage.params},
    }
    outputs = {"artifacts": {port.name: output_artifact(port) for port in (*stage.outputs, RESULT)}}
    return {"inputDefinitions": {key: value for key, value in inputs.items() if value}, "outputDefinitions": outputs}


def input_artifact(port: Port, optional: bool) -> dict[str, Any]:
    """ArtifactSpec of an input."""
    marks: dict[str, Any] = {"isArtifactList": True} if port.many else {}
    return {"artifactType": artifact_type(port), "description": port.help, **marks, **({"isOptional": True} if optional else {})}


def output_artifact(port: Port) -> dict[str, Any]:
    """ArtifactSpec of an output."""
    return {"artifactType": artifact_type(port), "description": port.help}


def parameter(param: Param) -> dict[str, Any]:
    """ParameterSpec; Kubeflow holds every number as a double."""
    default = float(param.default) if param.type in (int, float) else param.default
    choices = f"; one of {', '.join(param.choices)}" if param.choices else ""
    return {"defaultValue": default, "description": param.help + choices, "isOptional": True, "parameterType": _PARAMETERS[param.type]}


def container(stage: Stage, image: str) -> dict[str, Any]:
    """The container of an executor: explicit command, no entry point, resources."""
    args: list[str] = []
    for port in stage.inputs:
        place = [f"--in-{port.name}", f"{{{{$.inputs.artifacts['{port.name}'].path}}}}"]
        if not port.many:
            args += [json.dumps({"IfPresent": {"InputName": port.name, "Then": place}})] if port.optional else place
    for port in stage.outputs:
        args += [f"--out-{port.name}", f"{{{{$.outputs.artifacts['{port.name}'].path}}}}"]
    for param in stage.params:
        args += [f"--{param.name}", f"{{{{$.inputs.parameters['{param.name}']}}}}"]
    args += ["--result", f"{{{{$.outputs.artifacts['{RESULT.name}'].path}}}}", "--executor-input", "{{$}}"]
    resources = {"resourceCpuLimit": stage.resources.cpu, "resourceMemoryLimit": stage.resources.memory}
    return {"args": args, "command": ["python", "-m", "bmflow_components", stage.name], "image": image, "resources": resources}


def text(stage: Stage, image: str = "") -> str:
    """component.yaml: a pipeline of this one component, which is how a component is compiled."""
    spec = component(stage)
    inputs, outputs = spec.get("inputDefinitions", {}), spec["outputDefinitions"]
    task: dict[str, Any] = {
        "cachingOptions": {} if stage.volatile else {"enableCache": True},
        "componentRef": {"name": f"comp-{stage.name}"},
        "inputs": {
            "artifacts": {name: {"componentInputArtifact": name} for name in inputs.get("artifacts", {})},
            "parameters": {name: {"componentInputParameter": name} for name in inputs.get("parameters", {})},
        },
        "taskInfo": {"name": stage.name},
    }
    selectors = {name: {"artifactSelectors": [{"outputArtifactKey": name, "producerSubtask": stage.name}]} for name in outputs["artifacts"]}
    whole: Mapping[str, Any] = {
        "components": {f"comp-{stage.name}": spec},
        "deploymentSpec": {"executors": {f"exec-{stage.name}": {"container": container(stage, image or image_of(stage))}}},
        "pipelineInfo": {"description": stage.summary, "name": stage.name},
        "root": {"dag": {"outputs": {"artifacts": selectors}, "tasks": {stage.name: task}}, **_definitions(stage)},
        "schemaVersion": "2.1.0", "sdkVersion": SDK,
    }  # fmt: skip
    return f"# Written by `scripts/generate` from the list of stages; a test keeps it so.\n{yaml_text.dump(whole)}"
