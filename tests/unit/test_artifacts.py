"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bmflow import artifacts
from bmflow.errors import InputError


def interrupt_half_way(path: Path) -> None:
    with artifacts.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        interrupt_half_way(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write here"):
        artifacts.write_text(tmp_path / "nowhere" / "x", "text")


def test_npz_keeps_every_name_and_value_and_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    arrays = {"file": np.arange(3), "/model/0/Conv_output_0_Conv": np.ones((2, 2), np.float16), "allow_pickle": np.zeros(0)}
    for name in ("a.npz", "b.npz"):
        artifacts.save_npz(tmp_path / name, arrays)
    loaded = artifacts.load_npz(tmp_path / "a.npz")
    assert list(loaded) == list(arrays)
    assert all(np.array_equal(loaded[name], arrays[name]) and loaded[name].dtype == arrays[name].dtype for name in arrays)
    assert artifacts.sha256_file(tmp_path / "a.npz") == artifacts.sha256_file(tmp_path / "b.npz")
    entry = (tmp_path / "a.npz").read_bytes()
    assert entry[4] == 20  # "version needed" of a plain entry (APPNOTE 4.4.3.2); 64-bit ones (45) differ between versions of Python


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really a zip", b"\x93NUMPY\x01\x00"])
def test_what_is_no_npz_is_bad_input(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a readable npz"):
        artifacts.load_npz(path)
