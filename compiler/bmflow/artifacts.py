"""Files that appear whole or not at all, and the digests and npz files built on them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np
from numpy.typing import NDArray

from bmflow.errors import InputError

_ZIP64_BYTES = 2**31 - 2**20
"""Arrays from this size on need 64-bit entries in a zip file; the rest is room for npy's header."""


@contextmanager
def atomic_path(path: str | Path) -> Generator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends well, delete it otherwise.

    Raises:
        InputError: the folder is missing or not writable, or the disk is full.
    """
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise InputError(f"{target}: cannot write here ({error.strerror}); choose a writable folder") from error
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"{target}: writing failed ({error.strerror}); free some space or choose another folder") from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` atomically, UTF-8, line ends as given."""
    write_bytes(path, text.encode())


def save_npz(path: str | Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays to an uncompressed npz file atomically, the same bytes for the same arrays; names may hold any character but NUL."""
    with atomic_path(path) as temporary, ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():  # not np.savez: it takes names as keywords, so "file" could not be a layer
            values = np.asanyarray(array)
            # Only where it must be: Python 3.11.4 changed how it writes the header of a 64-bit entry.
            with archive.open(ZipInfo(f"{name}.npy"), "w", force_zip64=values.nbytes >= _ZIP64_BYTES) as stream:
                np.lib.format.write_array(stream, values, allow_pickle=False)


def load_npz(path: str | Path) -> dict[str, NDArray[Any]]:
    """Read every array of an npz file.

    Raises:
        InputError: the file is missing, unreadable, not an npz, or holds pickled objects.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; expected an npz file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, BadZipFile, EOFError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: not a readable npz file ({error}); was it cut short while copying?") from error


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
