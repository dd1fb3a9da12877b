"""The local runner: order, concurrency, resuming, failures, signals; its tasks are real processes of a toy stage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from bmflow.errors import InputError
from bmflow_components import contracts, pipelines
from bmflow_components.cli import main
from bmflow_components.contracts import Node, Pipeline, Runs
from bmflow_components.local import Plan, Runner, State
from bmflow_components.pipelines import without
from bmflow_components.ports import Kind, Port, Stage
from toy_stage import NET, TOY

SCRIPT = Path(__file__).with_name("toy_stage.py")
ROOT = SCRIPT.parents[3]
AXES = ("processor", "quantize")
GIVEN = (Port("text", Kind.RECORD, "text.txt", "a text"),)
FAN = Pipeline(
    "fan",
    "Twenty candidates between a first and a last task.",
    (
        Node("first", "toy", {"text": "inputs.text"}, {"tag": "first"}),
        Node("each", "toy", {"text": "first.file"}, {"tag": "each"}, AXES),
        Node("last", "toy", {"text": "first.file", "more": "each.file"}, {"tag": "last"}, (), (), Runs.SOME, ("more",)),
        Node("always", "toy", {"text": "inputs.text", "more": "last.file each.result"}, {"tag": "always"}, (), (), Runs.ALWAYS),
    ),
    GIVEN,
)


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let graphs use the toy stages and processes find them."""
    for stage in (TOY, NET):
        monkeypatch.setitem(
            pipelines._STAGES, stage.name, replace(stage, inputs=(replace(stage.inputs[0], kind=Kind.METRICS), stage.inputs[1]))
        )
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "compiler"), str(ROOT / "components")]))
    (tmp_path / "in.txt").write_text("hello")


def as_toy(stage: Stage, words: list[str], folder: Path) -> list[str]:
    """Run the toy script instead of `python -m bmflow_components`."""
    return [sys.executable, str(SCRIPT), *words[3:]]


def plan(tmp_path: Path, pipeline: Pipeline = FAN, count: int = 3, **more: object) -> Plan:
    """A run of `count` candidates."""
    names = [f"q{number:02d}" for number in range(count)]
    return Plan(pipeline, tmp_path / "run", ["p"], names, {"text": str(tmp_path / "in.txt")}, wrap=as_toy, retry_s=0.05, **more)  # type: ignore[arg-type]


def states(runner: Runner) -> dict[str, State]:
    """State by task."""
    return {name: item.state for name, item in runner.progress.items()}


def starts(tmp_path: Path) -> Counter[str]:
    """How often the step began, by tag."""
    lines = (tmp_path / "log").read_text().splitlines() if (tmp_path / "log").exists() else []
    return Counter(line.split()[2] for line in lines if line.startswith("start"))


def test_twenty_candidates_share_a_pool_of_two_and_none_is_lost_or_mixed(tmp_path: Path) -> None:
    """Never more than two at once; every output carries its own candidate; the last task gets all twenty."""
    most = 0

    def watch(_: object) -> None:
        nonlocal most
        most = max(most, sum(item.state is State.RUNNING for item in runner.progress.values()))

    runner = Runner(plan(tmp_path, count=20), watch)
    assert runner.run() == 0
    assert set(states(runner).values()) == {State.DONE}
    for number in range(20):
        folder = tmp_path / f"run/each/p-q{number:02d}"
        assert (folder / "out.json").read_text() == f"hello|first||each|q{number:02d}"
        assert (folder / "parts/2.txt").read_text() == f"2 hello|first||each|q{number:02d}"
    last = (tmp_path / "run/last/out.json").read_text()
    assert [f"q{number:02d}" in last for number in range(20)] == [True] * 20
    assert most == 2


