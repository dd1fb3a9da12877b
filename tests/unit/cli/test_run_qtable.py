"""run_qtable and run_calibration --search: tables, printed lines, what lies beside them, refusals, and models deployed with them."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import onnx
import pytest
from bmflow import artifacts
from bmflow.calibration import samples
from bmflow.cli.model_deploy import main as deploy
from bmflow.cli.model_transform import main as transform
from bmflow.cli.run_calibration import main as calibrate
from bmflow.cli.run_qtable import main
from bmflow.container import bmodel
from bmflow.ir.module import Module
from bmflow.kernels import Executable
from bmflow.simulator import Simulator
from bmflow.tables.calibration import CalibrationTable
from bmflow.tables.precision import PrecisionTable
from onnx import TensorProto, helper, numpy_helper

SEARCH = ["net.mlir", "--dataset", "data", "--chip", "bm1684x", "-o", "qtable", "--input_num", "3"]
BASE = [*SEARCH, "--calibration_table", "table"]
CALIBRATE = ["net.mlir", "--dataset", "data", "--input_num", "4", "-o", "table", "--quantize_table", "qtable", "--inference_num", "3"]
BAR = ["--expected_cos", "0.5", "--expected_sqnr", "12"]
LABELS = ["--map_annotation", "labels.json", "--map_dataset", "data"]
BAD, SUM = "b_Conv", "s_Add"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.mlir, ten pictures in data/, and `table`: a convolution whose filters hold large weights for a channel that is always 0."""
    rng = np.random.default_rng(1684)
    folder = tmp_path_factory.mktemp("qtable")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _build(rng)
    return folder


def _build(rng: np.random.Generator) -> None:
    first, spoilt, last = (rng.normal(size=shape).astype(np.float32) / 3 for shape in ((64, 3, 3, 3), (64, 64, 3, 3), (64, 64, 3, 3)))
    first[0] = 0
    spoilt[:, 0] = 5000
    conv = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["y"], **conv), helper.make_node("Relu", ["y"], ["a"]),
        helper.make_node("Conv", ["a", "w1"], ["b"], **conv), helper.make_node("Add", ["b", "a"], ["s"]),
        helper.make_node("Conv", ["s", "w2"], ["z"], **conv),
    ]  # fmt: skip
    weights = {"w0": first, "w1": spoilt, "w2": last}
    x, z = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, c, 64, 64]) for name, c in (("x", 3), ("z", 64)))
    graph = helper.make_graph(nodes, "net", [x], [z], [numpy_helper.from_array(array, name) for name, array in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), "net.onnx")
    scale = "0.01,0.01,0.01"
    assert transform(["--model_name", "net", "--model_def", "net.onnx", "--mlir", "net.mlir", "--scale", scale]) == 0
    Path("data").mkdir()
    for i in range(10):
        cv2.imwrite(f"data/{i}.png", rng.integers(0, 256, (64, 64, 3)).astype(np.uint8))
    assert calibrate(["net.mlir", "--dataset", "data", "--cali_method", "max", "-o", "table"]) == 0


