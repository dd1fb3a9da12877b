"""Digests of files and folders, the key that names a stage's work, and a store of finished work by key."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from bmflow import __version__, artifacts
from bmflow.errors import InputError

from bmflow_components.ports import Stage, Value

_SOURCES = {".py", ".json", ".toml", ".css"}


def digest(path: Path) -> str:
    """SHA-256 of a file, or over the sorted `digest  path` lines of the files below a folder.

    Raises:
        InputError: there is no such file or folder.
    """
    if path.is_file():
        return artifacts.sha256_file(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    return tree_digest(path, sorted(file for file in path.rglob("*") if file.is_file()))


def tree_digest(folder: Path, files: Sequence[Path]) -> str:
    """SHA-256 over the `digest  path` lines of these files, paths relative to the folder."""
    lines = [f"{artifacts.sha256_file(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@cache
def toolchain() -> str:
    """Version of this distribution and a digest of its code, so that a changed checkout is another tool."""
    total = hashlib.sha256()
    for package in ("bmflow", "bmflow_components"):
        folder = Path(str(resources.files(package)))
        files = sorted(file for file in folder.rglob("*") if file.suffix in _SOURCES)
        total.update(tree_digest(folder, files).encode())
    return f"{__version__}+{total.hexdigest()[:16]}"


def key(stage: Stage, params: Mapping[str, Value], inputs: Mapping[str, Sequence[str]], outside: str = "") -> str:
    """SHA-256 of everything the outputs follow from.

    Args:
        inputs: digests by port; the order of several does not count.
        outside: digest of what the step reads that is no input, such as a revision.
    """
    whole = {
        "stage": stage.name, "version": stage.version, "tool": toolchain(), "params": {**stage.defaults(), **params},
        "inputs": {name: sorted(digests) for name, digests in inputs.items() if digests}, "outside": outside,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def copy(source: Path, target: Path) -> None:
    """Copy a file or folder to a new place on whatever file system; hard links where possible, so never write into the copy."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link)
    else:
        _link(str(source), str(target))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


class Store:
    """A folder of finished work by key; several processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, name: str) -> Path | None:
        """The folder of a key: `result.json` and one file or folder for each port."""
        place = self._folder / name[:2] / name
        return place if place.is_dir() else None

    def put(self, name: str, files: Mapping[str, Path]) -> None:
        """Keep files under a key; the first to finish wins."""
        place = self._folder / name[:2] / name
        if place.is_dir():
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{name[:12]}.", suffix=".part", dir=place.parent))
        try:
            for port, file in files.items():
                copy(file, work / port)
            os.rename(work, place)
        except FileExistsError:
            pass
        except OSError as error:
            if not place.is_dir():
                raise InputError(f"{self._folder}: cannot keep finished work here ({error.strerror}); choose another --cache") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
