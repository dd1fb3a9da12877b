"""run_calibration --sq and --smc on networks with attention: new files beside the user's, and a bmodel that loses less."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from attention_network import attention_model
from attention_network import samples as attention_samples
from bmflow import artifacts
from bmflow.cli.model_deploy import main as deploy
from bmflow.cli.model_runner import main as run
from bmflow.cli.model_transform import main as transform
from bmflow.cli.run_calibration import main as calibrate
from bmflow.ir.module import Module
from bmflow.kernels import Executable
from bmflow.tables.calibration import CalibrationTable
from token_networks import CHANNELS, Net


def write_samples(samples: list[np.ndarray]) -> None:
    Path("data").mkdir()
    for i, x in enumerate(samples):
        np.savez(f"data/{i}.npz", x=x)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """net.mlir, a transformer block with outliers behind its normalizations, and eight inputs."""
    monkeypatch.chdir(tmp_path)
    onnx.save(attention_model(outlier=40.0), "net.onnx")
    write_samples(attention_samples(8))
    assert transform(["--model_name", "net", "--model_def", "net.onnx", "--mlir", "net.mlir"]) == 0
    return tmp_path


@pytest.fixture
def flat_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> Path:
    """net.mlir, attention over 96 tokens none of which stands out, and four inputs."""
    monkeypatch.chdir(tmp_path)
    net = Net(rng, 96)
    q, k, v = (net.product(name, net.x, CHANNELS) for name in ("queries", "keys", "values"))
    for name in ("queries", "keys"):
        net.builder.module.weights[f"{name}_w"] *= np.float32(0.3)
    net.finish(net.attention(q, k, v)).save("net.mlir", "net_top_f32_all_weight.npz")
    write_samples([one["x"] for one in net.samples(4)])
    return tmp_path


def error(mlir: str, *options: str) -> float:
    """Calibrate and deploy in INT8; relative error of the bmodel's output on the first input."""
    assert calibrate(["net.mlir", "--dataset", "data", "--cali_method", "max", "-o", "table", *options]) == 0
    arguments = ["--quantize", "INT8", "--calibration_table", "table", "--processor", "bm1684x", "--model", "net.bmodel"]
    assert deploy(["--mlir", mlir, *arguments]) == 0
    assert run(["--input", "data/0.npz", "--model", "net.bmodel", "--output", "out.npz"]) == 0
    (found,) = artifacts.load_npz("out.npz").values()
    (exact,) = Executable(Module.load("net.mlir")).run({"x": artifacts.load_npz("data/0.npz")["x"]}).values()
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def test_smoothing_loses_a_quarter_of_what_plain_int8_loses(folder: Path) -> None:
    assert error("net_sq.mlir", "--sq") < error("net.mlir") / 4


def test_softmax_correction_loses_a_third_of_what_plain_int8_loses(flat_folder: Path) -> None:
    assert error("net_smc.mlir", "--smc") < error("net.mlir") / 3


def test_files_are_named_after_the_corrections_in_their_order_and_the_users_stay(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}
    assert calibrate(["net.mlir", "--dataset", "data", "-o", "table", "--bc", "--gptq", "--we", "--smc", "--sq"]) == 0
    after = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in before}
    assert after == before
    made = [f"net{'_sq_smc_we_gptq_bc'[:end]}.mlir" for end in (3, 7, 10, 15, 18)]
    assert {path.name for path in folder.glob("*.mlir")} - before.keys() == set(made)
    assert f"model_deploy --mlir {made[-1]} --quantize INT8 --calibration_table table" in capsys.readouterr().out
    table = CalibrationTable.load("table")
    assert (table.mlir, table.weights) == (made[-1], Module.load(made[-1]).weights_digest())


def test_what_was_smoothed_and_what_was_left_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "bmflow")
    assert calibrate(["net.mlir", "--dataset", "data", "-o", "table", "--sq", "--smc"]) == 0
    assert "--sq: norm1_LayerNormalization: its farthest channel reaches " in caplog.text
    assert "--smc: 0 layers changed, 1 left, which would win too little: probabilities_Softmax" in caplog.text
    assert "nothing to" not in caplog.text
    assert str(Module.load("net_sq_smc.mlir")).replace("net_sq_smc_top", "net_sq_top") == str(Module.load("net_sq.mlir"))


def test_equalization_leaves_a_network_without_convolutions_alone(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "bmflow")
    assert calibrate(["net.mlir", "--dataset", "data", "-o", "table", "--we"]) == 0
    assert "--we: no feature map has channels that can be scaled" in caplog.text
    assert Module.load("net_we.mlir").weights_digest() == Module.load("net.mlir").weights_digest()


def test_a_smoothed_module_and_its_table_are_the_same_every_time(folder: Path) -> None:
    for table in ("first", "second"):
        assert calibrate(["net.mlir", "--dataset", "data", "-o", table, "--sq"]) == 0
        Path("net_sq.mlir").rename(f"{table}.mlir")
    assert Path("first.mlir").read_bytes() == Path("second.mlir").read_bytes()
    assert CalibrationTable.load("first") == CalibrationTable.load("second")


@pytest.mark.parametrize("kind", ["search_qtable", "pareto"])
def test_a_search_corrects_first_and_measures_against_the_original(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "net.mlir",
        "--dataset",
        "data",
        "--input_num",
        "4",
        "--tune_num",
        "1",
        "-o",
        "table",
        "--sq",
        "--quantize_table",
        "qtable",
    ]
    assert calibrate([*arguments, "--search", kind]) == 0
    printed = capsys.readouterr().out
    assert "model_deploy --mlir net_sq.mlir --quantize INT8 --calibration_table new_cali_table.txt --quantize_table qtable" in printed
    assert f"success {kind}" in printed
