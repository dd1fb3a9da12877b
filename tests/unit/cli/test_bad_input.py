"""Every tool on bad input: exit code 2, one paragraph that says what is wrong and what to do, and no file more or less than before."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from bmflow import artifacts
from onnx import TensorProto, helper
from workshop import CALIBRATE, DEPLOY, TRANSFORM, run


@dataclass(frozen=True)
class Case:
    """A call that must be refused; `spoil` changes files before, `says` are parts of the paragraph."""

    tool: str
    arguments: tuple[str, ...]
    says: tuple[str, ...]
    spoil: Callable[[Path], object] = field(default=lambda folder: None)


def changed(base: tuple[str, ...], **options: str | None) -> tuple[str, ...]:
    """`base` with some options replaced, added, or (None) left out with their values."""
    pairs = dict(options)
    result: list[str] = []
    skip = False
    for item in base:
        if skip:
            skip = False
        elif item.startswith("--") and item[2:] in pairs:
            skip = True
        else:
            result.append(item)
    for name, value in pairs.items():
        result += [f"--{name}", value] if value is not None else []
    return tuple(result)


def cut(name: str, keep: float = 0.5) -> Callable[[Path], object]:
    """Truncate a file."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[: int(len((folder / name).read_bytes()) * keep)])


def flip(name: str, place: float = 0.7) -> Callable[[Path], object]:
    """Change one byte of a file."""

    def spoil(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[int(len(data) * place)] ^= 0x10
        (folder / name).write_bytes(data)

    return spoil


def text(name: str, content: str) -> Callable[[Path], object]:
    """Write a text file."""
    return lambda folder: (folder / name).write_text(content)


def unsupported(folder: Path) -> None:
    """odd.onnx with two operators that nobody converts."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    nodes = [helper.make_node("Hardmax", ["x"], ["d"]), helper.make_node("Celu", ["d"], ["y"])]
    onnx.save(helper.make_model(helper.make_graph(nodes, "odd", [x], [y]), opset_imports=[helper.make_opsetid("", 13)]), "odd.onnx")


def edit_table(edit: Callable[[list[str]], list[str]]) -> Callable[[Path], object]:
    """Change the lines of the calibration table."""
    return lambda folder: (folder / "net_table").write_text("\n".join(edit((folder / "net_table").read_text().splitlines())) + "\n")


def drop_layer(name: str) -> Callable[[Path], object]:
    """Take a layer out of the calibration table."""
    return edit_table(lambda lines: [line for line in lines if not line.startswith(name + " ")])


def break_pictures(folder: Path) -> None:
    """Leave no readable picture."""
    for path in (folder / "pictures").iterdir():
        path.write_bytes(b"no picture")


def foreign_reference(folder: Path) -> None:
    """A reference of another network."""
    artifacts.save_npz(folder / "other.npz", {"122_Conv": np.zeros(3, np.float32)})


def empty_folder(folder: Path) -> None:
    """A folder without pictures."""
    (folder / "empty").mkdir()


Spoil = Callable[[Path], object]
MAP = ("--model_file", "net.onnx", "--dataset", "pictures", "--postprocess_type", "coco_mAP")


def untouched(folder: Path) -> None:
    """Change nothing."""


def transform(*says: str, spoil: Spoil = untouched, more: tuple[str, ...] = (), **options: str | None) -> Case:
    """model_transform as it worked, with some options changed."""
    return Case("model_transform", (*changed(TRANSFORM, **options), *more), says, spoil)


def calibrate(*says: str, spoil: Spoil = untouched, mlir: str = "net.mlir", **options: str | None) -> Case:
    """run_calibration as it worked, with some options changed."""
    return Case("run_calibration", (mlir, *changed(CALIBRATE[1:], **options)), says, spoil)


def deploy(*says: str, spoil: Spoil = untouched, more: tuple[str, ...] = (), **options: str | None) -> Case:
    """model_deploy as it worked, with some options changed."""
    return Case("model_deploy", (*changed(DEPLOY, **options), *more), says, spoil)


def runner(
    *says: str, spoil: Spoil = untouched, model: str = "net_int8.bmodel", given: str = "net_in_f32.npz", more: tuple[str, ...] = ()
) -> Case:
    """model_runner on a model and an input."""
    return Case("model_runner", ("--input", given, "--model", model, *more), says, spoil)


def tool(name: str, *arguments: str, says: tuple[str, ...], spoil: Spoil = untouched) -> Case:
    """Any other tool."""
    return Case(name, arguments, says, spoil)


def small_input(folder: Path) -> None:
    """An input of another size."""
    artifacts.save_npz(folder / "small.npz", {"x": np.zeros((1, 3, 8, 8), np.float32)})


def directory(name: str) -> Spoil:
    """Make a folder where a file is expected."""
    return lambda folder: (folder / name).mkdir()


def remove(name: str) -> Spoil:
    """Delete a file."""
    return lambda folder: (folder / name).unlink()


CASES = {
    "transform, missing model": transform("none.onnx: no such file", model_def="none.onnx"),
    "transform, unreadable model": transform("dir.onnx", model_def="dir.onnx", spoil=directory("dir.onnx")),
    "transform, not a model": transform("text.onnx: not an ONNX model", model_def="text.onnx", spoil=text("text.onnx", "hello")),
    "transform, truncated model": transform("net.onnx: ", "cut short", spoil=cut("net.onnx")),
    "transform, unsupported operators": transform("d_Hardmax", "y_Celu", model_def="odd.onnx", spoil=unsupported),
    "transform, number of shapes": transform("expected 1 shapes", input_shapes="[[1,3,16,16],[1]]"),
    "transform, rank of shapes": transform("x", "[1, 3, 16]", input_shapes="[[1,3,16]]"),
    "transform, unknown output": transform("did you mean", more=("--output_names", "cc")),
    "transform, broken test picture": transform("bad.png", test_input="bad.png", spoil=text("bad.png", "no")),
    "calibrate, missing module": calibrate("none.mlir", mlir="none.mlir"),
    "calibrate, damaged module": calibrate("net.mlir", spoil=cut("net.mlir")),
    "calibrate, missing folder": calibrate("nowhere", dataset="nowhere"),
    "calibrate, empty folder": calibrate("empty", dataset="empty", spoil=directory("empty")),
    "calibrate, only broken pictures": calibrate("pictures", spoil=break_pictures),
    "deploy, missing module": deploy("none.mlir: no such file", mlir="none.mlir"),
    "deploy, not a module": deploy("text.mlir", mlir="text.mlir", spoil=text("text.mlir", "hello")),
    "deploy, damaged module": deploy("net.mlir", spoil=cut("net.mlir")),
    "deploy, lowered module": deploy("expected a top module", "TPU_LOWERED", mlir="net_bm1684x_int8_sym_tpu.mlir"),
    "deploy, missing weights": deploy("net_top_f32_all_weight.npz", spoil=remove("net_top_f32_all_weight.npz")),
    "deploy, INT8 without a table": deploy("--calibration_table", "run_calibration", calibration_table=None),
    "deploy, missing table": deploy("nowhere", calibration_table="nowhere"),
    "deploy, table lacks a layer": deploy("y_Conv", spoil=drop_layer("y_Conv")),
    "deploy, unknown layers": deploy("a_Rellu", "did you mean a_Relu", spoil=edit_table(lambda lines: [*lines, "a_Rellu 1.0 -1.0 1.0"])),
    "deploy, table that is none": deploy("net_table", spoil=text("net_table", "hello\n")),
    "deploy, layer in a qtable": deploy("a_Rel", "did you mean a_Relu", quantize_table="a_Rel:F16"),
    "deploy, type in a qtable": deploy("F8", quantize_table="a_Relu:F8"),
    "deploy, processor without F16": deploy("bm1684: has no F16", "F32, INT8", processor="bm1684", quantize="F16"),
    "deploy, processor without asymmetric": deploy("--asymmetric", "bm1684", processor="bm1684", more=("--asymmetric",)),
    "deploy, type nobody knows": deploy("has no INT7", "F32, F16, BF16, INT8", quantize="INT7"),
    "deploy, processor not supported yet": deploy("bm1690: code generation is not supported yet", "bm1684x", processor="bm1690"),
    "deploy, unknown processor": deploy("bm1864x: unknown", "did you mean bm1684x", processor="bm1864x"),
    "deploy, two cores": deploy("--num_core 2", "1 core", num_core="2"),
    "deploy, dynamic": deploy("--dynamic: not supported yet", more=("--dynamic",)),
    "deploy, fused preprocessing": deploy("--fuse_preprocess: not supported yet", more=("--fuse_preprocess",)),
    "deploy, layout of memory": deploy("--addr_mode io_alone", addr_mode="io_alone"),
    "deploy, no model name": deploy("--model is missing", "--not_gen_bmodel", model=None),
    "deploy, name of the model": deploy(".bmodel", model="net.cvimodel"),
    "deploy, folder of the model": deploy("absent", "choose another", model="absent/net.bmodel"),
    "deploy, reference of another network": deploy("other.npz", "y_Conv", test_reference="other.npz", spoil=foreign_reference),
    "deploy, missing test input": deploy("none.npz: no such file", test_input="none.npz"),
    "deploy, damaged test input": deploy("net_in_f32.npz", spoil=cut("net_in_f32.npz")),
    "deploy, shape of the test input": deploy("small.npz", test_input="small.npz", spoil=small_input),
    "deploy, reference without input": deploy("--test_reference needs --test_input", test_input=None),
    "runner, missing model": runner("none.bmodel: no such file", model="none.bmodel"),
    "runner, kind of model": runner("net_table", ".onnx, .mlir, .bmodel", model="net_table"),
    "runner, missing input": runner("none.npz: no such file", given="none.npz"),
    "runner, shape of the input": runner("input x", "[1, 3, 8, 8]", given="small.npz", spoil=small_input),
    "runner, foreign file": runner("net_int8.bmodel", spoil=text("net_int8.bmodel", "x" * 4096)),
    "runner, truncated bmodel": runner("net_int8.bmodel", spoil=cut("net_int8.bmodel")),
    "runner, flipped byte": runner("net_int8.bmodel", spoil=flip("net_int8.bmodel")),
    "runner, raw outputs of a module": runner("--out_fixed", model="net.mlir", more=("--out_fixed",)),
    "tool, missing bmodel": tool("model_tool", "--info", "none.bmodel", says=("none.bmodel",)),
    "tool, flipped byte": tool("model_tool", "--info", "net_int8.bmodel", says=("net_int8.bmodel",), spoil=flip("net_int8.bmodel")),
    "tool, foreign file": tool("model_tool", "--info", "net.onnx", says=("net.onnx",)),
    "npz, missing": tool("npz_tool", "dump", "none.npz", says=("none.npz: no such file",)),
    "npz, truncated": tool("npz_tool", "dump", "net_in_f32.npz", says=("net_in_f32.npz",), spoil=cut("net_in_f32.npz")),
    "rand input, not a module": tool("gen_rand_input", "--mlir", "net_table", says=("net_table",)),
    "detect, missing picture": tool("detect_yolov5", "--model", "net.onnx", "--input", "none.jpg", "--output", "o.jpg", says=("none.jpg",)),
    "detect, size": tool("detect_yolov5", "--model", "net.onnx", "--input", "pictures/0.png", "--output", "o.jpg", says=("640,640",)),
    "eval, missing annotation": tool("model_eval", *MAP, "--coco_annotation", "none.json", says=("none.json",)),
    "eval, no annotation": tool("model_eval", *MAP, says=("--coco_annotation",)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_ends_with_code_2_and_one_paragraph_and_leaves_no_file(
    workshop: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    case = CASES[name]
    case.spoil(workshop)
    before = contents(workshop)
    assert run(case.tool, *case.arguments) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"{case.tool}: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert [part for part in case.says if part not in error] == []
    assert contents(workshop) == before


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


WRITERS = {
    "model_transform": TRANSFORM,
    "run_calibration": CALIBRATE,
    "model_deploy": DEPLOY,
    "model_runner": ("--input", "net_in_f32.npz", "--model", "net.mlir"),
    "npz_tool": ("extract", "net_in_f32.npz", "o.npz", "x"),
    "gen_rand_input": ("--mlir", "net.mlir"),
}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("tool", WRITERS)
def test_a_full_disk_or_a_read_only_folder_is_reported_in_one_paragraph(
    workshop: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tool: str, code: int
) -> None:
    """The rename that makes a file appear fails, as it does on a full disk; making the temporary file fails, as in a read-only folder."""

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    before = contents(workshop)
    monkeypatch.setattr("bmflow.artifacts.os.replace" if code == errno.ENOSPC else "bmflow.artifacts.tempfile.mkstemp", refuse)
    assert run(tool, *WRITERS[tool]) == 2
    error = capfd.readouterr().err
    assert os.strerror(code) in error
    assert error.count("\n") == 1
    assert contents(workshop) == before
