"""bmflow-pipeline: run a pipeline on this machine, compile it for Kubeflow, or show what there is."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bmflow.cli import common

from bmflow_components import contracts
from bmflow_components.kubeflow.cli import add_compile, add_execute
from bmflow_components.pipelines import DEFAULT_PRECISIONS, DEFAULT_PROCESSORS

if TYPE_CHECKING:
    from bmflow_components.contracts import Pipeline, Setting, Value

_EXAMPLES = """examples:
  bmflow-pipeline run compile_and_deploy --input model=examples/shapes.onnx --set model_name=shapes
  bmflow-pipeline run compile_and_deploy --input model=net.onnx --input source=pictures --precisions F16,INT8 --set calibrate.method=mse
  bmflow-pipeline run retrain_and_deploy --set dataset.repo=https://example.com/data.git --set dataset.rev=v3 --set dataset.path=shapes
  bmflow-pipeline run compile_and_deploy --run-id nightly ...      the same id again: goes on where it stopped
  bmflow-pipeline list
  bmflow-pipeline show compile_and_deploy                          its tasks, inputs and settings
  bmflow-pipeline compile kubeflow compile_and_deploy -o compile_and_deploy.yaml --registry registry.example.com/team
  bmflow-pipeline execute compile_and_deploy.yaml --set model=examples/shapes.onnx

Exit codes: 0 done, 1 a stage failed, 2 bad input, 3 nothing met the bars of the gate.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool."""
    parse = common.parser("bmflow-pipeline", __doc__ or "", _EXAMPLES)
    verbs = parse.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_run(verbs.add_parser("run", help="run a pipeline on this machine"))
    verbs.add_parser("list", help="list pipelines and stages").set_defaults(run=_list)
    show = verbs.add_parser("show", help="show a pipeline's tasks, inputs and settings")
    show.add_argument("pipeline", choices=[item.name for item in contracts.PIPELINES], metavar="PIPELINE")
    show.set_defaults(run=_show)
    add_compile(verbs.add_parser("compile", help="write a pipeline for Kubeflow Pipelines"))
    add_execute(verbs.add_parser("execute", help="run a pipeline compiled for Kubeflow on this machine"))
    return common.main(parse, lambda options: options.run(options), argv)


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument("pipeline", choices=[item.name for item in contracts.PIPELINES], metavar="PIPELINE")
    run.add_argument("--input", action="append", default=[], metavar="NAME=PATH", help="a file or folder of the pipeline (path or URI)")
    run.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting, such as calibrate.input_num=50")
    run.add_argument(
        "--processors", type=common.comma_list, default=list(DEFAULT_PROCESSORS), help=f"default {','.join(DEFAULT_PROCESSORS)}"
    )
    run.add_argument(
        "--precisions", type=common.comma_list, default=list(DEFAULT_PRECISIONS), help=f"default {','.join(DEFAULT_PRECISIONS)}"
    )
    run.add_argument("--root", default="runs", help="folder of all runs (default runs)")
    run.add_argument("--run-id", default="", help="name of the run (default: date and time); an old one goes on")
    run.add_argument("--jobs", type=int, default=2, help="processes at once (default 2)")
    run.add_argument("--cache", default=None, help="folder of finished work shared by runs (default ROOT/cache; empty: none)")
    run.add_argument("--without", type=common.comma_list, default=[], metavar="NODES", help="leave nodes out, and those that need them")
    run.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from bmflow_components.local import Plan, Runner
    from bmflow_components.progress import shown, summary

    pipeline = _reduced(contracts.pipeline(options.pipeline), options.without)
    root = Path(options.root).absolute()
    run_id = options.run_id or datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    plan = Plan(
        pipeline, root / pipeline.name / _safe(run_id), _known(options.processors, contracts.PROCESSORS, "--processors"),
        _known(options.precisions, contracts.PRECISIONS, "--precisions"), _inputs(options.input), _settings(pipeline, options.set, root),
        options.jobs, str(root / "cache") if options.cache is None else options.cache,
    )  # fmt: skip
    with shown(plan) as show:
        runner = Runner(plan, show)
        code = runner.run()
    print(summary(plan, runner))
    return code


def _reduced(pipeline: Pipeline, names: list[str]) -> Pipeline:
    from bmflow.errors import InputError, nearest_names

    known = [node.name for node in pipeline.nodes]
    for name in names:
        if name not in known:
            raise InputError(f"--without {name}: {pipeline.name} has no such node; {nearest_names(name, known) or ', '.join(known)}")
    return contracts.without(pipeline, names)


def _safe(run_id: str) -> str:
    """A run id as a folder's name: orchestrators put colons and plus signs into theirs."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in run_id).lstrip(".") or "run"


