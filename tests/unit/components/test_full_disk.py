"""A real stage that runs out of room: nothing half-written, one sentence, and the next try ends well."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def stage(folder: Path, most_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    """The stage dataset for one picture, no file of which may grow beyond a limit; the kernel refuses the write as it does on a full disk."""

    def limit() -> None:
        if most_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    words = ["--out-dataset", str(folder / "dataset"), "--out-split", str(folder / "split.json"), "--result", str(folder / "result.json")]
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'components'}:{ROOT / 'compiler'}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "bmflow_components", "dataset", *words, "--train", "0", "--calibration", "1", "--evaluation", "1"],
        env=env, text=True, capture_output=True, preexec_fn=limit, timeout=300, check=False,
    )  # fmt: skip


def test_a_stage_without_room_leaves_nothing_behind_may_be_tried_again_and_then_ends_well(tmp_path: Path) -> None:
    done = stage(tmp_path, 4096)
    assert done.returncode == 1, done.stderr
    assert "free some space or choose another folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "result.json").read_text())["retryable"] is True
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["result.json"]
    again = stage(tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "dataset" / "split.json").is_file()
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []
