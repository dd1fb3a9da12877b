"""model_transform: options, files, refusals, and what happens when a layer differs."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from bmflow import artifacts
from bmflow.cli.model_transform import join_negative_lists, main, shapes
from bmflow.driver import transform
from bmflow.driver.transform import PictureOptions
from bmflow.errors import InputError
from bmflow.ir.module import Module
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with net.onnx: y = Relu(x) * k + x, shape (1, 3, 4, 4)."""
    monkeypatch.chdir(tmp_path)
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Mul", ["r", "k"], ["m"]), helper.make_node("Add", ["m", "x"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4]) for name in "xy")
    graph = helper.make_graph(nodes, "net", [x], [y], [numpy_helper.from_array(np.float32([2.5]), "k")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), "net.onnx")
    artifacts.save_npz("x.npz", {"x": np.linspace(-1, 1, 48, dtype=np.float32).reshape(1, 3, 4, 4)})
    return tmp_path


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands in for preprocessing and kernels: npz inputs, and the network's formula with an adjustable error in the product."""
    state = SimpleNamespace(error=0.0, names=("x", "r_Relu", "m_Mul", "y_Add"))

    def run_top(module: Module, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        x = inputs["x"]
        r = np.maximum(x, 0)
        m = 2.5 * r + state.error
        return dict(zip(state.names, (x, r, m, m + x), strict=True))

    inputs = SimpleNamespace(load_inputs=lambda module, files: artifacts.load_npz(files[0]))
    monkeypatch.setitem(sys.modules, "bmflow.preprocess.inputs", inputs)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(transform, "run_top", run_top)
    return state


BASE = ["--model_name", "net", "--model_def", "net.onnx", "--mlir", "net.mlir"]
CHECK = [*BASE, "--test_input", "x.npz", "--test_result", "top.npz"]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"net.onnx", "x.npz"}


def test_conversion_writes_the_files_users_know(folder: Path) -> None:
    assert main([*BASE, "--pixel_format", "rgb", "--mean", "-1,2,3", "--scale", "0.5,0.5,0.5", "--keep_aspect_ratio"]) == 0
    assert files(folder) == {"net.mlir", "net_origin.mlir", "net_top_f32_all_weight.npz"}
    (recorded,) = Module.load("net.mlir").inputs
    assert recorded["mean"] == [-1.0, 2.0, 3.0]
    assert recorded["keep_aspect_ratio"] is True
    assert recorded["pixel_format"] == "rgb"
    assert recorded["resize_dims"] == [4, 4]


