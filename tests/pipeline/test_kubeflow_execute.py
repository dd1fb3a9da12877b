"""The runner of compiled pipelines, on pipelines that kfp's own compiler wrote: exit codes, conditions, loops, exit handler."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from bmflow.errors import InputError
from bmflow_components.kubeflow import execute
from bmflow_components.kubeflow.execute import Execution, Order, State
from bmflow_components.kubeflow.expression import holds
from bmflow_components.kubeflow.placeholders import ExecutorInput, fill

SHELL = """
set -e
echo "$1 $2 $(cat "$3" 2>/dev/null)" > "$4"
test "$2" != bad || exit 7
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with everything that this project's pipelines have, and more, written by kfp's compiler."""
    pytest.importorskip("kfp", reason="kfp is not installed; install the extra `kfp`")
    from kfp import compiler, dsl, kubernetes

    def make(where: str, word: str, out: dsl.Output[dsl.Artifact]):  # type: ignore[no-untyped-def]
        return dsl.ContainerSpec(image="none", command=["sh", "-c", SHELL, "sh"], args=[where, word, "/none", out.path])

    def use(where: str, word: str, given: dsl.Input[dsl.Artifact], out: dsl.Output[dsl.Artifact]):  # type: ignore[no-untyped-def]
        return dsl.ContainerSpec(image="none", command=["sh", "-c", SHELL, "sh"], args=[where, word, given.path, out.path])

    def gather(told: str, given: dsl.Input[list[dsl.Artifact]], out: dsl.Output[dsl.Artifact]):  # type: ignore[no-untyped-def]
        return dsl.ContainerSpec(image="none", command=["sh", "-c", 'printf "%s" "$1" > "$2"', "sh"], args=["{{$}}", out.path])

    def say(word: str, said: dsl.OutputPath(str)):  # type: ignore[no-untyped-def, valid-type]
        return dsl.ContainerSpec(
            image="none", command=["sh", "-c", 'mkdir -p "$(dirname "$2")"; printf "%s" "$1" > "$2"', "sh"], args=[word, said]
        )

    def last(run: str, secret: str):  # type: ignore[no-untyped-def]
        text = 'echo "$1 $2 ${TOKEN:-unset} $PLAIN" >> /shared/last; ls -d /shared/last'
        return dsl.ContainerSpec(image="none", command=["sh", "-c", text.replace("/shared", '"$3"'), "sh"], args=[run, secret, "/shared"])

    made, used, gathered, said, ended = map(dsl.container_component, (make, use, gather, say, last))

    @dsl.pipeline(name="everything")
    def everything(word: str, words: list = ["a", "b"], number: int = 3):  # type: ignore[type-arg] # noqa: B006 (kfp wants a list)
        end = ended(run=dsl.PIPELINE_JOB_ID_PLACEHOLDER, secret="x").set_env_variable("PLAIN", "plain")
        kubernetes.mount_pvc(end, pvc_name="claim", mount_path="/shared")
        kubernetes.use_secret_as_env(end, "s", {"k": "TOKEN"}, optional=True)
        with dsl.ExitHandler(end):
            start = made(where="start", word=word)
            asked = said(word=word)
            with dsl.ParallelFor(words) as item:
                with dsl.If(item == "b"):
                    one = used(where="if", word=item, given=start.outputs["out"])
                with dsl.Else():
                    two = used(where="else", word=item, given=start.outputs["out"])
                dsl.OneOf(one.outputs["out"], two.outputs["out"])
                looped = used(where="each", word=item, given=start.outputs["out"])
            gathered(told="x", given=dsl.Collected(looped.outputs["out"]))
            with dsl.If(asked.outputs["said"] == "good"):
                made(where="asked", word="yes")

    file = tmp_path_factory.mktemp("kfp") / "everything.yaml"
    compiler.Compiler().compile(everything, str(file))
    return file


def run(file: Path, folder: Path, environment: Mapping[str, str] | None = None, **given: Any) -> tuple[int, dict[str, State], Path]:
    """Exit code, states by task, and the folder of artifacts."""
    order = Order(
        *execute.read(file), folder / "run", folder / "claims", given, "r1", environment={"PATH": "/usr/bin:/bin", **(environment or {})}
    )
    execution = Execution(order)
    code = execution.run()
    return code, {item.name: item.state for item in execution.ended}, folder / "run/artifacts"


def test_what_kfp_compiled_runs_as_it_says(compiled: Path, tmp_path: Path) -> None:
    """Both branches, all rounds, lists of artifacts, output parameters, the claim, and only the secrets of the task itself."""
    code, states, made = run(compiled, tmp_path, {"TOKEN": "t0ken"}, word="good")
    assert code == 0, states
    assert sum(state is State.SKIPPED for state in states.values()) == 2
    texts = sorted(path.read_text().strip() for path in made.glob("**/out") if path.parent.name != "gather")
    assert texts == ["asked yes", "each a start good", "each b start good", "else a start good", "if b start good", "start good"]
    [told] = made.glob("**/gather/out")
    given = json.loads(told.read_text())["inputs"]["artifacts"]["given"]["artifacts"]
    assert [Path(item["uri"]).read_text().split()[:2] for item in given] == [["each", "a"], ["each", "b"]]
    assert (tmp_path / "claims/claim/last").read_text() == "r1 x t0ken plain\n"


def test_a_condition_on_what_a_task_said_is_looked_at_when_it_runs(compiled: Path, tmp_path: Path) -> None:
    code, states, _ = run(compiled, tmp_path, word="other", words='["a"]')
    assert code == 0
    assert [name for name, state in states.items() if state is State.SKIPPED and name.count("/") == 1]


def test_a_failed_round_fails_the_loop_and_not_the_exit_handler(compiled: Path, tmp_path: Path) -> None:
    """The exit code is the process's own; the other rounds go on; what gathers from the loop does not start."""
    code, states, _ = run(compiled, tmp_path, word="good", words=["a", "bad"])
    assert code == 7
    failed = [name for name, state in states.items() if state is State.FAILED]
    assert failed
    assert all("[bad]" in name for name in failed)
    assert State.DONE in {state for name, state in states.items() if "[a]" in name}
    assert [state for name, state in states.items() if name.endswith("gather")] == [State.BLOCKED]
    assert (tmp_path / "claims/claim/last").read_text() == "r1 x unset plain\n"
    summary = json.loads((tmp_path / "run/run.json").read_text())
    assert (summary["exit_code"], summary["pipeline"]) == (7, "everything")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "everything needs word"),
        ({"word": "x", "number": "many"}, "parameter number: expected NUMBER_INTEGER, found many"),
        ({"word": "x", "wrod": "y"}, "everything has no parameter wrod; it has number, word, words"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(compiled: Path, tmp_path: Path, given: dict[str, str], text: str) -> None:
    with pytest.raises(InputError, match=text):
        run(compiled, tmp_path, **given)


def test_a_file_that_is_no_compiled_pipeline_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    file = tmp_path / "x.yaml"
    for text in ("a: 1\n", "a: [\n", ""):
        file.write_text(text)
        with pytest.raises(InputError, match="expected a compiled pipeline"):
            execute.read(file)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("inputs.parameter_values['a'] == 'x'", True),
        ("!(inputs.parameter_values['a'] == 'x')", False),
        ("inputs.parameter_values['a'] != 'y' && inputs.parameter_values['n'] >= 3", True),
        ("inputs.parameter_values['a'] == 'y' || inputs.parameter_values['n'] < 3.5", True),
        ("inputs.parameter_values['b'] == true", False),
        ("!(inputs.parameter_values['a'] == 'x') && !(inputs.parameter_values['a'] == 'y')", False),
    ],
)
def test_conditions_hold_as_they_read(text: str, value: bool) -> None:
    assert holds(text, {"a": "x", "n": 3.0, "b": False}) is value


