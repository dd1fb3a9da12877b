"""The form of a run: one field for every setting, with its type, choices and help; all taken from the list of stages."""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import Param as Field

from bmflow_components.airflow_dags.run import BACKENDS
from bmflow_components.pipelines import DEFAULT_PRECISIONS, DEFAULT_PROCESSORS, PRECISIONS, PROCESSORS, Pipeline, Setting
from bmflow_components.ports import Param, Port

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def fields(graph: Pipeline) -> dict[str, Field]:
    """Fields by name, in the order in which the form shows them."""
    found = {port.name: _port(port) for port in graph.inputs}
    if graph.maps:
        found["processors"] = _choices(DEFAULT_PROCESSORS, PROCESSORS, "processors to compile for")
        if any("quantize" in node.over for node in graph.nodes):
            found["precisions"] = _choices(
                DEFAULT_PRECISIONS, PRECISIONS, "number types to compile in; MIXED searches the type of every layer"
            )
    settings = graph.settings()
    found |= {setting.name: _setting(setting, None) for setting in settings if setting.param.basic}
    found["backend"] = Field(
        os.environ.get("BMFLOW_BACKEND", BACKENDS[0]), type="string", enum=list(BACKENDS), title="backend",
        description="where stages run: processes on this machine, containers on this machine, pods on the cluster",
    )  # fmt: skip
    return found | {setting.name: _setting(setting, ", ".join(setting.stages)) for setting in settings if not setting.param.basic}


def _port(port: Port) -> Field:
    about = f"{port.help} (absolute path or URI)"
    if port.optional:
        return Field(None, type=["null", "string"], title=port.name, description=about)
    return Field(type="string", minLength=1, title=port.name, description=about)


def _choices(default: tuple[str, ...], known: tuple[str, ...], about: str) -> Field:
    items = {"type": "string", "enum": list(known)}
    return Field(list(default), type="array", items=items, examples=list(known), minItems=1, uniqueItems=True, description=about)


def _setting(setting: Setting, section: str | None) -> Field:
    param = setting.param
    schema: dict[str, Any] = {"title": setting.name, "description": param.help, "type": _TYPES[param.type]}
    if section:
        schema["section"] = section
    if param.choices:
        schema["enum"] = list(param.choices)
    if param.least is not None:
        schema["minimum"] = param.least
    if _may_be_empty(param):
        return Field(param.default or None, **{**schema, "type": ["null", "string"]})
    return Field(param.default, **schema)


def _may_be_empty(param: Param) -> bool:
    """A text field that is left empty sends null."""
    return param.type is str and not param.choices
