"""What several modules look at: the compiler's image, and runs of the example, one by the local runner, one by Airflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow_process import environment, run_scenarios
from containers import Image, built
from example_run import SETTINGS, Made, run_local, scenario


@pytest.fixture(scope="session")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bars that any working bmodel meets."""
    path = tmp_path_factory.mktemp("bars") / "gate.toml"
    path.write_text("smallest_map50 = 0.0\nlargest_drop = 1.0\n")
    return path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, bars: Path) -> Made:
    """A run by the local runner, up to the gate."""
    return run_local(tmp_path_factory.mktemp("run") / "first", SETTINGS, bars)


@pytest.fixture(scope="session")
def airflow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that Airflow lives in."""
    return tmp_path_factory.mktemp("example")


@pytest.fixture(scope="session")
def airflow_ended(airflow_folder: Path, bars: Path) -> dict[str, Any]:
    """Two runs by Airflow, one after the other."""
    return run_scenarios(airflow_folder, [scenario(bars, "first"), scenario(bars, "second")], environment(airflow_folder))


@pytest.fixture(scope="session")
def image() -> Image:
    """The compiler's image; minutes the first time."""
    return built()
