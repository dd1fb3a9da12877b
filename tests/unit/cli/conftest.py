"""Fixtures of the command-line tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import pytest
import workshop as shop


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every tool has done its work once; not to be changed."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shop.build(folder)
    return folder


@pytest.fixture
def workshop(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `built` as the current folder, with OpenCV as silent as in a tool's own process."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    folder = tmp_path / "workshop"
    shutil.copytree(built, folder)
    monkeypatch.chdir(folder)
    return folder