@pytest.fixture
def folder(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `built` as the current folder."""
    import shutil

    place = tmp_path / "work"
    shutil.copytree(built, place)
    monkeypatch.chdir(place)
    return place


def test_the_default_search_lifts_the_layer_that_hurts_and_says_why(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BASE, *BAR]) == 0
    table = PrecisionTable.load("qtable")
    assert table.modes[BAD] == "F16"
    assert len(table.modes) < 4, "lifting everything would be slower"
    assert table.reasons[BAD].startswith("noise source 1 of ")
    assert (table.chip, table.mix_mode, table.samples) == ("bm1684x", "F16", 3)
    printed = capsys.readouterr().out
    for line in (
        "int8 outputs_cos:0.",
        "mix model outputs_cos:0.",
        "(0.5 + 0.5 * cos); plain cosine",
        "Output mix quantization table to qtable",
    ):
        assert line in printed
    assert "simulator, assumed rates" in printed


def test_the_pareto_set_lies_beside_the_table(folder: Path) -> None:
    assert main([*BASE, *BAR]) == 0
    found = json.loads(Path("qtable_pareto.json").read_text())
    points = found["points"]
    assert [point["cycles"] for point in points] == sorted(point["cycles"] for point in points)
    for one in points:
        for other in points:
            assert one is other or one["cycles"] < other["cycles"] or one["sqnr_db"] > other["sqnr_db"]
    [best] = [point for point in points if "best" in point["role"]]
    assert best["table"] == "qtable"
    assert BAD in best["modes_float"]
    assert Path("qtable_pareto.csv").read_text().count("\n") == len(points) + 1
    assert ElementTree.parse("qtable_pareto.svg").getroot().tag.endswith("svg")
    for point in points:
        if "knee" in point["role"]:
            assert sorted(PrecisionTable.load(point["table"]).modes) == point["modes_float"]


def test_points_are_what_model_deploy_makes_of_their_tables(folder: Path) -> None:
    """Bytes and cycles to the last one; noise of the bmodel on the samples of the search, whose float layers another engine computed."""
    assert main([*BASE, *BAR]) == 0
    found = json.loads(Path("qtable_pareto.json").read_text())
    assert len(found["points"]) > 2
    options = ["--mlir", "net.mlir", "--chip", "bm1684x", "--quantize", "INT8", "--calibration_table", "table", "--model", "m.bmodel"]
    for point in found["points"]:
        Path("again").write_text("".join(f"{name} {found['float']}\n" for name in point["modes_float"]))
        assert deploy([*options, "--quantize_table", point["table"] or "again"]) == 0
        simulator = Simulator(bmodel.read(Path("m.bmodel").read_bytes()))
        assert (Path("m.bmodel").stat().st_size, simulator.estimate().total_cycles) == (point["bytes"], point["cycles"])
        assert _sqnr(simulator) == pytest.approx(point["sqnr_db"], abs=0.05)


def _sqnr(simulator: Simulator) -> float:
    """In dB, mean noise over channels (at most 1) of the output against float, on the three samples of `BASE`."""
    module = Module.load("net.mlir")
    entries = samples.from_folder("data")[:3]
    inputs = [samples.Loader(module, entries).load(entry) for entry in entries]
    exact = np.stack([Executable(module, "outputs", 1).run(one)["z_Conv"][0] for one in inputs]).astype(np.float64)
    [output] = simulator.outputs
    found = np.stack([output.to_real(simulator.run(one, check=False).outputs[output.name])[0] for one in inputs]).astype(np.float64)
    noise = np.square(found - exact).sum((0, 2, 3)) / np.square(exact - exact.mean((0, 2, 3), keepdims=True)).sum((0, 2, 3))
    return float(-10 * np.log10(np.minimum(noise, 1).mean()))


def test_a_quantize_table_knows_the_weights_it_was_made_for(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main([*BASE, *BAR]) == 0
    assert PrecisionTable.load("qtable").weights == Module.load("net.mlir").weights_digest()
    options = [
        "--mlir",
        "net.mlir",
        "--chip",
        "bm1684x",
        "--quantize",
        "INT8",
        "--calibration_table",
        "table",
        "--quantize_table",
        "qtable",
    ]
    assert deploy([*options, "--not_gen_bmodel", "--model", "m.bmodel"]) == 0
    assert "WAS NOT MADE FOR" not in caplog.text
    weights = artifacts.load_npz("net_top_f32_all_weight.npz")
    artifacts.save_npz("net_top_f32_all_weight.npz", {name: 2 * array for name, array in weights.items()})
    assert deploy([*options, "--not_gen_bmodel", "--model", "m.bmodel"]) == 0
    said = [line.partition(": its weights")[0] for line in caplog.messages if "WAS NOT MADE FOR" in line]
    assert said == ["table WAS NOT MADE FOR net.mlir", "qtable WAS NOT MADE FOR net.mlir"]


def test_a_second_run_reads_the_journal_and_writes_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*BASE, *BAR])
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("qtable") and path.is_file()}
    assert main([*BASE, *BAR]) == 0
    assert {name: Path(name).read_bytes() for name in files} == files


INTERRUPTED = {
    "run_qtable killed": ("run_qtable", [*BASE, *BAR], signal.SIGKILL, -signal.SIGKILL),
    "run_qtable interrupted": ("run_qtable", [*BASE, "--search", "search_qtable", "--expected_cos", "0.999"], signal.SIGINT, 130),
    "run_calibration interrupted": ("run_calibration", [*CALIBRATE, "--search", "pareto", *BAR], signal.SIGINT, 130),
}
STOP = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins with SIGINT ignored
from importlib import import_module
from bmflow.search.journal import Journal
add, seen = Journal.add, []
def stop(*arguments):
    add(*arguments)
    seen.append(1)
    if len(seen) == 4:
        os.kill(os.getpid(), int(sys.argv[2]))
Journal.add = stop
raise SystemExit(import_module(f"bmflow.cli.{sys.argv[1]}").main(sys.argv[3:]))
"""


@pytest.mark.parametrize("case", INTERRUPTED)
def test_a_search_stopped_by_a_signal_goes_on_to_the_same_bytes(folder: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    tool, arguments, number, code = INTERRUPTED[case]
    inputs = {path.name for path in folder.iterdir()}
    run = calibrate if tool == "run_calibration" else main
    assert run(arguments) == 0
    whole = _written(folder, inputs)
    for name in whole.keys() - inputs:
        Path(name).unlink()
    command = [sys.executable, "-c", STOP, tool, str(int(number)), *arguments]
    stopped = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert stopped.returncode == code, stopped.stderr
    assert ("4 scores are in qtable_journal.jsonl; the same command goes on from there" in stopped.stdout) == (number == signal.SIGINT)
    assert not Path("qtable").exists()
    assert Path("qtable_journal.jsonl").read_text().count("\n") == 1 + 4
    capsys.readouterr()
    assert run(arguments) == 0
    again = _written(folder, inputs)
    assert again.pop("qtable_journal.jsonl").count(b"\n") == whole.pop("qtable_journal.jsonl").count(b"\n"), "nothing was scored twice"
    assert again == whole


def _written(folder: Path, inputs: set[str]) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name not in inputs - {"table"}}


def test_a_bar_nothing_reaches_exits_3_with_the_best_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BASE, "--expected_sqnr", "150"]) == 3
    assert "expected 150 dB" in capsys.readouterr().err
    assert len(PrecisionTable.load("qtable").modes) > 1


