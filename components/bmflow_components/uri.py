"""Paths and URIs: what is remote is fetched to local files before a stage runs, and put there when it has ended.

Everything with a scheme (`s3://`, `gs://`, `memory://`, ...) goes through fsspec; `file://` and plain paths are local.
"""

# pyright: reportMissingImports=false, reportMissingTypeStubs=false
# (fsspec belongs to the extras)

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bmflow.errors import BmflowError, InputError

from bmflow_components.tracking.redact import redact

_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")


class TransferError(BmflowError):
    """A remote file could not be read or written; exit code 1, worth another try."""

    retryable = True


def is_remote(path: str) -> bool:
    """Whether a path names something that is no local file."""
    return bool(_SCHEME.match(path)) and not path.startswith("file://")


def local(path: str) -> Path:
    """The local path of a path or `file://` URI, absolute."""
    return Path(path.removeprefix("file://")).absolute()


def absolute(path: str) -> str:
    """The path made absolute, a URI as it is."""
    return path if is_remote(path) else str(local(path))


def fetch(uri: str, target: Path) -> Path:
    """Copy a remote file or folder to a new local path.

    Raises:
        InputError: it does not exist.
        TransferError: it cannot be read.
    """
    system, path = _open(uri)
    try:
        if not system.exists(path):
            raise InputError(f"{redact(uri)}: no such file or folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        if system.isdir(path):
            target.mkdir()
            system.get(path.rstrip("/") + "/", f"{target}/", recursive=True)
        else:
            system.get_file(path, str(target))
    except InputError:
        raise
    except Exception as error:  # every store has classes of its own
        raise TransferError(f"{redact(uri)}: reading failed ({type(error).__name__}: {redact(str(error))})") from error
    return target


def put(source: Path, uri: str) -> None:
    """Copy a local file or folder to a remote place, replacing what is there.

    A folder is not one object in most stores: readers must wait for `result.json`, which is written last.

    Raises:
        TransferError: it cannot be written.
    """
    system, path = _open(uri)
    try:
        if source.is_dir():
            if system.exists(path):
                system.rm(path, recursive=True)
            for file in sorted(item for item in source.rglob("*") if item.is_file()):
                place = f"{path.rstrip('/')}/{file.relative_to(source).as_posix()}"
                system.makedirs(place.rpartition("/")[0], exist_ok=True)
                system.put_file(str(file), place)
            return
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
        system.put_file(str(source), path)
    except Exception as error:  # every store has classes of its own
        raise TransferError(f"{redact(uri)}: writing failed ({type(error).__name__}: {redact(str(error))})") from error


def size(uri: str) -> int | None:
    """Bytes of a remote file, or of all files of a remote folder; None when there is nothing."""
    system, path = _open(uri)
    try:
        if not system.exists(path):
            return None
        return sum(int(found["size"]) for found in system.find(path, detail=True).values())
    except Exception as error:  # every store has classes of its own
        raise TransferError(f"{redact(uri)}: looking for it failed ({type(error).__name__}: {redact(str(error))})") from error


def _open(uri: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise InputError(f"{redact(uri)}: remote files need fsspec, which is not installed; install the extra `pipeline`") from error
    try:
        return fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"{redact(uri)}: no file system for this address ({redact(str(error))}); install the one for its scheme"
        ) from error
