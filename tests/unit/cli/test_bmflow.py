"""bmflow: the umbrella hands every verb to its tool."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import pytest
from bmflow import __version__
from bmflow.cli.bmflow import VERBS, main


@pytest.mark.parametrize("tool", [tool for tool, _ in VERBS.values()])
def test_every_verb_has_its_tool(tool: str) -> None:
    assert find_spec(f"bmflow.cli.{tool}") is not None


def test_arguments_after_the_verb_reach_the_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(import_module("bmflow.cli.npz_tool"), "main", lambda argv: seen.append(argv) or 3)
    assert main(["npz", "dump", "a.npz"]) == 3
    assert seen == [["dump", "a.npz"]]


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {verb}" in printed for verb in VERBS)


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bmflow {__version__}\n"


def test_an_unknown_verb_exits_2_and_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile"]) == 2
    assert "compile is no verb; choose from transform, calibrate" in capsys.readouterr().err
