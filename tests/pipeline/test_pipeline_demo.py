"""The first command of the README, on a few pictures: what it prints, and that what it names is there."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from airflow_process import ROOT, environment, needs_airflow

pytestmark = [
    pytest.mark.slow, needs_airflow,
    pytest.mark.skipif(not (ROOT / "examples" / "shapes.onnx").is_file(), reason="examples/shapes.onnx is absent"),
    pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="MLflow is not installed (extra mlflow)"),
]  # fmt: skip


def demo(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in environment(folder).items() if not name.startswith(("AIRFLOW", "BMFLOW"))}
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "pipeline_demo"), "--folder", str(folder), *words],
        env=env, cwd=folder, text=True, capture_output=True, timeout=900, check=False,
    )  # fmt: skip


def test_the_demo_ends_with_a_champion_its_report_and_what_to_do_next(tmp_path: Path) -> None:
    """F16 alone, which loses nothing that the bars forbid on whatever pictures."""
    done = demo(tmp_path, "--precisions", "F16", "--calibration", "4", "--evaluation", "4")
    log = tmp_path / "airflow" / "demo.log"
    assert done.returncode == 0, done.stderr + log.read_text()[-3000:]
    assert re.search(r"register/bm1684x +done +[\d.]+ s  promoted 1", done.stdout)
    assert "bm1684x/F16 is taken" in done.stdout
    assert re.search(r"\| bm1684x/F16 \| 0\.\d{4} \| .*\*\*taken\*\*", done.stdout)
    named = {kind: tmp_path / path for kind, path in re.findall(r"^(bmodel|report) +(\S+)", done.stdout, re.MULTILINE)}
    assert "<- champion" in done.stdout
    assert named["bmodel"].is_file()
    assert named["report"].read_text().startswith("<!DOCTYPE html>")
    assert "`make up` starts both" in done.stdout


def test_the_demo_says_at_once_what_is_not_installed(tmp_path: Path) -> None:
    if importlib.util.find_spec("torch") is not None:
        pytest.skip("PyTorch is installed, so nothing is missing")
    done = demo(tmp_path, "--train", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "torch: not installed; pip install 'bmflow[train]'" in done.stderr