def test_the_same_run_again_does_nothing_and_goes_on_where_something_is_missing(tmp_path: Path) -> None:
    """Kept tasks stay kept; a lost output is made anew, and since it is the same, what follows from it is kept too."""
    Runner(plan(tmp_path)).run()
    again = Runner(plan(tmp_path))
    assert again.run() == 0
    assert set(states(again).values()) == {State.KEPT, State.DONE} - ({State.DONE} if states(again)["always"] is State.KEPT else set())
    assert {name for name, state in states(again).items() if state is State.DONE} <= {"always"}
    (tmp_path / "run/each/p-q01/out.json").unlink()
    third = Runner(plan(tmp_path))
    assert third.run() == 0
    assert states(third)["each[p/q01]"] is State.DONE
    assert states(third)["each[p/q00]"] is State.KEPT
    assert states(third)["last"] is State.KEPT


def failing(mode: str, node: str, stage: str = "toy") -> Pipeline:
    """FAN with a node that does something else."""
    nodes = tuple(replace(n, stage=stage, params={**n.params, "mode": mode}) if n.name == node else n for n in FAN.nodes)
    return replace(FAN, nodes=nodes)


def test_what_follows_a_failed_task_is_blocked_but_what_always_runs_runs(tmp_path: Path) -> None:
    """The run ends with the failed task's code."""
    runner = Runner(plan(tmp_path, failing("input", "first"), 2))
    assert runner.run() == 2
    assert states(runner) == {
        "first": State.FAILED, "each[p/q00]": State.BLOCKED, "each[p/q01]": State.BLOCKED, "last": State.BLOCKED, "always": State.DONE,
    }  # fmt: skip
    summary = json.loads((tmp_path / "run/run.json").read_text())
    assert summary["exit_code"] == 2
    assert summary["tasks"][0]["state"] == "failed"
    assert "expected a sound file" in summary["tasks"][0]["error"]


def test_below_the_bar_is_exit_code_three_and_its_outputs_go_to_what_always_runs(tmp_path: Path) -> None:
    """As the report gets a gate's decision that nothing passes."""
    runner = Runner(plan(tmp_path, failing("below", "last"), 2))
    assert runner.run() == 3
    assert states(runner)["last"] is State.BELOW_BAR
    assert "hello|first|" in (tmp_path / "run/always/out.json").read_text()


def test_one_failed_candidate_does_not_stop_the_others_nor_fail_the_run(tmp_path: Path) -> None:
    """The last task takes what there is; with no candidate left the run fails with their code."""
    (tmp_path / "fail").touch()

    def fail_one(stage: Stage, words: list[str], folder: Path) -> list[str]:
        return as_toy(stage, [*words, *(["--mode", "compile"] if "q01" in words else [])], folder)

    runner = Runner(replace(plan(tmp_path), wrap=fail_one))
    assert runner.run() == 0
    assert states(runner)["each[p/q01]"] is State.FAILED
    assert states(runner)["last"] is State.DONE
    assert "q01" not in (tmp_path / "run/last/out.json").read_text()

    def fail_all(stage: Stage, words: list[str], folder: Path) -> list[str]:
        return as_toy(stage, [*words, *(["--mode", "compile"] if "each" in words else [])], folder)

    runner = Runner(replace(plan(tmp_path), folder=tmp_path / "other", wrap=fail_all))
    assert runner.run() == 1
    assert states(runner)["last"] is State.BLOCKED


@pytest.mark.parametrize(("mode", "stage", "tries"), [("full", "net", 3), ("compile", "net", 1), ("input", "net", 1), ("full", "toy", 1)])
def test_only_failures_of_the_machinery_are_tried_again_and_only_as_often_as_the_stage_allows(
    tmp_path: Path, mode: str, stage: str, tries: int
) -> None:  # fmt: skip
    """The stage `net` allows two further tries, `toy` none."""
    runner = Runner(plan(tmp_path, failing(mode, "first", stage), 1))
    assert runner.run() != 0
    assert runner.progress["first"].tries == tries
    assert starts(tmp_path)["first"] == tries


