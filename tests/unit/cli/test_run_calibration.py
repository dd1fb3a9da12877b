"""run_calibration: from pictures to tables, the lines users know, refusals, and what a broken run leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from bmflow.calibration import sweep
from bmflow.cli.model_transform import main as transform
from bmflow.cli.run_calibration import main
from bmflow.ir.module import Module
from bmflow.tables.calibration import CalibrationTable
from bmflow.tables.precision import PrecisionTable
from onnx import TensorProto, helper, numpy_helper

NAMES = ["x", "y_Conv", "z_Sigmoid"]
BASE = ["net.mlir", "--dataset", "data", "-o", "table"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> Path:
    """A current folder with net.mlir (conv, sigmoid; input (1, 3, 8, 8)) and ten pictures in data/."""
    monkeypatch.chdir(tmp_path)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]), helper.make_node("Sigmoid", ["y"], ["z"])]
    x, z = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, c, 8, 8]) for name, c in (("x", 3), ("z", 4)))
    weight = numpy_helper.from_array(rng.normal(size=(4, 3, 3, 3)).astype(np.float32), "w")
    model = helper.make_model(
        helper.make_graph(nodes, "net", [x], [z], [weight]), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    onnx.save(model, "net.onnx")
    scale = "0.0039216,0.0039216,0.0039216"
    assert transform(["--model_name", "net", "--model_def", "net.onnx", "--mlir", "net.mlir", "--scale", scale]) == 0
    Path("data").mkdir()
    for i in range(10):
        cv2.imwrite(f"data/{i}.png", rng.integers(0, 256, (12, 10, 3)).astype(np.uint8))
    return tmp_path


@pytest.mark.parametrize("method", ["kl", "mse", "max", "percentile9999", "aciq_gauss", "aciq_laplace", "use_kl"])
def test_every_method_writes_a_range_for_every_layer(folder: Path, method: str) -> None:
    assert main([*BASE, "--cali_method", method]) == 0
    table = CalibrationTable.load("table")
    assert list(table.ranges) == NAMES
    assert (table.method, table.samples, table.bins, table.mlir) == (method.removeprefix("use_"), 10, 2048, "net.mlir")
    assert table.tune == (5 if method in ("kl", "use_kl", "aciq_gauss", "aciq_laplace") else 0)
    assert all(0 < found.threshold <= max(abs(found.low), abs(found.high)) + 1e-6 for found in table.ranges.values())
    assert 0 <= table.ranges["z_Sigmoid"].low <= table.ranges["z_Sigmoid"].high <= 1


def test_max_is_what_onnxruntime_computes(folder: Path) -> None:
    import onnxruntime

    main([*BASE, "--cali_method", "max"])
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    inputs = [cv2.resize(cv2.imread(f"data/{i}.png"), (8, 8)).transpose(2, 0, 1)[None] * np.float32(0.0039216) for i in range(10)]
    outputs = np.stack([session.run(None, {"x": x})[0] for x in inputs])
    found = CalibrationTable.load("table").ranges
    assert found["z_Sigmoid"].threshold == pytest.approx(float(outputs.max()), abs=2e-6)
    assert found["x"].high == pytest.approx(float(np.stack(inputs).max()), abs=2e-6)


def test_the_table_of_float_layers_lies_beside_the_calibration_table(folder: Path) -> None:
    Path("out").mkdir()
    assert main(["net.mlir", "--dataset", "data", "-o", "out/table", "--input_num", "2"]) == 0
    assert {path.name for path in Path("out").iterdir()} == {"table", "shape_pattern_qtable"}
    assert PrecisionTable.load("out/shape_pattern_qtable").modes == {}


def test_the_lines_users_know_are_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BASE, "--input_num", "4"]) == 0
    printed = capsys.readouterr().out
    assert "input_num = 4, ref = 4\n" in printed
    assert "real input_num = 4\n" in printed
    assert "auto tune end, run time:" in printed


def test_two_runs_write_the_same_bytes(folder: Path) -> None:
    main(BASE)
    first = Path("table").read_bytes()
    main(BASE)
    assert Path("table").read_bytes() == first


def test_a_data_list_wins_and_arrays_are_used_as_they_are(folder: Path) -> None:
    np.save("a.npy", np.full((1, 3, 8, 8), 0.25, np.float32))
    Path("list").write_text("a.npy\n")
    assert main([*BASE, "--data_list", "list", "--cali_method", "max"]) == 0
    assert CalibrationTable.load("table").ranges["x"].threshold == 0.25


def test_a_tune_list_gives_the_samples_to_tune_on(folder: Path) -> None:
    Path("list").write_text("data/3.png\ndata/4.png\n")
    assert main([*BASE, "--tune_list", "list"]) == 0
    assert CalibrationTable.load("table").tune == 2


def test_debug_commands_set_the_tuning_and_the_method(folder: Path) -> None:
    assert main([*BASE, "--debug_cmd", "tune_steps=3;min_tuned_diff=0.5"]) == 0
    assert main([*BASE, "--debug_cmd", "max"]) == 0
    assert CalibrationTable.load("table").method == "max"


def test_kurtosis_is_written_with_the_heaviest_tails_first(folder: Path) -> None:
    sample = np.random.RandomState(0).standard_t(5, (1, 3, 8, 8)).astype(np.float32)
    np.save("a.npy", sample)
    Path("list").write_text("a.npy\n")
    assert main([*BASE, "--data_list", "list", "--kurtosis_analysis"]) == 0
    header, *lines = Path("kurtosis_analysis").read_text().splitlines()
    assert header == "op_name kurtosis op_type"
    found = {name: (float(value), kind) for name, value, kind in (line.split() for line in lines)}
    assert {name: kind for name, (_, kind) in found.items()} == {"x": "Input", "y_Conv": "Conv", "z_Sigmoid": "Sigmoid"}
    x = sample.astype(np.float64)
    assert found["x"][0] == pytest.approx(((x - x.mean()) ** 4).mean() / x.std() ** 4, rel=1e-5)
    assert [value for value, _ in found.values()] == sorted((value for value, _ in found.values()), reverse=True)


def test_broken_pictures_are_skipped_and_counted(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(3):
        Path(f"data/{i}.png").write_text("no picture")
    assert main(BASE) == 0
    table = CalibrationTable.load("table")
    assert table.samples == 7
    assert "skipped: 3 broken samples" in table.notes
    assert "skipped data/1.png" in caplog.text


def _break_most(folder: Path) -> None:
    for i in range(6):
        Path(f"data/{i}.png").write_text("no picture")


def _make_tpu_module(folder: Path) -> None:
    module = Module.load("net.mlir")
    module.set("module.state", "TPU_LOWERED")
    module.save("tpu.mlir", "tpu.npz")


def _make_folders(folder: Path) -> None:
    Path("empty").mkdir()
    np.save("wrong.npy", np.zeros((1, 3, 9, 9)))
    Path("wrong").write_text("wrong.npy")


REFUSED = {
    "missing module": (["none.mlir", *BASE[1:]], "none.mlir: cannot be read"),
    "tpu module": (["tpu.mlir", *BASE[1:]], "expected the top module that model_transform wrote"),
    "not a module": (["net.onnx", *BASE[1:]], "net.onnx: cannot be read"),
    "no samples": (["net.mlir", "-o", "table"], "no samples given"),
    "no folder": (["net.mlir", "--dataset", "nowhere", "-o", "table"], "nowhere: no such folder"),
    "empty folder": (["net.mlir", "--dataset", "empty", "-o", "table"], "holds no sample"),
    "shape": ([*BASE, "--data_list", "wrong"], "input x is 1x3x8x8, found 1x3x9x9"),
    "output folder": ([*BASE[:3], "-o", "absent/table"], "absent/table: cannot write here"),
    "output is a folder": ([*BASE[:3], "-o", "empty"], "empty: cannot write here"),
    "input_num": ([*BASE, "--input_num", "-1"], "--input_num: expected 0 or more"),
    "one name for both tables": ([*BASE, "--quantize_table", "table"], "--quantize_table table: -o is that file"),
    "bins": ([*BASE, "--histogram_bin_num", "5"], "--histogram_bin_num: expected 128 or more"),
    "processor": ([*BASE, "--processor", "bm1685x"], "did you mean bm1684x"),
    "search": ([*BASE, "--search", "search_qtable"], "--search search_qtable needs --quantize_table"),
    "mix mode": ([*BASE, "--mix_mode", "wi4ai4_wi8ai8"], "--mix_mode wi4ai4_wi8ai8: not supported yet"),
    "debug": ([*BASE, "--debug_cmd", "use_pil_resize"], "--debug_cmd use_pil_resize: not supported"),
    "debug number": ([*BASE, "--debug_cmd", "tune_steps=many"], "expected tune_steps=N"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_exits_2_with_one_paragraph_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    _make_folders(folder)
    _make_tpu_module(folder)
    before = {path.name for path in folder.iterdir()}
    options, message = REFUSED[case]
    capsys.readouterr()
    assert main(options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert {path.name for path in folder.iterdir()} == before


def test_too_few_usable_pictures_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _break_most(folder)
    assert main(BASE) == 2
    assert "6 of 10 samples are broken, too few remain" in capsys.readouterr().err
    assert not Path("table").exists()


def test_an_interrupted_run_leaves_no_table(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep.Statistics, "add", interrupted)
    assert main(BASE) == 130
    assert {path.name for path in folder.glob("*table*")} == set()
    assert "nothing half-written" in capsys.readouterr().err


def test_help_teaches_and_needs_no_heavy_import() -> None:
    code = "import sys\nfrom bmflow.cli.run_calibration import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'numpy', 'onnx', 'onnxruntime', 'xdsl', 'cv2'} & sys.modules.keys()), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
    assert "run_calibration yolov5n.mlir --dataset coco2017-calib --input_num 100 -o yolov5n_cali_table" in result.stdout
