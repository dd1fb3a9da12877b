"""A stage works in a temporary folder; relative places on its command line are those of the caller all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_outputs_at_relative_places_appear_where_the_stage_was_started(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'components'}:{ROOT / 'compiler'}"}
    sizes = ["--train", "0", "--calibration", "1", "--evaluation", "1", "--size", "64"]
    command = [sys.executable, "-m", "bmflow_components", "dataset", "--out-dataset", "made/pictures", "--out-split", "split.json", *sizes]
    done = subprocess.run([*command, "--result", "result.json"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made" / "pictures" / "split.json").is_file()
    assert (tmp_path / "split.json").is_file()
    assert (tmp_path / "result.json").is_file()
