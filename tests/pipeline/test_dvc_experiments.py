"""DVC's own commands on the generated dvc.yaml: experiments with other settings, and what they changed, with a step that does no work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from airflow_process import HERE, ROOT, in_place_of_python

pytest.importorskip("dvc", reason="DVC is not installed; install the extra `dvc`")
pytestmark = pytest.mark.slow
KEPT = (
    ".gitignore",
    "dvc.yaml",
    "params.yaml",
    ".dvcignore",
    ".dvc/config",
    ".dvc/.gitignore",
    "examples/shapes.onnx",
    "examples/detector.json",
)


class Clone:
    """A small repository with the files that DVC reads."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._work = folder / "clone", folder / "work"
        self._work.touch()
        in_place_of_python(folder, HERE / "counted_stage.py")
        for name in KEPT:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.folder / name)
        for name in ("compiler/bmflow", "components/bmflow_components"):  # dependencies by name; the code that runs is the checkout's own
            (self.folder / name).mkdir(parents=True)
            (self.folder / name / "code.py").write_text("")
        path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
        self._env = {
            **os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join([str(ROOT / "components"), str(ROOT / "compiler")]),
            "WORK": str(self._work), "DVC_NO_ANALYTICS": "1", "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@example.com", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.com",
        }  # fmt: skip
        self.call("git", "init", "-q")
        self.commit("first")

    def call(self, *words: str) -> str:
        """What a command says."""
        ended = subprocess.run(words, cwd=self.folder, env=self._env, text=True, capture_output=True, timeout=600, check=False)
        assert ended.returncode == 0, f"{words}\n{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
        return ended.stdout

    def dvc(self, *words: str) -> str:
        """What DVC says."""
        return self.call(sys.executable, "-m", "dvc", *words)

    def commit(self, text: str) -> None:
        """Everything that Git is to know."""
        self.call("git", "add", "-A")
        self.call("git", "commit", "-qm", text)

    def work(self) -> list[str]:
        """The stages that worked since it was last asked."""
        found = [line.partition(" ")[0] for line in self._work.read_text().splitlines()]
        self._work.write_text("")
        return found


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """With everything done once and committed."""
    made = Clone(tmp_path_factory.mktemp("dvc"))
    made.dvc("repro", "-q")
    made.commit("all done")
    return made


@pytest.fixture(scope="module")
def worked(clone: Clone) -> tuple[list[str], list[str]]:
    """The stages that worked for the first run, and for an experiment with another setting."""
    first = clone.work()
    clone.dvc("exp", "run", "-q", "-n", "asymmetric", "-S", "deploy.asymmetric=true")
    return first, clone.work()


def test_an_experiment_does_the_work_that_its_setting_changes_and_no_other(worked: tuple[list[str], list[str]]) -> None:
    before = ["dataset", "transform", "calibrate", "evaluate"]  # the float network's evaluation among them
    behind = ["deploy", "deploy", "evaluate", "evaluate", "gate", "report"]
    assert [sorted(stages) for stages in worked] == [sorted(before + behind), sorted(behind)]


def test_the_changed_setting_and_no_other_is_shown(clone: Clone, worked: tuple[list[str], list[str]]) -> None:
    found = json.loads(clone.dvc("params", "diff", "--json"))
    assert {path: {name: (change["old"], change["new"]) for name, change in changes.items()} for path, changes in found.items()} == {
        "params.yaml": {"deploy.asymmetric": (False, True)}
    }


def test_figures_are_compared_with_those_of_the_last_commit(clone: Clone, worked: tuple[list[str], list[str]]) -> None:
    found = json.loads(clone.dvc("metrics", "diff", "--json", "--all"))
    figures = {path: change["figure"] for path, change in found.items()}
    moved = {path for path, figure in figures.items() if figure["old"] != figure["new"]}
    assert moved == {path for path in figures if "bm1684x-" in path}
    assert moved < set(figures)  # the float network's are there, and as they were
    assert all(figures[path]["new"] == json.loads((clone.folder / path).read_text())["figure"] for path in moved)


def test_the_experiment_is_on_record_under_its_name(clone: Clone, worked: tuple[list[str], list[str]]) -> None:
    assert clone.dvc("exp", "list", "--name-only").split() == ["asymmetric"]


def test_going_back_to_the_first_setting_takes_what_is_kept(clone: Clone, worked: tuple[list[str], list[str]]) -> None:
    clone.dvc("exp", "run", "-q", "-n", "back", "-S", "deploy.asymmetric=false")
    assert clone.work() == []
    assert json.loads(clone.dvc("metrics", "diff", "--json") or "{}") == {}


def test_a_setting_that_there_is_not_is_refused(clone: Clone, worked: tuple[list[str], list[str]]) -> None:
    with pytest.raises(AssertionError, match="asymmetry"):
        clone.dvc("exp", "run", "-S", "deploy.asymmetry=true")
    assert clone.work() == []