def _known(names: list[str], known: Sequence[str], option: str) -> list[str]:
    from bmflow.errors import InputError, nearest_names

    for name in names:
        if name not in known:
            raise InputError(f"{option} {name}: unknown; {nearest_names(name, known) or 'known are ' + ', '.join(known)}")
    if not names:
        raise InputError(f"{option}: expected at least one of {', '.join(known)}")
    return list(dict.fromkeys(names))


def _inputs(texts: list[str]) -> dict[str, str]:
    from bmflow_components.uri import is_remote

    return {name: path if is_remote(path) else str(Path(path).absolute()) for name, path in common.pairs(texts, "--input").items()}


def _settings(pipeline: Pipeline, texts: list[str], root: Path) -> dict[str, Value]:
    from bmflow.errors import InputError, nearest_names

    known: dict[str, Setting] = {setting.name: setting for setting in pipeline.settings()}
    found: dict[str, Value] = {}
    for name, text in common.pairs(texts, "--set").items():
        setting = known.get(name.replace(".", "_", 1))
        if setting is None:
            hint = nearest_names(name.replace(".", "_", 1), known) or f"`bmflow-pipeline show {pipeline.name}` lists them"
            raise InputError(f"--set {name}: {pipeline.name} has no such setting; {hint}")
        try:
            found[setting.name] = setting.param.read(text)
        except ValueError as error:
            raise InputError(f"--set {name}: {error}") from error
    if "tracking_uri" in known and "tracking_uri" not in found and not os.environ.get("MLFLOW_TRACKING_URI"):
        found["tracking_uri"] = f"sqlite:///{root}/mlflow/mlflow.db"
    return found


def _list(_: argparse.Namespace) -> int:
    width = max(len(item.name) for item in (*contracts.PIPELINES, *contracts.STAGES))
    print("pipelines:")
    for pipeline in contracts.PIPELINES:
        print(f"  {pipeline.name:<{width}}  {pipeline.summary}")
    print("stages:")
    for stage in contracts.STAGES:
        print(f"  {stage.name:<{width}}  {stage.summary}")
    return 0


def _show(options: argparse.Namespace) -> int:
    pipeline = contracts.pipeline(options.pipeline)
    print(f"{pipeline.name}: {pipeline.summary}\n\ntasks:")
    for node in pipeline.nodes:
        over = f" once for each {' and '.join(node.over)}" if node.over else ""
        needs = ", ".join(dict.fromkeys(link.partition(".")[0] for text in node.inputs.values() for link in text.split()))
        print(f"  {node.name}{over}{f', after {needs}' if needs else ''}")
    if pipeline.inputs:
        print("\ninputs (--input NAME=PATH):")
    for port in pipeline.inputs:
        print(f"  {port.name:<10}  {port.help}{'' if port.optional else ' (needed)'}")
    print("\nsettings (--set NAME=VALUE):")
    for setting in pipeline.settings():
        choices = f"; one of {', '.join(setting.param.choices)}" if setting.param.choices else ""
        print(f"  {setting.name} = {setting.param.text(setting.param.default) or '(empty)'}\n      {setting.param.help}{choices}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
