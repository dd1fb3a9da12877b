"""Outputs that appear whole or not at all, whoever dies when; temporary names that the next run of the stage clears away."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bmflow.errors import InputError

_PART = ".part"
_RANDOM = "[a-z0-9_]" * 8
"""What tempfile puts between; no dot in it, so that `dataset` does not stand for `dataset.json` as well."""


@contextmanager
def workshop(result: Path) -> Generator[Path]:
    """Give a temporary folder beside the result file, on the same file system; remove it afterwards, as well as those that dead runs left.

    A second run with the same result file waits until the first has ended.

    Raises:
        InputError: the folder is not writable.
    """
    try:
        result.parent.mkdir(parents=True, exist_ok=True)
        lock = (result.parent / f".{result.name}.lock").open("a")
    except OSError as error:
        raise InputError(f"{result}: cannot write here ({error.strerror}); choose a writable folder") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sweep(result)
        work = Path(tempfile.mkdtemp(prefix=f".{result.name}.", suffix=_PART, dir=result.parent))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def sweep(path: Path) -> None:
    """Remove what dead runs left beside a path under temporary names; the caller holds the lock of the stage's result."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{_RANDOM}{_PART}"):
        remove(left)


def publish(files: Mapping[Path, Path]) -> None:
    """Move each finished file or folder to its place: first all onto the places' own file systems, then rename one after the other.

    Args:
        files: finished file by place.
    Raises:
        OSError: no room, not writable; nothing has been renamed then.
    """
    ready: dict[Path, Path] = {}
    try:
        for place, file in files.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            sweep(place)
            ready[place] = _beside(place)
            _move(file, ready[place])
        for place, part in ready.items():
            _replace(part, place)
    finally:
        for part in ready.values():
            remove(part)


def _beside(place: Path) -> Path:
    """A free temporary name beside a place."""
    folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=_PART, dir=place.parent))
    folder.rmdir()
    return folder


def _move(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)
    except OSError:  # another file system: copy, then the source goes with its workshop
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)


def _replace(part: Path, place: Path) -> None:
    """Rename; a folder that is in the way goes aside first, so for a moment there is none, but never half of one."""
    if place.is_dir() and not place.is_symlink():
        old = _beside(place)
        os.rename(place, old)
        os.rename(part, place)
        shutil.rmtree(old, ignore_errors=True)
    elif part.is_dir() and (place.exists() or place.is_symlink()):
        place.unlink()
        os.rename(part, place)
    else:
        os.replace(part, place)


def remove(path: Path) -> None:
    """Delete a file or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
