"""README of each component, and the overview of all, from the list of stages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bmflow_components import command, contracts
from bmflow_components.pipelines import Node, Pipeline
from bmflow_components.ports import Param, Port, Stage

NOTE = "Written by `scripts/generate` from the list of stages; a test keeps it so."


def readme(stage: Stage) -> str:
    """One component."""
    return "\n".join([
        f"# {stage.name}", "", stage.summary, "", f"    {_wrapped(command.example(stage))}", "",
        *_ports("Inputs", stage.inputs), *_ports("Outputs", stage.outputs), *_params(stage.params), *_facts(stage), "", NOTE, "",
    ])  # fmt: skip


def _wrapped(text: str) -> str:
    return text.replace(" --", " \\\n        --")


def _ports(title: str, ports: Sequence[Port]) -> list[str]:
    if not ports:
        return []
    rows = [(f"`--{'in' if title == 'Inputs' else 'out'}-{port.name}`", port.kind.value, _shape(port), port.help) for port in ports]
    return [f"## {title}", "", *_table(("", "holds", "is", ""), rows), ""]


def _shape(port: Port) -> str:
    marks = ["folder" if port.folder else "file", *(["any number"] if port.many else []), *(["optional"] if port.optional else [])]
    return ", ".join(marks)


def _params(params: Sequence[Param]) -> list[str]:
    if not params:
        return []
    rows = [
        (f"`--{param.name}`", f"`{Param.text(param.default)}`" if Param.text(param.default) else "", _meaning(param)) for param in params
    ]
    return ["## Parameters", "", *_table(("", "default", ""), rows), ""]


def _meaning(param: Param) -> str:
    least = f"; at least {param.least:g}" if param.least is not None else ""
    return param.help + (f"; one of {', '.join(param.choices)}" if param.choices else "") + least


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]


def _facts(stage: Stage) -> list[str]:
    need = stage.resources
    lines = [
        f"Image `{stage.image.value}`, {need.cpu} cores, {need.memory}, at most {need.timeout_s} s, network {'on' if stage.network else 'off'}.",
        f"Further tries after failures of the machinery: {stage.retries}.",
    ]
    if stage.volatile:
        lines.append("Never skipped as done already: what it gives depends on the world outside.")
    if stage.resumes:
        lines.append("Killed and started again, it goes on where it was.")
    if stage.secrets or stage.env:
        names = ", ".join(f"`{name}`" for name in (*stage.secrets, *stage.env))
        lines.append(f"Reads {names} from the environment where they are set.")
    lines.append("Every stage also takes `--result FILE`, `--cache FOLDER` and `--executor-input JSON`; exit codes 0, 1, 2, 3.")
    return lines


def overview() -> str:
    """All components and pipelines."""
    stages = [
        (f"[{stage.name}]({stage.name}/README.md)", stage.summary, _names(stage.inputs), _names(stage.outputs))
        for stage in contracts.STAGES
    ]
    parts = [
        "# The stages of the pipeline", "",
        "Each is a process: files in, files out, a result JSON, an exit code (0 done; 1 failed; 2 bad input; 3 below the bar).",
        "Outputs appear whole or not at all; what is done already is not done again. The code is in `bmflow_components`;",
        "`component.yaml` is for Kubeflow Pipelines.", "",
        *_table(("stage", "", "in", "out"), stages), "",
    ]  # fmt: skip
    for pipeline in contracts.PIPELINES:
        parts += [f"## {pipeline.name}", "", f"{pipeline.summary}{_when(pipeline)}", "", *_nodes(pipeline.nodes), ""]
    return "\n".join([*parts, NOTE, ""])


def _names(ports: Sequence[Port]) -> str:
    return ", ".join(port.name for port in ports) or "-"


def _when(pipeline: Pipeline) -> str:
    return f" By itself at `{pipeline.cron}` (UTC){', and when the dataset changes' if pipeline.on_data else ''}." if pipeline.cron else ""


def _nodes(nodes: Sequence[Node]) -> list[str]:
    rows = []
    for node in nodes:
        needs = dict.fromkeys(link.partition(".")[0] for link in " ".join(node.inputs.values()).split())
        rows.append((node.name, " and ".join(node.over) or "once", ", ".join(needs) or "-", ", ".join(node.only)))
    return _table(("task", "once for each", "takes from", "only for"), rows)
