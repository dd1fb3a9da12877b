"""The contract of stages and pipelines: one list, one place that knows command lines, one rule for retries.

Imports the standard library alone, in milliseconds, so that orchestrators may read it wherever they parse their files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bmflow_components.pipelines import PIPELINES, Item, Node, Pipeline, Runs, Setting, Task, expand, without
from bmflow_components.ports import RESULT, Image, Kind, Param, Port, Resources, Stage, Value
from bmflow_components.stages import PRECISIONS, PROCESSORS, STAGES

__all__ = [
    "BAD_INPUT",
    "BELOW_BAR",
    "DONE",
    "FAILED",
    "PIPELINES",
    "PRECISIONS",
    "PROCESSORS",
    "RESULT",
    "STAGES",
    "Image",
    "Item",
    "Kind",
    "Node",
    "Param",
    "Pipeline",
    "Port",
    "Resources",
    "Runs",
    "Setting",
    "Stage",
    "Task",
    "Value",
    "argv",
    "expand",
    "may_retry",
    "pipeline",
    "stage",
    "without",
]  # fmt: skip

DONE, FAILED, BAD_INPUT, BELOW_BAR = 0, 1, 2, 3
"""Exit codes of a component: done; anything else; bad input or usage; ran, but below the bar."""

_BY_NAME = {item.name: item for item in STAGES}
_PIPELINES = {item.name: item for item in PIPELINES}


def stage(name: str) -> Stage:
    """The stage of a name; KeyError when there is none."""
    return _BY_NAME[name]


def pipeline(name: str) -> Pipeline:
    """The pipeline of a name; KeyError when there is none."""
    return _PIPELINES[name]


def argv(
    of: Stage,
    inputs: Mapping[str, str | Sequence[str]],
    outputs: Mapping[str, str],
    params: Mapping[str, Value],
    result: str,
    python: str = "python",
) -> list[str]:
    """The command line of a component; parameters at their defaults are left out.

    Args:
        inputs: path or URI by port; several for an input of many; optional ones may be missing.
        outputs: path or URI of every output.
        params: values, or templates that an orchestrator fills in.
    Raises:
        ValueError: a port or parameter that is unknown, or one that is missing.
    """
    _check(of, inputs, outputs, params)
    words = [python, "-m", "bmflow_components", of.name]
    for port in of.inputs:
        given = inputs.get(port.name, ())
        for path in (given,) if isinstance(given, str) else given:
            words += [f"--in-{port.name}", path]
    for port in of.outputs:
        words += [f"--out-{port.name}", outputs[port.name]]
    for param in of.params:
        value = params.get(param.name, param.default)
        if value != param.default:
            words += [f"--{param.name}", Param.text(value)]
    return [*words, "--result", result]


def _check(of: Stage, inputs: Mapping[str, object], outputs: Mapping[str, object], params: Mapping[str, object]) -> None:
    known = {"input": {p.name for p in of.inputs}, "output": {p.name for p in of.outputs}, "parameter": {p.name for p in of.params}}
    for (what, names), given in zip(known.items(), (inputs, outputs, params), strict=True):
        if unknown := sorted(set(given) - names):
            raise ValueError(f"stage {of.name} has no {what} {', '.join(unknown)}; it has {', '.join(sorted(names)) or 'none'}")
    missing = [port.name for port in of.inputs if not port.optional and not inputs.get(port.name)]
    missing += [port.name for port in of.outputs if port.name not in outputs]
    if missing:
        raise ValueError(f"stage {of.name}: {', '.join(missing)} missing")


def may_retry(of: Stage, exit_code: int, retryable: bool | None = None) -> bool:
    """Whether a failure may be one of the machinery: killed, out of memory or disk, a server gone.

    Args:
        retryable: what result.json says; None when there is none. Then exit code 1 counts as the machinery's for stages that use
            the network, and as a compile error for all others.
    """
    if exit_code in (DONE, BAD_INPUT, BELOW_BAR):
        return False
    if exit_code == FAILED:
        return of.network if retryable is None else retryable
    return True