def test_validation_writes_inputs_and_outputs_and_removes_the_reference(
    folder: Path, computed: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(CHECK) == 0
    expected = {"net.mlir", "net_origin.mlir", "net_top_f32_all_weight.npz", "net_in_f32.npz", "top.npz"}
    assert files(folder) == expected
    printed = capsys.readouterr().out
    assert "4 compared\n4 passed" in printed
    assert "npz compare PASSED." in printed


def test_log_lines_are_those_users_copy(folder: Path, computed: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "bmflow"):
        main(CHECK)
    assert "Mlir file generated:net.mlir" in caplog.messages
    assert "[CMD]: model_runner.py --input net_in_f32.npz --model net.mlir --output top.npz --dump_all_tensors " in caplog.messages


def test_debug_keeps_intermediate_files(folder: Path, computed: SimpleNamespace) -> None:
    assert main([*CHECK, "--debug"]) == 0
    assert {"net_opt.onnx", "net_ref_outputs.npz", "net_top_f32_all_origin_weight.npz"} <= files(folder)
    assert len(list(Module.load("net_origin.mlir").layers())) == 4


def test_a_differing_layer_exits_3_and_is_named_with_its_neighbours(
    folder: Path, computed: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    computed.error = 0.5
    assert main(CHECK) == 3
    error = capsys.readouterr().err
    assert "first diverging layer: m_Mul" in error
    assert "r_Relu (1.0000, 1.0000)" in error
    assert "net_ref_outputs.npz" in files(folder)


def test_a_looser_tolerance_and_excepts_let_it_pass(folder: Path, computed: SimpleNamespace) -> None:
    computed.error = 0.1
    assert main(CHECK) == 3
    assert main([*CHECK, "--tolerance", "0.9,0.8"]) == 0
    assert main([*CHECK, "--excepts", "m_Mul,y_Add"]) == 0


def test_nothing_in_common_is_no_success(folder: Path, computed: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    computed.names = ("a", "b", "c", "d")
    assert main(CHECK) == 3
    assert "no name is in both" in capsys.readouterr().err


REFUSED = {
    "missing model": (["--model_def", "none.onnx"], "none.onnx: no such file"),
    "caffe": (["--model_def", "net.prototxt"], "Caffe models are not supported yet"),
    "tflite": (["--model_def", "net.tflite"], "TFLite models are not supported yet"),
    "torch": (["--model_def", "net.pt"], "TorchScript models are not supported yet"),
    "other suffix": (["--model_def", "net.bin"], "expected an .onnx file"),
    "mlir suffix": (["--mlir", "net.txt"], "must end in .mlir"),
    "dynamic": (["--dynamic"], "--dynamic: not supported yet"),
    "postprocess": (["--add_postprocess", "yolov5"], "--add_postprocess: not supported yet"),
    "no result": (["--test_input", "x.npz"], "--test_result is missing"),
    "no test input": (["--test_input", "none.jpg", "--test_result", "o.npz"], "none.jpg: no such file"),
    "short mean": (["--mean", "1,2"], "--mean: expected 3 numbers for pixel format bgr, found 2"),
    "rgbd mean": (["--pixel_format", "rgbd"], "--mean: expected 4 numbers for pixel format rgbd"),
    "nan scale": (["--scale", "1,nan,1"], "expected finite numbers"),
    "resize": (["--resize_dims", "224"], "--resize_dims: expected h,w"),
    "shapes": (["--input_shapes", "[[1,3,4,4],[1]]"], "expected 1 shapes"),
    "output": (["--output_names", "zz"], "no tensor named zz"),
    "folder": (["--mlir", "absent/net.mlir"], "cannot write here"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_exits_2_with_one_paragraph_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    options, message = REFUSED[case]
    assert main([*BASE, *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert files(folder) == set()


def test_rgbd_is_a_format_of_four_channels() -> None:
    picture = PictureOptions(pixel_format="rgbd", mean=[0.0] * 4, scale=[1.0] * 4)
    assert picture(1, (1, 4, 8, 8))["pixel_format"] == "rgbd"


@pytest.mark.parametrize("shape", [(1, 5, 8, 8), (1, 16), (1, 2, 3, 4, 5)])
def test_inputs_that_hold_no_picture_record_nothing(shape: tuple[int, ...]) -> None:
    assert PictureOptions()(1, shape) == {}


def test_channel_format_none_records_nothing() -> None:
    assert PictureOptions(channel_format="none")(1, (1, 3, 8, 8)) == {}


def test_preprocess_list_chooses_what_may_be_fused() -> None:
    picture = PictureOptions(preprocess_list=[2])
    assert "do_preprocess" not in picture(1, (1, 3, 8, 8))
    assert picture(2, (1, 3, 8, 8))["do_preprocess"] is True


def test_nhwc_reads_size_and_channels_from_the_other_axes() -> None:
    assert PictureOptions(channel_format="nhwc")(1, (1, 6, 8, 3))["resize_dims"] == [6, 8]


def test_negative_means_are_no_options() -> None:
    assert join_negative_lists(["--mean", "-1,2,3", "--debug", "--scale", "-.5"]) == ["--mean=-1,2,3", "--debug", "--scale=-.5"]
    assert join_negative_lists(["--mean", "--debug"]) == ["--mean", "--debug"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("[[1,3,640,640]]", [[1, 3, 640, 640]]), ("[1, 3]", [[1, 3]]), ("[[1,3],[1,16]]", [[1, 3], [1, 16]]), ("[]", [])],
)
def test_shapes_are_read_as_users_write_them(text: str, expected: list[list[int]]) -> None:
    assert shapes(text) == expected


@pytest.mark.parametrize("text", ["", "1,x", "[[1.5]]", "[[[1]]]", "{1:2}", "[[1,3],4]", "[" * 999])
def test_malformed_shapes_are_a_usage_error(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected shapes such as"):
        shapes(text)


def test_picture_options_are_checked_when_made() -> None:
    with pytest.raises(InputError, match="--scale"):
        PictureOptions(scale=[1.0])


def test_help_needs_no_heavy_import() -> None:
    code = "import sys\nfrom bmflow.cli.model_transform import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'numpy', 'onnx', 'onnxruntime', 'xdsl', 'cv2'} & sys.modules.keys()), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
