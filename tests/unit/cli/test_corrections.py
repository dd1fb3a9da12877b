"""run_calibration with corrections: new files beside the user's, a table for them, and a bmodel that loses less."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from bmflow import artifacts
from bmflow.cli.model_deploy import main as deploy
from bmflow.cli.model_runner import main as run
from bmflow.cli.model_transform import main as transform
from bmflow.cli.run_calibration import main as calibrate
from bmflow.ir.module import Module
from bmflow.tables.calibration import CalibrationTable
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> Path:
    """A network whose channels lie 300 times apart, and eight pictures of noise."""
    gains = np.geomspace(0.1, 30, 16).astype(np.float32)
    weights = {
        "w1": rng.normal(size=(16, 3, 3, 3)) * gains[:, None, None, None], "w2": rng.normal(size=(16, 1, 3, 3)),
        "w3": rng.normal(size=(6, 16, 1, 1)) / gains[None, :, None, None],
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    return prepared(tmp_path, weights, [rng.integers(0, 256, (16, 16, 3)) for _ in range(8)])


@pytest.fixture
def smooth_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> Path:
    """A network whose filters have a few large weights, so that steps are wide, and eight pictures whose neighbours are alike."""
    shapes = {"w1": (16, 3, 5, 5), "w2": (16, 1, 3, 3), "w3": (6, 16, 5, 5)}
    weights = {name: rng.normal(size=shape) ** 3 for name, shape in shapes.items()}
    monkeypatch.chdir(tmp_path)
    pictures = [cv2.resize(rng.integers(0, 256, (3, 3, 3)).astype(np.uint8), (16, 16), interpolation=cv2.INTER_LINEAR) for _ in range(8)]
    return prepared(tmp_path, weights, pictures)


def prepared(folder: Path, weights: dict[str, np.ndarray], pictures: list[np.ndarray]) -> Path:
    """Write net.mlir, conv - SiLU - depthwise - SiLU - conv, and the pictures."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], auto_pad="SAME_UPPER"), helper.make_node("Sigmoid", ["c1"], ["s1"]),
        helper.make_node("Mul", ["c1", "s1"], ["a1"]),
        helper.make_node("Conv", ["a1", "w2"], ["c2"], pads=[1, 1, 1, 1], group=16), helper.make_node("Sigmoid", ["c2"], ["s2"]),
        helper.make_node("Mul", ["c2", "s2"], ["a2"]), helper.make_node("Conv", ["a2", "w3"], ["y"], auto_pad="SAME_UPPER"),
    ]  # fmt: skip
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, c, 16, 16]) for name, c in (("x", 3), ("y", 6)))
    initializers = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", [x], [y], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), "net.onnx")
    Path("data").mkdir()
    for i, picture in enumerate(pictures):
        cv2.imwrite(f"data/{i}.png", picture.astype(np.uint8))
    arguments = ["--model_name", "net", "--model_def", "net.onnx", "--mlir", "net.mlir", "--scale", "0.004,0.004,0.004"]
    assert transform([*arguments, "--test_input", "data/0.png", "--test_result", "top.npz"]) == 0
    return folder


def error(mlir: str, *options: str) -> float:
    """Calibrate and deploy in INT8; relative error of the bmodel's output."""
    assert calibrate(["net.mlir", "--dataset", "data", "--cali_method", "max", "-o", "table", *options]) == 0
    assert (
        deploy(["--mlir", mlir, "--quantize", "INT8", "--calibration_table", "table", "--processor", "bm1684x", "--model", "net.bmodel"])
        == 0
    )
    assert run(["--input", "net_in_f32.npz", "--model", "net.bmodel", "--output", "out.npz"]) == 0
    (found,) = artifacts.load_npz("out.npz").values()
    exact = artifacts.load_npz("top.npz")["y_Conv"]
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def test_equalization_loses_a_tenth_of_what_plain_int8_loses(folder: Path) -> None:
    assert error("net_we.mlir", "--we") < error("net.mlir") / 10


def test_filters_rounded_together_lose_less_alone_and_behind_equalization(smooth_folder: Path) -> None:
    assert error("net_gptq.mlir", "--gptq") < 0.85 * error("net.mlir")
    assert error("net_we_gptq.mlir", "--we", "--gptq") < 0.85 * error("net_we.mlir", "--we")