def test_a_stage_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM at its limit, and the log says why."""
    known = pipelines._STAGES["toy"]
    monkeypatch.setitem(pipelines._STAGES, "toy", replace(known, resources=replace(known.resources, timeout_s=2)))
    runner = Runner(plan(tmp_path, failing("hang", "first"), 1))
    assert runner.run() == 1
    assert "stopped after 2 s, the limit of the stage" in (tmp_path / "run/first/log.txt").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_runner_ends_its_processes(tmp_path: Path, number: signal.Signals) -> None:
    """No child outlives it, and no half output stays."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import toy_stage; toy_stage.install();"
        "import test_local as t; from bmflow_components.local import Runner;"
        "raise SystemExit(Runner(t.plan(Path(sys.argv[2]), t.failing('hang', 'first'), 1)).run())"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(SCRIPT.parent)])}
    child = subprocess.Popen([sys.executable, "-c", code, str(SCRIPT.parent), str(tmp_path)], env=env, start_new_session=True)
    deadline = time.monotonic() + 40
    while not starts(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.3)
    child.send_signal(number)
    assert child.wait(30) == 1
    assert json.loads((tmp_path / "run/first/result.json").read_text())["status"] == "terminated"
    assert not [path for path in (tmp_path / "run/first").iterdir() if path.name.endswith(".part")]


def test_a_killed_run_goes_on_without_redoing_what_was_finished(tmp_path: Path) -> None:
    """SIGKILL to runner and children, in the middle of the third of three stages."""
    code = (
        "import sys; from pathlib import Path; import toy_stage; toy_stage.install(); import test_local as t;"
        "from bmflow_components.local import Runner; Runner(t.plan(Path(sys.argv[1]), t.failing('hang', 'last'), 2)).run()"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(SCRIPT.parent)])}
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=env)
    deadline = time.monotonic() + 40
    while not starts(tmp_path)["last"] and time.monotonic() < deadline:
        time.sleep(0.1)
    child.kill()
    for found in subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False).stdout.split():
        os.kill(int(found), signal.SIGKILL)
    child.wait()
    runner = Runner(plan(tmp_path, count=2))
    assert runner.run() == 0
    assert states(runner)["first"] is State.KEPT
    assert states(runner)["each[p/q01]"] is State.KEPT
    assert starts(tmp_path)["each"] == 2
    assert (tmp_path / "run/last/out.json").read_text().endswith("|last|")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run compile_and_deploy", "needs --input model=PATH"),
        ("run compile_and_deploy --input modell=x", "has no input modell"),
        ("run compile_and_deploy --input model=/nowhere.onnx", "no such file or folder; expected the network as an ONNX file"),
        ("run compile_and_deploy --set calibrate.metod=kl", "no such setting; did you mean calibrate_method"),
        ("run compile_and_deploy --set calibrate.method=kll", "expected one of kl, mse"),
        ("run compile_and_deploy --set dataset.seed=x", "expected a whole number, found x"),
        ("run compile_and_deploy --precisions INT9", "--precisions INT9: unknown; did you mean INT8"),
        ("run compile_and_deploy --processors bm1684y", "--processors bm1684y: unknown; did you mean bm1684"),
        ("run compile_and_deploy --without regster", "has no such node; did you mean register"),
    ],
)
def test_wrong_usage_of_the_command_is_one_sentence(words: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Exit code 2."""
    assert main([*words.split(), "--root", str(tmp_path / "runs")]) == 2
    assert message in capsys.readouterr().err


def test_list_and_show_tell_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Every pipeline, stage, input and setting."""
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert all(item.name in text for item in (*contracts.PIPELINES, *contracts.STAGES))
    assert main(["show", "retrain_and_deploy"]) == 0
    text = capsys.readouterr().out
    assert all(setting.name in text for setting in contracts.pipeline("retrain_and_deploy").settings())


def test_an_unknown_node_cannot_be_left_out() -> None:
    """KeyError for programs."""
    with pytest.raises(KeyError):
        without(FAN, ["nobody"])


def test_a_run_without_processes_at_once_is_refused(tmp_path: Path) -> None:
    """jobs 0."""
    with pytest.raises(InputError, match="--jobs 0: expected 1 or more"):
        Runner(plan(tmp_path, jobs=0))