@pytest.mark.parametrize("kind", ["search_qtable", "mix_search"])
def test_a_bar_the_compatible_searches_do_not_reach_exits_3_with_the_best_found(
    folder: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    assert main([*BASE, "--search", kind, "--expected_cos", "1"]) == 3
    assert "scale 0.5 + 0.5 * cos, expected more than 1; its table is in qtable" in capsys.readouterr().err
    assert BAD in PrecisionTable.load("qtable").modes


def test_thresholds_that_do_not_suffice_exit_3_with_the_best_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate([*CALIBRATE, "--search", "search_threshold", "--expected_cos", "1"]) == 3
    printed = capsys.readouterr()
    assert "the best found has outputs_cos 0." in printed.err
    best = printed.out.partition("best threshold table: ")[2].partition(",")[0]
    assert Path("table").read_bytes() == Path(f"table_{best}").read_bytes()


def test_a_limit_of_cycles_below_all_tables_exits_3_with_the_fastest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BASE, "--max_cycles", "0.5"]) == 3
    error = capsys.readouterr().err
    limit, cycles = (int(error.partition(before)[2].split()[0]) for before in ("keeps within ", "takes "))
    assert cycles == pytest.approx(2 * limit, abs=1), "all in INT8, of which half was asked for"
    assert PrecisionTable.load("qtable").modes == {}


