"""The command line of a stage, made from its description, and the request it turns into."""

from __future__ import annotations

import argparse
import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bmflow.cli import common
from bmflow.errors import InputError, nearest_names

from bmflow_components import contracts, uri
from bmflow_components.executor import ExecutorInput
from bmflow_components.ports import Param, Port, Stage, Value

PROG = "python -m bmflow_components"


@dataclass(frozen=True)
class Request:
    """What a process was asked to do; local paths are absolute, since a step has a current folder of its own.

    Attributes:
        cache: folder of finished work, empty for none.
        copies: folder that gets copies of the outputs and of result.json, empty for none.
        tries: at most; only a failure of the machinery is tried again.
        executor: what Kubeflow Pipelines said.
        debug: show a traceback when something fails, keep temporary folders.
        command: the words of the command line.
    """

    stage: Stage
    inputs: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, str]
    params: Mapping[str, Value]
    result: str
    cache: str = ""
    copies: str = ""
    tries: int = 1
    executor: ExecutorInput = field(default_factory=ExecutorInput)
    debug: bool = False
    command: tuple[str, ...] = ()


def overview() -> str:
    """The list of stages, for `--help`."""
    width = max(len(stage.name) for stage in contracts.STAGES)
    lines = [f"  {stage.name:<{width}}  {stage.summary}" for stage in contracts.STAGES]
    return f"usage: {PROG} STAGE ...\n\nRun one stage of the pipeline: files in, files out, a result JSON, an exit code.\n\nstages:\n" + "\n".join(
        [*lines, "", f"`{PROG} STAGE --help` lists its ports and parameters.", "Exit codes: 0 done, 1 failed, 2 bad input, 3 below the bar."]
    )  # fmt: skip


def parse(argv: Sequence[str]) -> Request:
    """Read the words after the module's name.

    Raises:
        InputError: no such stage, or a needed input or output is missing.
        SystemExit: usage errors and --help, as argparse does.
    """
    name, rest = argv[0], list(argv[1:])
    known = [stage.name for stage in contracts.STAGES]
    if name not in known:
        raise InputError(f"no stage is called '{name}'; {nearest_names(name, known) or 'known are ' + ', '.join(known)}")
    stage = contracts.stage(name)
    options = parser(stage).parse_args(rest)
    executor = ExecutorInput.parse(options.executor_input) if options.executor_input else ExecutorInput()
    request = Request(
        stage, _inputs(stage, options, executor), _outputs(stage, options, executor), _params(stage, options, executor),
        uri.absolute(options.result), uri.absolute(options.cache) if options.cache else "", uri.absolute(options.copies) if options.copies else "",
        options.tries, executor, options.debug, (*PROG.split(), *argv),
    )  # fmt: skip
    _check(request)
    return request


def parser(stage: Stage) -> argparse.ArgumentParser:
    """The option parser of a stage."""
    parse = common.parser(f"{PROG} {stage.name}", stage.summary, f"Paths may be URIs. Example:\n  {example(stage)}")
    parse.allow_abbrev = False
    ports = parse.add_argument_group("ports", "An empty path stands for an input that is not given.")
    for port in stage.inputs:
        ports.add_argument(f"--in-{port.name}", action="append", metavar=_metavar(port), help=_port_help(port))
    for port in stage.outputs:
        ports.add_argument(f"--out-{port.name}", metavar=_metavar(port), help=port.help.replace("%", "%%"))
    ports.add_argument(
        "--find", action="append", default=[], metavar="PORT=PATTERN", help="the files of an input that are there, by a pattern"
    )
    params = parse.add_argument_group("parameters")
    for param in stage.params:
        params.add_argument(f"--{param.name}", type=_reader(param), metavar=_kind(param), help=_param_help(param))
    process = parse.add_argument_group("process")
    process.add_argument("--result", required=True, metavar="FILE", help="result JSON to write: status, figures, digests, durations")
    process.add_argument("--cache", default="", metavar="FOLDER", help="folder of finished work; what is there is not done again")
    process.add_argument("--copies", default="", metavar="FOLDER", help="folder that gets copies of the outputs and of the result")
    process.add_argument(
        "--tries", type=int, default=1, metavar="N", help="most tries; only a failure of the machinery is tried again (default 1)"
    )
    process.add_argument("--executor-input", default="", metavar="JSON", help="what Kubeflow Pipelines says; fills in what is not given")
    return parse