def test_a_table_for_rounded_filters_is_the_same_every_time(smooth_folder: Path) -> None:
    for table in ("first", "second"):
        assert calibrate(["net.mlir", "--dataset", "data", "--cali_method", "max", "-o", table, "--gptq"]) == 0
        Path("net_gptq.mlir").rename(f"{table}.mlir")
    assert Path("first.mlir").read_bytes() == Path("second.mlir").read_bytes()
    assert CalibrationTable.load("first").ranges == CalibrationTable.load("second").ranges
    assert CalibrationTable.load("first").weights == CalibrationTable.load("second").weights


def test_biases_of_layers_that_are_good_enough_stay(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No cosine is below 0, and so no score below 0.5."""
    arguments = ["net.mlir", "--dataset", "data", "-o", "table", "--bc", "--min_layer_cos"]
    assert calibrate([*arguments, "0.4"]) == 0
    assert Module.load("net_bc.mlir").weights_digest() == Module.load("net.mlir").weights_digest()
    assert calibrate([*arguments, "1"]) == 0
    assert Module.load("net_bc.mlir").weights_digest() != Module.load("net.mlir").weights_digest()
    assert calibrate([*arguments, "99"]) == 2
    assert "--min_layer_cos 99: expected a cosine from 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("corrections", "written"),
    [
        (["--we", "--bc", "--bc_inference_num", "4"], {"net_we.mlir", "net_we_bc.mlir"}),
        (["--gptq"], {"net_gptq.mlir"}),
        (["--we", "--gptq"], {"net_we.mlir", "net_we_gptq.mlir"}),
        (["--we", "--gptq", "--bc"], {"net_we.mlir", "net_we_gptq.mlir", "net_we_gptq_bc.mlir"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_users_files_stay_as_they_are(folder: Path, corrections: list[str], written: set[str]) -> None:
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}
    assert calibrate(["net.mlir", "--dataset", "data", "-o", "table", *corrections]) == 0
    after = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in before}
    assert after == before
    new = {path.name for path in folder.iterdir()} - set(before)
    assert {name for name in new if name.endswith(".mlir")} == written
    assert "table" in new


@pytest.mark.parametrize(
    ("corrections", "mlir"), [(["--bc"], "net_bc.mlir"), (["--gptq"], "net_gptq.mlir"), (["--we", "--gptq"], "net_we_gptq.mlir")]
)
def test_the_line_that_deploys_is_printed(folder: Path, corrections: list[str], mlir: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(["net.mlir", "--dataset", "data", "-o", "table", *corrections]) == 0
    assert f"model_deploy --mlir {mlir} --quantize INT8 --calibration_table table" in capsys.readouterr().out


def test_a_table_knows_the_weights_it_was_made_for(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert calibrate(["net.mlir", "--dataset", "data", "-o", "table", "--bc"]) == 0
    assert CalibrationTable.load("table").weights == Module.load("net_bc.mlir").weights_digest()
    arguments = [
        "--quantize",
        "INT8",
        "--calibration_table",
        "table",
        "--processor",
        "bm1684x",
        "--not_gen_bmodel",
        "--model",
        "net.bmodel",
    ]
    assert deploy(["--mlir", "net_bc.mlir", *arguments]) == 0
    assert "WAS NOT MADE FOR" not in caplog.text
    assert deploy(["--mlir", "net.mlir", *arguments]) == 0
    assert "table WAS NOT MADE FOR net.mlir" in caplog.text


def test_corrections_for_attention_leave_a_network_without_it_alone(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "bmflow")
    assert calibrate(["net.mlir", "--dataset", "data", "-o", "plain"]) == 0
    assert calibrate(["net.mlir", "--dataset", "data", "-o", "smoothed", "--sq", "--smc"]) == 0
    assert CalibrationTable.load("smoothed") == CalibrationTable.load("plain")
    assert {path.name for path in folder.glob("*.mlir")} == {"net.mlir", "net_origin.mlir"}
    assert "--sq: no LayerNorm feeds a MatMul in this network; nothing to smooth" in caplog.text
    assert "--smc: no Softmax feeds a MatMul in this network; nothing to correct" in caplog.text


def test_part_asymmetric_lists_silus_and_the_convolutions_behind_them(folder: Path) -> None:
    assert calibrate(["net.mlir", "--dataset", "data", "-o", "table", "--part_asymmetric"]) == 0
    assert CalibrationTable.load("table").asym_ops == ("a1_Mul", "c2_Conv", "a2_Mul", "y_Conv")