def test_a_limit_of_cycles_gives_the_least_noise_within_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BASE, "--max_cycles", "1.0001", "--expected_cos", "0.9999999"]) == 0
    tight = json.loads(Path("qtable_pareto.json").read_text())["points"]
    assert main([*BASE, "--max_cycles", "3"]) == 0
    wide = json.loads(Path("qtable_pareto.json").read_text())["points"]
    best = [next(point for point in points if "best" in point["role"]) for points in (tight, wide)]
    assert best[0]["float_layers"] == 0
    assert best[1]["sqnr_db"] > best[0]["sqnr_db"] + 10
    assert BAD in PrecisionTable.load("qtable").modes


def test_given_lines_stay(folder: Path) -> None:
    Path("given").write_text(f"{BAD} F32\n")
    assert main([*BASE, *BAR, "--pre_qtable", "given"]) == 0
    assert PrecisionTable.load("qtable").modes[BAD] == "F32"


def test_layers_known_by_their_place_stay_float_on_request_with_the_reason(folder: Path) -> None:
    assert main([*BASE, *BAR, "--patterns", "first"]) == 0
    table = PrecisionTable.load("qtable")
    assert table.modes["a_Relu"] == "F16"
    assert table.reasons["a_Relu"] == "pattern layers, first: their noise goes through the whole network"


def test_search_qtable_prints_its_lines_and_writes_losses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BASE, "--search", "search_qtable", "--expected_cos", "0.999", "--max_float_layers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "int8 outputs_cos:0." in printed
    assert " old\n" in printed
    assert "success search_qtable" in printed
    assert BAD in PrecisionTable.load("qtable").modes
    first = next(line for line in Path("full_loss_table.txt").read_text().splitlines() if line.startswith("No."))
    assert BAD in first


def test_mix_search_lifts_what_is_off_by_itself(folder: Path) -> None:
    assert main([*BASE, "--search", "mix_search", "--expected_cos", "0.999", "--loss_table", "losses"]) == 0
    assert BAD in PrecisionTable.load("qtable").modes
    assert "mix_mode: F16" in Path("losses").read_text()


def test_a_float_type_other_than_auto_is_used(folder: Path) -> None:
    assert main([*BASE, *BAR, "--fp_type", "bf16"]) == 0
    assert set(PrecisionTable.load("qtable").modes.values()) == {"BF16"}


def test_outputs_can_be_post_processed(folder: Path) -> None:
    Path("post.py").write_text("def PostProcess(data):\n    return {'sum': next(iter(data.values())).sum(1)}\n")
    assert main([*BASE, "--expected_cos", "0.5", "--post_process", "post.py"]) == 0


def test_parts_of_the_network_stay_in_float(folder: Path) -> None:
    assert main([*BASE, "--expected_cos", "0.5", "--part_quantize", "custom_mode", "--custom_operator", "Conv"]) == 0
    table = PrecisionTable.load("qtable")
    assert table.reasons[SUM] == "custom layers"


def test_run_calibration_searches_with_thresholds_chosen_layer_by_layer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate([*CALIBRATE, "--search", "pareto", *BAR]) == 0
    assert "scored on 3 samples, none of which calibrates" in capsys.readouterr().out
    chosen = CalibrationTable.load("new_cali_table.txt")
    assert list(chosen.ranges) == list(CalibrationTable.load("table").ranges)
    assert chosen.weights
    assert any(note.startswith("thresholds chosen by output noise") for note in chosen.notes)
    assert {"table_kl_tune", "table_mse", "table_max", "table_percentile9999"} <= {path.name for path in folder.iterdir()}
    assert BAD in PrecisionTable.load("qtable").modes