def example(stage: Stage) -> str:
    """A command line with everything that is needed."""
    inputs = {port.name: f"in/{port.file}" for port in stage.inputs if not port.optional}
    outputs = {port.name: f"out/{port.file}" for port in stage.outputs}
    return " ".join(contracts.argv(stage, inputs, outputs, {}, "out/result.json"))


def _metavar(port: Port) -> str:
    return "FOLDER" if port.folder else "FILE"


def _port_help(port: Port) -> str:
    marks = [*(["optional"] if port.optional else []), *(["any number"] if port.many else [])]
    return port.help.replace("%", "%%") + (f" ({', '.join(marks)})" if marks else "")


def _kind(param: Param) -> str:
    return "{" + ",".join(param.choices) + "}" if param.choices else {bool: "true|false", int: "N", float: "X", str: "TEXT"}[param.type]


def _param_help(param: Param) -> str:
    default = Param.text(param.default)
    return param.help.replace("%", "%%") + (f" (default {default})" if default and "default" not in param.help else "")


def _reader(param: Param) -> Callable[[str], Value]:
    def read(text: str) -> Value:
        try:
            return param.read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def _inputs(stage: Stage, options: argparse.Namespace, executor: ExecutorInput) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    there = _find(stage, options.find)
    for port in stage.inputs:
        given = [path for path in getattr(options, f"in_{port.name}") or executor.inputs.get(port.name, []) if path] + there.get(
            port.name, []
        )
        if len(given) > 1 and not port.many:
            raise InputError(f"--in-{port.name}: expected one, found {len(given)}: {', '.join(given)}")
        if given:
            found[port.name] = tuple(map(uri.absolute, given))
    return found


def _find(stage: Stage, texts: Sequence[str]) -> dict[str, list[str]]:
    """The files of every `PORT=PATTERN`, sorted; there may be none."""
    found: dict[str, list[str]] = {}
    known = [port.name for port in stage.inputs]
    for text in texts:
        name, sign, pattern = text.partition("=")
        if not sign or name not in known:
            raise InputError(f"--find {text}: expected PORT=PATTERN with one of {', '.join(known) or 'no port at all'}")
        if uri.is_remote(pattern):
            raise InputError(f"--find {text}: expected the pattern of a local path, found a URI")
        found.setdefault(name, []).extend(sorted(glob.glob(str(uri.local(pattern)))))
    return found


def _outputs(stage: Stage, options: argparse.Namespace, executor: ExecutorInput) -> dict[str, str]:
    given = {port.name: getattr(options, f"out_{port.name}") or executor.outputs.get(port.name, "") for port in stage.outputs}
    return {name: uri.absolute(path) for name, path in given.items() if path}


def _params(stage: Stage, options: argparse.Namespace, executor: ExecutorInput) -> dict[str, Value]:
    found = dict(stage.defaults())
    for param in stage.params:
        given = getattr(options, param.name)
        if given is not None:
            found[param.name] = given
        elif param.name in executor.params:
            try:
                found[param.name] = param.read(executor.params[param.name])
            except ValueError as error:
                raise InputError(f"--executor-input, parameter {param.name}: {error}") from error
    return found


def _check(request: Request) -> None:
    stage = request.stage
    missing = [f"--in-{port.name} ({port.help})" for port in stage.inputs if not port.optional and port.name not in request.inputs]
    missing += [f"--out-{port.name} ({port.help})" for port in stage.outputs if port.name not in request.outputs]
    if missing:
        raise InputError(f"stage {stage.name} needs {'; '.join(missing)}")
    if request.tries < 1:
        raise InputError(f"--tries {request.tries}: expected 1 or more")
    places = [*request.outputs.values(), request.result]
    if twice := {place for place in places if places.count(place) > 1}:
        raise InputError(f"{', '.join(sorted(twice))}: two outputs cannot have the same place")
