"""The images of the Containerfile and how to run them, for tests. The fixture `image` of conftest.py builds one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def _load_script() -> ModuleType:
    spec = spec_from_loader("image", SourceFileLoader("image", str(ROOT / "scripts" / "image")))
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = _load_script()


def podman(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run podman and keep what it says."""
    result = subprocess.run(["podman", *arguments], text=True, capture_output=True, env=script.environment(), check=False)
    assert not check or result.returncode == 0, result.stderr
    return result


@dataclass(frozen=True)
class Image:
    """What was built."""

    name: str
    facts: dict[str, Any]

    def run(self, *command: str, volumes: Mapping[Path, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command as `scripts/image run` does."""
        mounts = [f"--volume={folder}:{place}" for folder, place in (volumes or {}).items()]
        return podman("run", *script.HARDENED, *mounts, self.name, *command, check=False)


def built() -> Image:
    """The compiler's image on the stand-in base, or the one that BMFLOW_TEST_IMAGE names. Skips where no container can be run."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    if given := os.environ.get("BMFLOW_TEST_IMAGE"):
        return inspected(given)
    if not os.environ.get("BMFLOW_TEST_CONTAINERS"):
        pytest.skip("building images takes minutes; set BMFLOW_TEST_CONTAINERS=1 to do it")
    able = _script("check", "--base", "stand-in")
    if able.returncode:
        pytest.skip(able.stderr.strip().splitlines()[-1])
    done = _script("build", "compiler", "--base", "stand-in")
    assert done.returncode == 0, done.stderr[-4000:]
    return inspected(done.stdout.split()[-1])


def inspected(name: str) -> Image:
    """An image that is there, with its facts."""
    return Image(name, json.loads(podman("image", "inspect", name).stdout)[0])


def _script(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ROOT / "scripts" / "image", *words], text=True, capture_output=True, check=False)
