"""The process contract: atomic outputs, idempotence, signals, exit codes, caching, Kubeflow's executor input."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bmflow_components import commit
from toy_stage import SECRET

TOY = Path(__file__).with_name("toy_stage.py")
ROOT = TOY.parents[3]


@dataclass(frozen=True)
class Bench:
    """A folder with an input and places for the outputs."""

    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def place(self, name: str) -> Path:
        return self.folder / "out" / name

    def words(self, *more: str, stage: str = "toy", out: str = "out") -> list[str]:
        base = self.folder / out
        return [
            sys.executable, str(TOY), stage, "--in-text", str(self.folder / "in.data"), "--out-file", str(base / "file.json"),
            "--out-parts", str(base / "parts"), "--result", str(base / "result.json"), *more,
        ]  # fmt: skip

    def env(self) -> dict[str, str]:
        path = os.pathsep.join([str(ROOT / "compiler"), str(ROOT / "components")])
        return {**os.environ, "PYTHONPATH": path, "TOY_LOG": str(self.log), "MLFLOW_TRACKING_TOKEN": SECRET}

    def start(self, *more: str, **kind: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.words(*more, **kind), env=self.env(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.folder
        )

    def run(self, *more: str, **kind: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*more, **kind), env=self.env(), text=True, capture_output=True, cwd=self.folder, timeout=60, check=False
        )

    def result(self, out: str = "out") -> dict[str, Any]:
        return json.loads((self.folder / out / "result.json").read_text())

    def starts(self) -> int:
        return sum(line.startswith("start") for line in self.log.read_text().splitlines()) if self.log.exists() else 0

    def wait_for_step(self) -> None:
        deadline = time.monotonic() + 30
        while not self.starts() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)

    def temporary(self) -> list[str]:
        return [path.name for path in (self.folder / "out").iterdir() if path.name.endswith(".part")]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """An input whose name has another suffix than the port declares."""
    (tmp_path / "in.data").write_text("hello")
    return Bench(tmp_path)


def test_a_run_leaves_outputs_and_a_result_that_describes_them(bench: Bench) -> None:
    """Digests against hashlib."""
    done = bench.run("--tag", "one")
    assert done.returncode == 0, done.stderr
    assert bench.place("file.json").read_text() == "hello|one|"
    result = bench.result()
    assert (result["status"], result["exit_code"], result["error"]) == ("done", 0, "")
    assert result["outputs"]["file"]["digest"] == hashlib.sha256(b"hello|one|").hexdigest()
    lines = "".join(f"{hashlib.sha256(f'{k} hello|one|'.encode()).hexdigest()}  {k}.txt\n" for k in range(3))
    assert result["outputs"]["parts"]["digest"] == hashlib.sha256(lines.encode()).hexdigest()
    assert result["inputs"]["text"][0]["digest"] == hashlib.sha256(b"hello").hexdigest()
    assert result["metrics"] == {"figure": 0.75}
    assert result["facts"] == {"said": "one"}
    assert bench.temporary() == []
    assert done.stdout == ""


def test_finished_work_is_not_done_again_until_something_it_follows_from_changes(bench: Bench) -> None:
    """Input, parameter, output: each change means one more run of the step."""
    bench.run()
    assert bench.run().returncode == 0
    assert bench.starts() == 1
    bench.run("--tag", "two")
    assert bench.starts() == 2
    (bench.folder / "in.data").write_text("other")
    bench.run("--tag", "two")
    assert bench.starts() == 3
    (bench.place("parts") / "1.txt").write_text("altered")
    bench.run("--tag", "two")
    assert bench.starts() == 4
    assert (bench.place("parts") / "1.txt").read_text() == "1 other|two|"
    bench.run("--tag", "two")
    assert bench.starts() == 4


def test_a_killed_run_leaves_temporary_names_alone_and_the_next_one_clears_them_away(bench: Bench) -> None:
    """SIGKILL in the middle of writing."""
    child = bench.start("--mode", "hang")
    bench.wait_for_step()
    child.kill()
    child.wait()
    assert not bench.place("file.json").exists()
    assert not bench.place("parts").exists()
    assert not bench.place("result.json").exists()
    assert len(bench.temporary()) == 1
    assert bench.run().returncode == 0
    assert bench.temporary() == []
    assert (bench.place("parts") / "2.txt").read_text() == "2 hello||"


@pytest.mark.parametrize("mode", ["hang", "native"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_cleanly_even_in_native_code(bench: Bench, mode: str, number: signal.Signals) -> None:
    """Exit code 1, nothing but the word that it was stopped, worth another try."""
    child = bench.start("--mode", mode)
    bench.wait_for_step()
    started = time.monotonic()
    child.send_signal(number)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 1
    assert time.monotonic() - started < 5
    assert f"stopped by {number.name}" in errors
    assert bench.result()["status"] == "terminated"
    assert bench.result()["retryable"] is True
    assert sorted(path.name for path in bench.place("").iterdir()) == [".result.json.lock", "result.json"]


def test_earlier_outputs_outlive_a_run_that_fails(bench: Bench) -> None:
    """And the result says that the last run failed."""
    bench.run("--tag", "good")
    assert bench.run("--mode", "bug").returncode == 1
    assert bench.place("file.json").read_text() == "hello|good|"
    assert bench.result()["outputs"] == {}
    assert bench.run("--tag", "good").returncode == 0
    assert bench.starts() == 3


@dataclass(frozen=True)
class Failure:
    """A way to fail, and what must come of it."""

    mode: str
    code: int
    status: str
    retryable: bool
    text: str
    stage: str = "toy"


@pytest.mark.parametrize(
    "case",
    [
        Failure("input", 2, "bad_input", False, "expected a sound file"),
        Failure("compile", 1, "failed", False, "layer conv1: cannot be compiled"),
        Failure("compile", 1, "failed", False, "layer conv1", "net"),
        Failure("full", 1, "failed", True, "/somewhere/big: no room left on the disk"),
        Failure("bug", 1, "failed", False, "internal error, ZeroDivisionError: oops. This is a defect of bmflow"),
        Failure("nothing", 1, "failed", False, "the step wrote no file, parts"),
    ],
    ids=lambda case: f"{case.stage}-{case.mode}",
)
def test_a_failure_is_one_paragraph_a_status_and_an_exit_code(bench: Bench, case: Failure) -> None:
    """On standard error and in result.json alike; no traceback."""
    done = bench.run("--mode", case.mode, stage=case.stage)
    result = bench.result()
    assert (done.returncode, result["exit_code"], result["status"], result["retryable"]) == (
        case.code,
        case.code,
        case.status,
        case.retryable,
    )
    assert case.text in done.stderr
    assert case.text in result["error"]
    assert "Traceback" not in done.stderr
    assert not bench.place("file.json").exists()


def test_below_the_bar_keeps_its_outputs_and_says_so_again_without_work(bench: Bench) -> None:
    """Exit code 3 both times."""
    assert bench.run("--mode", "below").returncode == 3
    assert bench.place("file.json").exists()
    again = bench.run("--mode", "below")
    assert again.returncode == 3
    assert "0.25 is below the bar" in again.stderr
    assert bench.starts() == 1


def test_secrets_are_hidden_in_messages_results_and_commands(bench: Bench) -> None:
    """The value of a secret variable, and a password in an address."""
    done = bench.run("--mode", "input", "--tag", f"https://me:{SECRET}@host/")
    assert SECRET not in done.stderr
    assert SECRET not in bench.place("result.json").read_text()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["toi"], "no stage is called 'toi'; did you mean toy"),
        (["toy", "--result", "r.json"], "stage toy needs --in-text (a text); --out-file (a file); --out-parts (a folder)"),
        (["toy", "--result", "r.json", "--seconds", "-1"], "argument --seconds: expected 0 or more, found -1"),
        (["toy", "--result", "r.json", "--in-text", "a", "--in-text", "b"], "--in-text: expected one, found 2: a, b"),
        (["toy", "--result", "x", "--in-text", "a", "--out-file", "y", "--out-parts", "y"], "y: two outputs cannot have the same place"),
        (["toy", "--result", "r", "--executor-input", "{nonsense"], "--executor-input: not the JSON that Kubeflow Pipelines gives"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_touched(bench: Bench, words: list[str], text: str) -> None:
    """Exit code 2, and no file."""
    before = sorted(bench.folder.iterdir())
    done = subprocess.run(
        [sys.executable, str(TOY), *words], env=bench.env(), text=True, capture_output=True, cwd=bench.folder, check=False
    )
    assert done.returncode == 2
    assert text in done.stderr
    assert sorted(bench.folder.iterdir()) == before


def test_a_missing_input_and_a_folder_for_a_file_are_named(bench: Bench) -> None:
    """Exit code 2 with the path."""
    (bench.folder / "in.data").unlink()
    assert "in.data: no such file or folder; expected a text" in bench.run().stderr
    (bench.folder / "in.data").mkdir()
    done = bench.run()
    assert done.returncode == 2
    assert "expected a file, found a folder" in done.stderr


def test_two_runs_for_the_same_place_do_the_work_once(bench: Bench) -> None:
    """The second waits for the first and finds it done."""
    children = [bench.start("--seconds", "1") for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert bench.starts() == 1
    assert bench.temporary() == []


def test_runs_at_once_in_different_places_do_not_mix(bench: Bench) -> None:
    """Each place holds the outputs of its own parameters."""
    children = [bench.start("--tag", f"t{number}", "--seconds", "0.5", out=f"out{number}") for number in range(4)]
    assert [child.wait(60) for child in children] == [0] * 4
    for number in range(4):
        folder = bench.folder / f"out{number}"
        assert (folder / "file.json").read_text() == f"hello|t{number}|"
        assert {file.read_text()[2:] for file in (folder / "parts").iterdir()} == {f"hello|t{number}|"}


def test_relative_paths_are_those_of_the_folder_the_process_was_started_in(bench: Bench) -> None:
    """The step itself works in a folder of its own."""
    words = "toy --in-text in.data --out-file a/file.json --out-parts a/parts --result a/result.json --cache kept"
    for count in (1, 1):
        done = subprocess.run(
            [sys.executable, str(TOY), *words.split()], env=bench.env(), cwd=bench.folder, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert bench.starts() == count
    assert (bench.folder / "a/file.json").read_text() == "hello||"
    assert (bench.folder / "a/parts/0.txt").exists()
    assert (bench.folder / "kept").is_dir()


def test_the_cache_gives_finished_work_to_other_places_and_is_not_trusted_blindly(bench: Bench) -> None:
    """An altered entry is done anew."""
    cache = str(bench.folder / "cache")
    bench.run("--cache", cache)
    done = bench.run("--cache", cache, out="second")
    assert done.returncode == 0
    assert bench.starts() == 1
    assert (bench.folder / "second/parts/1.txt").read_text() == "1 hello||"
    assert bench.result("second")["outputs"]["file"]["path"] == str(bench.folder / "second/file.json")
    [kept] = (bench.folder / "cache").glob("*/*/parts/1.txt")
    kept.unlink()
    kept.write_text("altered")
    assert "altered since it was kept" in bench.run("--cache", cache, out="third").stderr
    assert bench.starts() == 2
    assert (bench.folder / "third/parts/1.txt").read_text() == "1 hello||"


def test_remote_inputs_and_outputs_go_through_fsspec(bench: Bench) -> None:
    """`local://` is fsspec's own name for the local disk; a finished remote run is not redone, a missing input is refused."""
    pytest.importorskip("fsspec", reason="fsspec is not installed; install the extra `pipeline`")
    remote = f"local://{bench.folder}/remote"
    words = [
        sys.executable, str(TOY), "toy", "--in-text", f"local://{bench.folder}/in.data", "--out-file", f"{remote}/a/file.json",
        "--out-parts", f"{remote}/a/parts", "--result", f"{remote}/a/result.json",
    ]  # fmt: skip
    for _ in range(2):
        done = subprocess.run(words, env=bench.env(), text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    assert bench.starts() == 1
    assert (bench.folder / "remote/a/parts/2.txt").read_text() == "2 hello||"
    (bench.folder / "in.data").unlink()
    done = subprocess.run(words, env=bench.env(), text=True, capture_output=True, check=False)
    assert done.returncode == 2
    assert "in.data: no such file or folder" in done.stderr


def test_kubeflows_executor_input_fills_in_ports_and_gets_figures_back(bench: Bench) -> None:
    """Lists of artifacts, parameters of the wrong JSON type, and the output file."""
    (bench.folder / "m1").write_text("x")
    (bench.folder / "m2").write_text("y")

    def artifact(name: str, path: Path, kind: str = "system.Artifact") -> dict[str, Any]:
        return {"name": name, "uri": str(path), "type": {"schemaTitle": kind}, "metadata": {}}

    given = {
        "inputs": {
            "parameterValues": {"tag": "kfp", "seconds": 0.0},
            "artifacts": {
                "text": {"artifacts": [artifact("t", bench.folder / "in.data")]},
                "more": {"artifacts": [artifact("a", bench.folder / "m1"), artifact("b", bench.folder / "m2")]},
            },
        },
        "outputs": {
            "artifacts": {
                "file": {"artifacts": [artifact("file", bench.place("f"), "system.Metrics")]},
                "parts": {"artifacts": [artifact("parts", bench.place("p"))]},
                "result": {"artifacts": [artifact("result", bench.place("r"))]},
            },
            "outputFile": str(bench.folder / "kfp" / "output.json"),
        },
    }
    words = [sys.executable, str(TOY), "toy", "--result", str(bench.place("r")), "--executor-input", json.dumps(given)]
    done = subprocess.run(words, env=bench.env(), text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert bench.place("f").read_text() == "hello|x|y|kfp|"
    answer = json.loads((bench.folder / "kfp/output.json").read_text())["artifacts"]
    assert answer["file"]["artifacts"][0]["metadata"]["figure"] == 0.75
    assert answer["file"]["artifacts"][0]["metadata"]["sha256"] == hashlib.sha256(b"hello|x|y|kfp|").hexdigest()
    assert answer["parts"]["artifacts"][0]["uri"] == str(bench.place("p"))
    assert set(answer) == {"file", "parts", "result"}


def test_nothing_is_renamed_when_there_is_no_room_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two copies fails."""
    for name in "ab":
        (tmp_path / name).write_text(name)
    move = commit._move

    def failing(source: Path, target: Path) -> None:
        if source.name == "b":
            raise OSError(28, "No space left on device")
        move(source, target)

    monkeypatch.setattr(commit, "_move", failing)
    with pytest.raises(OSError, match="No space"):
        commit.publish({tmp_path / "out/x": tmp_path / "a", tmp_path / "out/y": tmp_path / "b"})
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_takes_the_place_of_a_folder_and_of_a_file(tmp_path: Path) -> None:
    """The old content is gone."""
    for place in ("folder", "file"):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "x").write_text("new")
        if place == "folder":
            (tmp_path / place).mkdir()
            (tmp_path / place / "old").write_text("old")
        else:
            (tmp_path / place).write_text("old")
        commit.publish({tmp_path / place: tmp_path / "new"})
        assert [file.name for file in (tmp_path / place).iterdir()] == ["x"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_pattern_stands_for_the_files_that_there_are(bench: Bench) -> None:
    """Sorted; none is fine for an input that may be left out, and an empty path is no input."""
    for name, text in (("b/x", "second"), ("a/x", "first")):
        (bench.folder / name).parent.mkdir()
        (bench.folder / name).write_text(text)
    done = bench.run("--find", f"more={bench.folder}/*/x", "--find", f"more={bench.folder}/*/none", "--in-more", "")
    assert done.returncode == 0, done.stderr
    assert bench.place("file.json").read_text() == "hello|first|second||"
    wrong = bench.run("--find", "nothing=*")
    assert wrong.returncode == 2
    assert "--find nothing=*: expected PORT=PATTERN with one of text, more" in wrong.stderr


def test_copies_hold_what_a_run_says_whether_it_ended_well_or_not(bench: Bench) -> None:
    """Outputs under their names, the result last with their paths; also when nothing was done because it was done already."""
    copies = bench.folder / "copies"
    for _ in range(2):
        assert bench.run("--copies", str(copies)).returncode == 0
        assert (copies / "out.json").read_text() == "hello||"
        assert (copies / "parts/2.txt").read_text() == "2 hello||"
        result = json.loads((copies / "result.json").read_text())
        assert result["outputs"]["file"]["path"] == str(copies / "out.json")
        shutil.rmtree(copies)
    assert bench.starts() == 1
    assert bench.run("--mode", "below", "--copies", str(copies)).returncode == 3
    assert (copies / "out.json").is_file()
    shutil.rmtree(copies)
    assert bench.run("--mode", "input", "--copies", str(copies)).returncode == 2
    assert json.loads((copies / "result.json").read_text())["status"] == "bad_input"
    assert [path.name for path in copies.iterdir()] == ["result.json"]


def test_only_failures_of_the_machinery_are_tried_again(bench: Bench) -> None:
    """Bad input and compile errors fail at once, a full disk as often as allowed."""
    env = {**bench.env(), "BMFLOW_RETRY_S": "0.01"}
    for mode, starts in (("input", 1), ("compile", 1), ("full", 3)):
        bench.log.unlink(missing_ok=True)
        subprocess.run(bench.words("--mode", mode, "--tries", "3"), env=env, capture_output=True, cwd=bench.folder, check=False)
        assert bench.starts() == starts, mode
