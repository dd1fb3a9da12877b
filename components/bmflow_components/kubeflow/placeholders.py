"""Placeholders in the command of a container, filled in as Kubeflow's launcher does; and the executor input they come from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bmflow.errors import InputError

_PLACEHOLDER = re.compile(r"\{\{\$(?:\.(?P<path>[^}]*))?\}\}")
_ENTRY = re.compile(r"^(?P<side>inputs|outputs)\.(?P<kind>parameters|artifacts)\['(?P<name>[^']+)'\](?:\.(?P<field>\w+))?$")


@dataclass(frozen=True)
class ExecutorInput:
    """What a container is told.

    Attributes:
        parameters: values by input.
        artifacts: RuntimeArtifact (`name`, `type`, `uri`, `metadata`) by input; several for a list.
        outputs: RuntimeArtifact by output.
        output_parameters: file by output parameter.
        output_file: where the executor output is to be written.
    """

    parameters: Mapping[str, Any]
    artifacts: Mapping[str, Sequence[Mapping[str, Any]]]
    outputs: Mapping[str, Mapping[str, Any]]
    output_parameters: Mapping[str, str]
    output_file: str

    def json(self) -> str:
        """The text of `{{$}}`."""
        inputs = {
            "parameterValues": dict(self.parameters),
            "artifacts": {name: {"artifacts": list(i)} for name, i in self.artifacts.items()},
        }
        outputs = {
            "artifacts": {name: {"artifacts": [item]} for name, item in self.outputs.items()},
            "parameters": {name: {"outputFile": file} for name, file in self.output_parameters.items()}, "outputFile": self.output_file,
        }  # fmt: skip
        return json.dumps({"inputs": inputs, "outputs": outputs}, sort_keys=True)


def fill(words: Sequence[str], given: ExecutorInput) -> list[str]:
    """The words of a command with every placeholder filled in.

    Raises:
        InputError: a placeholder that is unknown or of something that there is not.
    """
    return [_text(word, given) for written in words for word in _expand(_structure(written), given)]


def _structure(word: str) -> Any:
    """A word that is JSON for a condition or a concatenation, else the word."""
    if not word.startswith(('{"IfPresent"', '{"Concat"')):
        return word
    return json.loads(word)


def _expand(item: Any, given: ExecutorInput) -> list[str]:
    if isinstance(item, str):
        return [item]
    if isinstance(item, list):
        return [word for part in item for word in _expand(part, given)]
    if "Concat" in item:
        return ["".join(word for part in item["Concat"] for word in _expand(_structure(part) if isinstance(part, str) else part, given))]
    condition = item["IfPresent"]
    there = condition["InputName"] in given.artifacts or given.parameters.get(condition["InputName"]) is not None
    return _expand(condition["Then"] if there else condition.get("Else", []), given)


def _text(word: str, given: ExecutorInput) -> str:
    return _PLACEHOLDER.sub(lambda match: _value(match.group("path") or "", given), word)


def _value(path: str, given: ExecutorInput) -> str:
    if not path:
        return given.json()
    if path == "outputs.output_file":
        return given.output_file
    entry = _ENTRY.match(path)
    try:
        found = _look_up(entry, given) if entry else None
    except (KeyError, IndexError):
        found = None
    if found is None:
        raise InputError(f"{{{{$.{path}}}}}: no such placeholder here; there are {', '.join([*given.parameters, *given.artifacts])}")
    return found


def _look_up(entry: re.Match[str], given: ExecutorInput) -> str | None:
    name, field = entry["name"], entry["field"]
    if entry["kind"] == "parameters":
        return parameter_text(given.parameters[name]) if entry["side"] == "inputs" else given.output_parameters[name]
    artifact = given.artifacts[name][0] if entry["side"] == "inputs" else given.outputs[name]
    return str(artifact["uri"]) if field in ("path", "uri") else json.dumps(artifact["metadata"]) if field == "metadata" else None


def parameter_text(value: Any) -> str:
    """A parameter on a command line: whole numbers without a point, lists as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)
