"""gen_rand_input: what is drawn, what is written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from bmflow import artifacts
from bmflow.cli.gen_rand_input import main
from bmflow.ir.module import ModuleBuilder


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """net.mlir in an empty current folder: two inputs, `picture` (1, 3, 6, 8) and `mask` (2, 5)."""
    monkeypatch.chdir(tmp_path)
    builder = ModuleBuilder("net", "ONNX")
    picture = builder.input("picture", (1, 3, 6, 8), {"pixel_format": "rgb", "resize_dims": [6, 8]})
    builder.finish([picture, builder.input("mask", (2, 5))]).save("net.mlir", "net_weight.npz")
    return tmp_path


@pytest.fixture
def one_picture(module: Path) -> Path:
    """one.mlir with one picture input of 6 x 8."""
    builder = ModuleBuilder("one", "ONNX")
    builder.finish([builder.input("picture", (1, 3, 6, 8), {"pixel_format": "rgb", "resize_dims": [6, 8]})]).save(
        "one.mlir", "one_weight.npz"
    )
    return module


def test_default_is_every_input_between_minus_one_and_one(module: Path) -> None:
    assert main(["--mlir", "net.mlir"]) == 0
    arrays = artifacts.load_npz("input.npz")
    assert {name: array.shape for name, array in arrays.items()} == {"picture": (1, 3, 6, 8), "mask": (2, 5)}
    assert all(array.dtype == np.float32 and -1 <= array.min() < array.max() <= 1 for array in arrays.values())


def test_ranges_and_types_go_by_input(module: Path) -> None:
    assert main(["--mlir", "net.mlir", "--ranges", "[[5,6],[0,3]]", "--input_types", "f32,si32", "--output", "o.npz"]) == 0
    arrays = artifacts.load_npz("o.npz")
    assert arrays["picture"].min() >= 5
    assert arrays["mask"].dtype == np.int32
    assert set(np.unique(arrays["mask"])) <= {0, 1, 2, 3}


def test_the_same_seed_gives_the_same_bytes(module: Path) -> None:
    for name, seed in (("a.npz", "7"), ("b.npz", "7"), ("c.npz", "8")):
        main(["--mlir", "net.mlir", "--seed", seed, "--output", name])
    a, b, c = (Path(name).read_bytes() for name in ("a.npz", "b.npz", "c.npz"))
    assert a == b != c


def test_img_writes_a_picture_of_the_inputs_size(one_picture: Path) -> None:
    assert main(["--mlir", "one.mlir", "--img"]) == 0
    assert cv2.imread("input.png").shape == (6, 8, 3)


REFUSED = {
    "missing module": (["--mlir", "none.mlir"], "none.mlir: no such file"),
    "count of ranges": (["--mlir", "net.mlir", "--ranges", "[[0,1]]"], "--ranges: expected one entry for each of the 2 inputs"),
    "empty range": (["--mlir", "net.mlir", "--ranges", "[[2,1],[0,1]]"], "needs [low, high] with low <= high, found [2.0, 1.0]"),
    "type": (["--mlir", "net.mlir", "--input_types", "f32,f8"], "f8 is no type"),
    "too wide": (["--mlir", "net.mlir", "--input_types", "f32,ui8"], "-1.0..1.0 does not fit the ui8 input mask, 0..255"),
    "no single picture": (["--mlir", "net.mlir", "--img"], "has no single picture input"),
    "picture name": (["--mlir", "one.mlir", "--img", "--output", "x.npz"], "expected a picture name"),
    "folder": (["--mlir", "net.mlir", "--output", "absent/x.npz"], "cannot write here"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_exits_2_with_one_paragraph_and_writes_nothing(one_picture: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    options, message = REFUSED[case]
    before = set(one_picture.iterdir())
    assert main(options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert set(one_picture.iterdir()) == before


def test_malformed_ranges_are_a_usage_error(module: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--mlir", "net.mlir", "--ranges", "[[a]]"])
    assert stopped.value.code == 2
