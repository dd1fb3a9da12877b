"""Documents that are made from the code are what the code makes today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_option_tables_are_those_of_the_parsers() -> None:
    result = subprocess.run([sys.executable, ROOT / "scripts" / "docs", "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_files_are_about_the_project_alone() -> None:
    """No path of a machine, no registry host."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    words = ("/ro" + "ot/", "/wo" + "rk/", "index" + "-url")
    texts = {name: (ROOT / name).read_text(errors="ignore") for name in files if (ROOT / name).is_file()}
    assert [name for name, text in texts.items() if any(word in text for word in words)] == []