def test_run_calibration_search_threshold_copies_the_best_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate([*CALIBRATE, "--search", "search_threshold", "--expected_cos", "0.1"]) == 0
    best = capsys.readouterr().out.partition("best threshold table: ")[2].partition(",")[0]
    assert Path("table").read_bytes() == Path(f"table_{best}").read_bytes()


def test_run_calibration_search_qtable_writes_the_table_to_deploy_with(folder: Path) -> None:
    options = ["--search", "search_qtable", "--quantize_method_list", "mse,max", "--expected_cos", "0.999", "--max_float_layers", "2"]
    assert calibrate([*CALIBRATE, *options]) == 0
    assert BAD in PrecisionTable.load("qtable").modes
    rows = [CalibrationTable.load(name).ranges for name in ("new_cali_table.txt", "table_mse_tune", "table_max_tune")]
    assert all(rows[0][name] in (rows[1][name], rows[2][name]) for name in rows[0])


@pytest.mark.parametrize(
    ("arguments", "table"),
    [
        (["--search", "pareto"], "new_cali_table.txt"),
        (["--search", "pareto", "--quantize_method_list", "max"], "table"),
        (["--search", "search_threshold"], "table"),
        (["--search", "pareto", "--bc"], "new_cali_table.txt"),
    ],
)
def test_the_line_that_deploys_what_was_found_works_as_printed(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], table: str
) -> None:
    assert calibrate([*CALIBRATE, *arguments, "--expected_cos", "0.1"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("deploy ")]
    tool, *words, rest = shlex.split(line.removeprefix("deploy it: "))
    assert (tool, words[words.index("--calibration_table") + 1], rest) == ("model_deploy", table, "...")
    assert words[1] == ("net_bc.mlir" if "--bc" in arguments else "net.mlir")
    assert deploy([*words, "--not_gen_bmodel", "--model", "m.bmodel"]) == 0


def test_corrections_come_before_the_search(folder: Path) -> None:
    assert calibrate([*CALIBRATE, "--search", "pareto", "--bc", "--expected_cos", "0.5"]) == 0
    assert Path("net_bc.mlir").is_file()
    assert CalibrationTable.load("new_cali_table.txt").mlir == "net_bc.mlir"
    assert PrecisionTable.load("qtable").weights == CalibrationTable.load("new_cali_table.txt").weights


def _files(folder: Path) -> None:
    Path("odd_table").write_text("z_Konv 1 -1 1\n")
    Path("odd_qtable").write_text("b_Konv F16\n")
    Path("odd_type").write_text("b_Conv F17\n")
    Path("raises.py").write_text("1 / 0\n")
    pictures = [{"id": k, "file_name": f"{k}.png"} for k in range(10)]
    boxes = [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}]
    Path("labels.json").write_text(json.dumps({"images": pictures, "annotations": boxes, "categories": [{"id": 1, "name": "person"}]}))
    Path("empty.py").write_text("x = 1\n")


