"""The verbs `compile` and `execute` of bmflow-pipeline."""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path

from bmflow.cli import common
from bmflow.errors import InputError

from bmflow_components import contracts


def add_compile(parse: argparse.ArgumentParser) -> None:
    """Options of `compile`."""
    parse.add_argument("target", choices=["kubeflow"], help="what runs it: kubeflow")
    parse.add_argument("pipeline", choices=[item.name for item in contracts.PIPELINES], metavar="PIPELINE")
    parse.add_argument("-o", "--output", required=True, metavar="FILE", help="YAML file to write")
    parse.add_argument("--registry", default="", help="registry of the images, such as registry.example.com/team")
    parse.add_argument("--claim", default="bmflow-runs", help="volume claim that all tasks share (default bmflow-runs, the chart's)")
    parse.add_argument("--mount", default="/runs", help="where it is mounted (default /runs)")
    parse.add_argument("--secret", default="bmflow", help="secret whose keys are names of variables (default bmflow); empty: none")
    parse.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable of the stages that name it, no secret")
    parse.add_argument("--node-selector", action="append", default=[], metavar="LABEL=VALUE", help="a label that nodes must have")
    parse.add_argument("--toleration", action="append", default=[], metavar="KEY[=VALUE][:EFFECT]", help="a taint that pods bear")
    parse.add_argument("--parallel", type=int, default=0, metavar="N", help="most rounds of a loop at once (default: no limit)")
    parse.set_defaults(run=_compile)


def _compile(options: argparse.Namespace) -> int:
    from bmflow import artifacts

    from bmflow_components.kubeflow import ir
    from bmflow_components.kubeflow.cluster import Cluster

    cluster = Cluster(
        options.registry, options.claim, options.mount, options.secret, common.pairs(options.env, "--env"),
        common.pairs(options.node_selector, "--node-selector"), tuple(options.toleration), options.parallel,
    )  # fmt: skip
    artifacts.write_text(options.output, ir.text(contracts.pipeline(options.pipeline), cluster))
    print(
        f"{options.output}: {options.pipeline} for Kubeflow Pipelines; upload it, or try it here: bmflow-pipeline execute {options.output}"
    )
    return 0


def add_execute(parse: argparse.ArgumentParser) -> None:
    """Options of `execute`."""
    parse.add_argument("file", metavar="FILE", help="what `bmflow-pipeline compile kubeflow` or kfp's compiler wrote")
    parse.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the pipeline")
    parse.add_argument("--root", default="runs/kubeflow", help="folder of all such runs, with one for each claim (default runs/kubeflow)")
    parse.add_argument("--run-id", default="", help="name of the run (default: date and time)")
    parse.add_argument("--jobs", type=int, default=2, help="processes at once (default 2)")
    parse.set_defaults(run=_execute)


def _execute(options: argparse.Namespace) -> int:
    from bmflow_components.kubeflow import execute

    spec, platform = execute.read(Path(options.file))
    run_id = options.run_id or datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    if not run_id.replace("-", "").replace("_", "").isalnum():
        raise InputError(f"--run-id {run_id}: expected letters, digits, - and _")
    if options.jobs < 1:
        raise InputError(f"--jobs {options.jobs}: expected 1 or more")
    root = Path(options.root).absolute()
    given = {name: _absolute(value) for name, value in common.pairs(options.set, "--set").items()}
    order = execute.Order(
        spec, platform, root / "runs" / run_id, root / "claims", given, run_id, options.jobs, environment=_environment(root)
    )
    execution = execute.Execution(order, _say)
    code = execution.run()
    print(f"exit code {code}; {order.folder}/run.json has every task, and artifacts/ beside it what they made and their logs")
    return code


def _say(ended: object) -> None:
    """One line for a task that has ended."""
    from bmflow_components.kubeflow.execute import Ended

    assert isinstance(ended, Ended)
    code = f" (exit code {ended.code})" if ended.code else ""
    print(f"{ended.state.value:<8} {ended.seconds:7.1f} s  {ended.name}{code}", flush=True)


def _absolute(value: str) -> str:
    """A path that exists below the current folder made absolute: processes have folders of their own."""
    return str(Path(value).absolute()) if value and Path(value).exists() else value


def _environment(root: Path) -> dict[str, str]:
    """This process's variables; MLflow's store is one below the root unless they name another."""
    (root / "mlflow").mkdir(parents=True, exist_ok=True)
    return {"MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow/mlflow.db", **os.environ}