@pytest.mark.parametrize("text", ["inputs.parameter_values['z'] == 1", "__import__('os')", "(1 == 1", "1 == 1 1", "&&", ""])
def test_conditions_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="condition"):
        holds(text, {"a": "x"})


def test_placeholders_are_filled_in_as_by_the_launcher() -> None:
    """Also inside of words, in concatenations, and where something is there or not."""
    artifact = {"name": "m", "uri": "/a/m", "type": {}, "metadata": {}}
    given = ExecutorInput(
        {"n": 3.0, "f": 0.5, "t": "a b", "l": ["x"], "yes": True}, {"m": [artifact]}, {"o": artifact}, {"p": "/a/p"}, "/a/out"
    )
    words = [
        "{{$.inputs.parameters['n']}}", "x={{$.inputs.parameters['f']}}/{{$.inputs.parameters['t']}}", "{{$.inputs.parameters['l']}}",
        "{{$.inputs.parameters['yes']}}", "{{$.inputs.artifacts['m'].path}}", "{{$.outputs.artifacts['o'].uri}}",
        "{{$.outputs.parameters['p'].output_file}}", '{"IfPresent": {"InputName": "m", "Then": ["--m", "{{$.inputs.artifacts[\'m\'].path}}"]}}',
        '{"IfPresent": {"InputName": "none", "Then": ["--none"], "Else": ["--other"]}}', '{"Concat": ["a", "{{$.inputs.parameters[\'t\']}}"]}',
    ]  # fmt: skip
    assert fill(words, given) == ["3", "x=0.5/a b", '["x"]', "true", "/a/m", "/a/m", "/a/p", "--m", "/a/m", "--other", "aa b"]
    with pytest.raises(InputError, match=r"\{\{\$.inputs.parameters\['none'\]\}\}: no such placeholder"):
        fill(["{{$.inputs.parameters['none']}}"], given)


