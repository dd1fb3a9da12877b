"""The executor input and output of Kubeflow Pipelines: where its artifacts lie, and the figures its pages show.

A container component gets `--executor-input '{{$}}'`. Lists of artifacts come that way alone, and the file named in
`outputs.outputFile` is the one way to attach figures to artifacts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bmflow.errors import InputError

from bmflow_components.ports import RESULT, Kind, Stage
from bmflow_components.result import Result

_MOUNTS = {"gs://": "/gcs/", "s3://": "/s3/", "minio://": "/minio/", "oci://": "/oci/"}


@dataclass(frozen=True)
class ExecutorInput:
    """What the orchestrator says: paths or URIs by port, parameters, and the file for the answer."""

    inputs: Mapping[str, list[str]] = field(default_factory=dict[str, list[str]])
    outputs: Mapping[str, str] = field(default_factory=dict[str, str])
    params: Mapping[str, str] = field(default_factory=dict[str, str])
    parameter_files: Mapping[str, str] = field(default_factory=dict[str, str])
    output_file: str = ""
    raw_outputs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @staticmethod
    def parse(text: str) -> ExecutorInput:
        """Read the JSON text.

        Raises:
            InputError: not JSON of that form.
        """
        try:
            data = json.loads(text)
            inputs, outputs = data.get("inputs", {}), data.get("outputs", {})
            artifacts = {name: [_path(item) for item in found["artifacts"]] for name, found in inputs.get("artifacts", {}).items()}
            raw = {name: found["artifacts"][0] for name, found in outputs.get("artifacts", {}).items()}
            return ExecutorInput(
                artifacts, {name: _path(item) for name, item in raw.items()},
                {name: _text(value) for name, value in inputs.get("parameterValues", {}).items()},
                {name: found["outputFile"] for name, found in outputs.get("parameters", {}).items()},
                outputs.get("outputFile", ""), raw,
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise InputError(f"--executor-input: not the JSON that Kubeflow Pipelines gives ({type(error).__name__}: {error})") from error

    def answer(self, stage: Stage, result: Result) -> None:
        """Write the executor output, and the files of output parameters that are figures or facts."""
        said = {**result.metrics, **result.facts}
        values = {name: said[name] for name in self.parameter_files if name in said}
        for name, value in values.items():
            _write(Path(self.parameter_files[name]), str(value))
        if self.output_file:
            artifacts = {name: {"artifacts": [self._artifact(stage, name, result)]} for name in self.raw_outputs}
            _write(Path(self.output_file), json.dumps({"artifacts": artifacts, "parameterValues": values}))

    def _artifact(self, stage: Stage, name: str, result: Result) -> dict[str, Any]:
        item = self.raw_outputs[name]
        metadata: dict[str, Any] = dict(item.get("metadata", {}))
        if name in result.outputs:
            metadata |= {"sha256": result.outputs[name].digest, "bytes": result.outputs[name].bytes}
        port = RESULT if name == RESULT.name else stage.output(name)
        if port.kind is Kind.METRICS:
            metadata |= result.metrics
        return {"name": item.get("name", name), "uri": item["uri"], "type": item.get("type", {}), "metadata": metadata}


def _path(artifact: Mapping[str, Any]) -> str:
    """The mounted path of an artifact where there is one, else its URI."""
    if custom := artifact.get("customPath"):
        return str(custom)
    uri = str(artifact["uri"])
    for scheme, mount in _MOUNTS.items():
        if uri.startswith(scheme) and Path(mount).is_dir():
            return mount + uri.removeprefix(scheme)
    return uri


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
