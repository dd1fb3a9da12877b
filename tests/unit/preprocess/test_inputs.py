"""Network inputs from npz, npy and pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from bmflow import artifacts
from bmflow.errors import InputError
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.preprocess.inputs import load_inputs

PICTURE = {"pixel_format": "rgb", "mean": [0.0] * 3, "scale": [1.0] * 3}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def module(**shapes: tuple[int, ...]) -> Module:
    builder = ModuleBuilder("net", "ONNX")
    return builder.finish([builder.input(name, shape, PICTURE if len(shape) == 4 else None) for name, shape in shapes.items()])


def test_one_array_serves_one_input_whatever_its_name() -> None:
    artifacts.save_npz("a.npz", {"other": np.arange(4).reshape(1, 4)})
    result = load_inputs(module(x=(1, 4)), ["a.npz"])
    np.testing.assert_array_equal(result["x"], np.float32([[0, 1, 2, 3]]))
    assert result["x"].dtype == np.float32


def test_a_leading_one_is_repeated_to_the_batch() -> None:
    artifacts.save_npz("a.npz", {"x": np.ones((1, 4))})
    assert load_inputs(module(x=(3, 4)), ["a.npz"])["x"].shape == (3, 4)


def test_several_inputs_are_taken_by_name() -> None:
    artifacts.save_npz("a.npz", {"b": np.full((1, 2), 2.0), "a": np.full((1, 2), 1.0)})
    result = load_inputs(module(a=(1, 2), b=(1, 2)), ["a.npz"])
    assert (result["a"][0, 0], result["b"][0, 0]) == (1, 2)


def test_npy_files_go_to_inputs_in_order() -> None:
    np.save("1.npy", np.float32([[1, 1]]))
    np.save("2.npy", np.float32([[2, 2]]))
    result = load_inputs(module(b=(1, 2), a=(1, 2)), ["1.npy", "2.npy"])
    assert (result["b"][0, 0], result["a"][0, 0]) == (1, 2)


def test_the_last_picture_serves_the_inputs_left_over() -> None:
    cv2.imwrite("p.png", np.full((2, 2, 3), 7, np.uint8))
    result = load_inputs(module(a=(1, 3, 2, 2), b=(1, 3, 2, 2)), ["p.png"])
    assert (result["a"] == 7).all()
    assert (result["b"] == 7).all()


def _write_bad() -> None:
    artifacts.save_npz("x.npz", {"x1": np.ones((1, 4)), "other": np.ones(1)})
    artifacts.save_npz("shape.npz", {"x": np.ones((1, 5))})
    artifacts.save_npz("words.npz", {"x": np.array([["a"]])})
    np.save("1.npy", np.ones((1, 4)))
    Path("bad.npy").write_bytes(b"no array")


REFUSED = {
    "nothing": ([], "no input file"),
    "name": (["x.npz"], "holds no array for input x; did you mean x1?"),
    "shape": (["shape.npz"], "input x is 1x4, found 1x5"),
    "words": (["words.npz"], "expected numbers for input x"),
    "two npz": (["x.npz", "x.npz"], "expected one npz file"),
    "npy count": (["1.npy", "1.npy"], "expected 1 npy files"),
    "bad npy": (["bad.npy"], "bad.npy: not a readable npy file"),
    "suffix": (["x.txt"], "found the suffix '.txt'"),
    "no picture": (["p.jpg"], "records no picture preprocessing"),
    "too many": (["p.jpg", "q.jpg"], "2 pictures for 1 inputs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_do_not_fit_are_refused(case: str) -> None:
    _write_bad()
    files, message = REFUSED[case]
    with pytest.raises(InputError) as caught:
        load_inputs(module(x=(1, 4)), files)
    assert message in str(caught.value)
