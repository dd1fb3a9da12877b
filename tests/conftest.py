"""Fixtures every test may use: seeded random numbers and the folder of real models and pictures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` rewrites the stored texts of tests/golden from what the code gives now; read the diff before committing."""
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected texts under tests/golden")


def data_folder() -> Path | None:
    """Folder of real models and pictures: BMFLOW_TEST_DATA, by default ../shared/data beside the project."""
    folder = Path(os.environ.get("BMFLOW_TEST_DATA", ROOT.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The test data folder; the test is skipped where it is absent."""
    folder = data_folder()
    if folder is None:
        pytest.skip("the folder of real models is absent; set BMFLOW_TEST_DATA to it")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(1684)