def test_python_of_a_container_is_the_one_that_runs_this(tmp_path: Path) -> None:
    """And a time limit is kept."""
    container = {"command": ["python", "-c"], "args": ["import sys, time; print(sys.executable, flush=True); time.sleep(60)"]}
    spec: dict[str, Any] = {
        "pipelineInfo": {"name": "p"}, "components": {"c": {"executorLabel": "e"}},
        "deploymentSpec": {"executors": {"e": {"container": container}}},
        "root": {"dag": {"tasks": {"t": {"componentRef": {"name": "c"}}}}},
    }  # fmt: skip
    platform = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": {"e": {"activeDeadlineSeconds": "3"}}}}}}
    execution = Execution(Order(spec, platform, tmp_path, tmp_path))
    assert execution.run() != 0
    log = (tmp_path / "artifacts/t/log.txt").read_text()
    assert log.splitlines() == [sys.executable, "stopped after 3 s, its limit"]


def test_a_command_that_this_machine_lacks_fails_like_in_a_shell(tmp_path: Path) -> None:
    spec: dict[str, Any] = {
        "pipelineInfo": {"name": "p"}, "components": {"c": {"executorLabel": "e"}, "d": {"executorLabel": "f"}},
        "deploymentSpec": {"executors": {"e": {"container": {"command": ["no-such-command"]}}, "f": {"importer": {}}}},
        "root": {"dag": {"tasks": {"t": {"componentRef": {"name": "c"}}}}},
    }  # fmt: skip
    assert Execution(Order(spec, {}, tmp_path, tmp_path)).run() == 127
    assert "no-such-command: cannot be started on this machine" in (tmp_path / "artifacts/t/log.txt").read_text()
    spec["root"]["dag"]["tasks"]["t"]["componentRef"]["name"] = "d"
    with pytest.raises(InputError, match="t: its executor is no container"):
        Execution(Order(spec, {}, tmp_path, tmp_path)).run()
