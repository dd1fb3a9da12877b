"""The Containerfile installs what pyproject.toml and the lock say. Needs no podman."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Containerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(wanted: list[str]) -> set[str]:
    """Names of packages, without extras and versions."""
    return {re.split(r"[\[<>=~! ]", item)[0].lower() for item in wanted}


def packages(target: str) -> list[str]:
    """What the Containerfile adds for a target."""
    found = re.search(rf'^ARG {target}_PACKAGES="(.*)"', TEXT, re.MULTILINE)
    assert found
    return found[1].split()


def test_the_train_image_has_the_whole_extra_train() -> None:
    assert names(packages("TRAIN")) == names(PROJECT["optional-dependencies"]["train"])


def test_every_package_of_an_image_is_in_the_lock() -> None:
    locked = names((ROOT / "requirements.lock").read_text().splitlines())
    for target in ("COMPILER", "TRAIN", "MLFLOW"):
        assert names(packages(target)) <= locked, target
    assert names(PROJECT["dependencies"]) <= locked


def test_images_have_no_entry_point_and_run_as_nobody_from_one_runtime() -> None:
    assert not re.search(r"^ENTRYPOINT", TEXT, re.MULTILINE)
    assert re.findall(r"^USER (.*)", TEXT, re.MULTILINE) == ["65532:65532"]
    assert re.findall(r"^FROM runtime AS (\w+)", TEXT, re.MULTILINE) == ["train", "mlflow", "compiler"]