REFUSED = {
    "table of another network": ([*SEARCH, "--calibration_table", "odd_table"], "z_Konv (did you mean z_Conv"),
    "no table": ([*SEARCH, "--calibration_table", "none"], "none: cannot be read"),
    "layer of pre_qtable": ([*BASE, "--pre_qtable", "odd_qtable"], "b_Konv (did you mean b_Conv"),
    "type of pre_qtable": ([*BASE, "--pre_qtable", "odd_type"], "no known type"),
    "type the processor lacks": ([*BASE, "--fp_type", "F8"], "--fp_type F8: bm1684x has F16, F32, BF16"),
    "compared layer": ([*BASE, "--global_compare_layers", "z_Konv"], "z_Konv (did you mean z_Conv"),
    "weights": ([*BASE, "--global_compare_layers", "z_Conv:0.3,b_Conv:0.3"], "they must sum to 1"),
    "part": ([*BASE, "--part_quantize", "M_mode"], "choose from N_mode, H_mode, custom_mode"),
    "no operators": ([*BASE, "--part_quantize", "custom_mode"], "needs --custom_operator"),
    "operator": ([*BASE, "--part_quantize", "custom_mode", "--custom_operator", "Konv"], "did you mean Conv"),
    "post process raises": ([*BASE, "--post_process", "raises.py"], "ZeroDivisionError"),
    "no post process": ([*BASE, "--post_process", "empty.py"], "expected a function PostProcess"),
    "cosine": ([*BASE, "--expected_cos", "1.5"], "--expected_cos 1.5: expected a cosine"),
    "samples": ([*BASE[:-2], "--calibration_table", "table", "--inference_num", "0"], "--inference_num: expected 1 or more"),
    "scored on nothing": ([*BASE, "--input_num", "0"], "--input_num: expected 1 or more, found 0"),
    "loss table": ([*BASE, "--loss_table", "x"], "pareto writes its figures"),
    "folder": ([*BASE, "-o", "absent/qtable"], "absent/qtable: cannot write here"),
    "processor": ([*BASE, "--chip", "bm1685x"], "did you mean bm1684x"),
    "processor without code": ([*BASE, "--chip", "bm1690"], "code generation is not supported yet"),
    "two limits": ([*BASE, "--max_cycles", "1.2", "--max_float_cycles", "0.7"], "one limit is enough"),
    "a limit below nothing": ([*BASE, "--max_cycles", "-1"], "expected a positive ratio of cycles"),
    "a limit of another search": ([*BASE, "--search", "mix_search", "--max_cycles", "1.2"], "only --search pareto counts cycles"),
    "labels without pictures": ([*BASE, "--map_annotation", "labels.json"], "belong together"),
    "labels of pictures that calibrate": ([*BASE, *LABELS], "10 of its pictures calibrate, too"),
    "loss of mAP": ([*BASE, *LABELS, "--map_drop", "1.5"], "--map_drop 1.5: expected a part"),
    "labels of another search": ([*BASE, *LABELS, "--search", "mix_search"], "only --search pareto scores by mAP"),
    "no samples": ([*BASE[:1], *BASE[3:]], "no samples given"),
    "the table itself": ([*BASE, "-o", "table"], "--quantize_table table: --calibration_table is that file"),
    "pattern": ([*BASE, "--patterns", "frist"], "--patterns frist: no such pattern; did you mean first?"),
    "bias correction": ([*BASE, "--debug_cmd", "run_bias_correction"], "run run_calibration --bc, and give the corrected .mlir"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_exits_2_with_one_paragraph_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    _files(folder)
    before = {path.name for path in folder.iterdir()}
    options, message = REFUSED[case]
    assert main(options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert {path.name for path in folder.iterdir()} == before


CALIBRATION_REFUSED = {
    "no quantize table": ([*CALIBRATE[:7], "--search", "pareto"], "needs --quantize_table"),
    "method": ([*CALIBRATE, "--search", "search_qtable", "--quantize_method_list", "mze"], "did you mean mse"),
    "one name for both tables": ([*CALIBRATE, "--search", "pareto", "--quantize_table", "table"], "--calibration_table is that file"),
    "kurtosis": ([*CALIBRATE, "--search", "pareto", "--kurtosis_analysis"], "a search does not write it"),
    "fast search": ([*CALIBRATE, "--search", "fast_search"], "not supported; choose from pareto, search_qtable"),
}


@pytest.mark.parametrize("case", CALIBRATION_REFUSED)
def test_run_calibration_refuses_searches_it_cannot_do(folder: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    options, message = CALIBRATION_REFUSED[case]
    assert calibrate(options) == 2
    assert message in capsys.readouterr().err


def test_help_teaches_and_needs_no_heavy_import() -> None:
    code = "import sys\nfrom bmflow.cli.run_qtable import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'numpy', 'onnx', 'onnxruntime', 'xdsl', 'cv2'} & sys.modules.keys()), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
    assert "run_qtable yolov5n.mlir --dataset coco2017-calib --calibration_table yolov5n_cali_table --chip bm1684x" in result.stdout
