"""model_deploy on a small network: files, log lines, comparisons, and what is said when one fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bmflow import artifacts
from bmflow.container import bmodel
from bmflow.ir.module import Module
from bmflow.isa.program import Command, Program
from workshop import DEPLOY, run

STEM = "net_bm1684x_int8_sym"
MODES = {
    "F32": ("net_bm1684x_f32", ()),
    "F16": ("net_bm1684x_f16", ()),
    "BF16": ("net_bm1684x_bf16", ()),
    "INT8": (STEM, ("--calibration_table", "net_table")),
    "int8": ("net_bm1684x_int8_asym", ("--calibration_table", "net_table", "--asymmetric")),
}
BASE = ("--mlir", "net.mlir", "--chip", "BM1684X", "--test_input", "net_in_f32.npz", "--tolerance", "0.9,0.5")


def deploy(*more: str, mode: str = "F32", model: str = "new.bmodel") -> int:
    """Deploy in some mode to new.bmodel."""
    return run("model_deploy", *BASE, "--quantize", mode, "--model", model, *MODES[mode][1], *more)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_passes_both_comparisons_and_names_its_files(workshop: Path, capsys: pytest.CaptureFixture[str], mode: str) -> None:
    assert deploy(mode=mode) == 0
    stem = MODES[mode][0]
    for name in (f"{stem}_tpu.mlir", f"{stem}_tpu_weights.npz", f"{stem}_final.mlir", "new.bmodel"):
        assert (workshop / name).is_file(), name
    assert capsys.readouterr().out.count("npz compare PASSED.") == 2
    assert Module.load(f"{stem}_tpu.mlir").get("module.state") == "TPU_LOWERED"


def test_outputs_of_the_comparisons_go_unless_debug(workshop: Path) -> None:
    outputs = {f"{STEM}_tpu_outputs.npz", f"{STEM}_model_outputs.npz"}
    assert deploy(mode="INT8") == 0
    assert not outputs & {path.name for path in workshop.iterdir()}
    assert deploy("--debug", mode="INT8") == 0
    assert outputs < {path.name for path in workshop.iterdir()}


def test_log_lines_are_those_users_copy(workshop: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "bmflow"):
        deploy("--test_reference", "net_top_outputs.npz", mode="INT8")
    compare = f"npz_tool.py compare {STEM}_tpu_outputs.npz net_top_outputs.npz --tolerance 0.9,0.5 --except - -vv"
    assert f"[CMD]: model_runner.py --input net_in_f32.npz --model {STEM}_tpu.mlir --output {STEM}_tpu_outputs.npz  " in caplog.messages
    assert f"[Running]: {compare}" in caplog.messages
    assert f"[Success]: {compare}" in caplog.messages
    assert f"[CMD]: model_runner.py --input net_in_f32.npz --model new.bmodel --output {STEM}_model_outputs.npz  " in caplog.messages


def test_files_beside_the_model_serve_the_board_and_the_reader(workshop: Path) -> None:
    assert deploy(mode="INT8") == 0
    model = bmodel.read(Path("new.bmodel").read_bytes())
    stage = model.nets[0].stages[0]
    assert Path("new/compilation.bmodel").read_bytes() == Path("new.bmodel").read_bytes()
    assert Path("new/input_ref_data.dat").stat().st_size == sum(tensor.size_bytes for tensor in stage.inputs)
    assert Path("new/output_ref_data.dat").stat().st_size == sum(tensor.size_bytes for tensor in stage.outputs)
    places = json.loads(Path("new.bmodel.json").read_text())
    assert [row["name"] for row in places["layers"]] == [span.name for span in stage.layers]
    assert "y_Conv" in Path("new.bmodel.compiler_profile_0.txt").read_text()


def test_input_data_are_the_raw_bytes_of_the_input(workshop: Path) -> None:
    assert deploy() == 0
    assert Path("new/input_ref_data.dat").read_bytes() == artifacts.load_npz("net_in_f32.npz")["x"].tobytes()


def test_final_module_says_where_everything_lies(workshop: Path) -> None:
    assert deploy(mode="INT8") == 0
    final = Module.load(f"{STEM}_final.mlir")
    stage = bmodel.read(Path("new.bmodel").read_bytes()).nets[0].stages[0]
    assert final.get("module.state") == "TPU_ADDRESSED"
    assert (final.get("module.coeff_addr"), final.get("module.coeff_size")) == (stage.coeff_address, len(stage.coeff))
    assert (final.get("module.neuron_addr"), final.get("module.neuron_size")) == (stage.ctx_address, stage.ctx_bytes)


def test_a_missing_reference_is_computed_and_kept(workshop: Path) -> None:
    (workshop / "net_top_outputs.npz").unlink()
    assert deploy(mode="INT8") == 0
    assert {"x", "a_Relu", "p_MaxPool", "y_Conv"} <= artifacts.load_npz("net_top_outputs.npz").keys()


def test_a_picture_is_a_test_input(workshop: Path) -> None:
    before = artifacts.load_npz("net_in_f32.npz")["x"]
    assert deploy("--test_input", "pictures/1.png") == 0
    assert not np.array_equal(artifacts.load_npz("net_in_f32.npz")["x"], before)


def test_compare_all_compares_every_layer(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert deploy("--compare_all", mode="INT8") == 0
    printed = capsys.readouterr().out
    for layer in ("a_Relu", "p_MaxPool", "y_Conv"):
        assert printed.count(f"[{layer} ") == 2


def test_skip_validation_skips_the_simulator_alone(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert deploy("--skip_validation") == 0
    assert capsys.readouterr().out.count("npz compare PASSED.") == 1
    assert Path("new.bmodel").is_file()


def test_without_a_test_input_nothing_is_compared(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("model_deploy", "--mlir", "net.mlir", "--processor", "bm1684x", "--model", "new.bmodel") == 0
    assert "npz compare" not in capsys.readouterr().out


def test_not_gen_bmodel_stops_after_the_lowered_module(workshop: Path) -> None:
    (workshop / "net_bm1684x_f32_tpu.mlir").unlink(missing_ok=True)
    assert run("model_deploy", *BASE, "--not_gen_bmodel") == 0
    assert Path("net_bm1684x_f32_tpu.mlir").is_file()
    assert not Path("net_bm1684x_f32_final.mlir").exists()


def test_a_quantization_table_computes_its_layers_in_float(workshop: Path) -> None:
    Path("qtable").write_text("# op_name   quantize_mode\ny_Conv F16\n")
    assert deploy("--quantize_table", "qtable", mode="INT8") == 0
    from_file = Path(f"{STEM}_tpu.mlir").read_text()
    assert Path(f"{STEM}_tpu_qtable_weights.npz").is_file()
    assert deploy("--quantize_table", "y_Conv:F16", mode="INT8") == 0
    assert Path(f"{STEM}_tpu.mlir").read_text() == from_file
    (conv,) = [op for op in Module.load(f"{STEM}_tpu.mlir").layers() if op.layer_name == "y_Conv"]
    assert "f16" in str(conv.results[0].type)


def test_quantized_ends_take_and_give_integers(workshop: Path) -> None:
    assert deploy("--quant_input", "--quant_output", mode="INT8") == 0
    stage = bmodel.read(Path("new.bmodel").read_bytes()).nets[0].stages[0]
    assert [(tensor.name, tensor.dtype.itemsize) for tensor in stage.outputs] == [("y_Conv", 1)]
    assert stage.inputs[0].dtype.itemsize == 1


def test_a_missed_tolerance_exits_3_names_the_layer_and_the_line_that_helps(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name for path in workshop.iterdir()}
    assert deploy("--tolerance", "0.999999,0.9999", mode="INT8") == 3
    error = capsys.readouterr().err
    assert "first diverging layer: a_Relu" in error
    assert "The line `a_Relu F16` in a --quantize_table brings the lowest figures to" in error
    assert "new.bmodel" not in {path.name for path in workshop.iterdir()}
    assert {path.name for path in workshop.iterdir()} - before == {f"{STEM}_tpu_outputs.npz"}


def test_a_wrong_weight_in_the_bmodel_exits_3_and_no_model_appears(
    workshop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = bmodel.write

    def damage(program: Program) -> bytes:
        program.coeff = bytes(len(program.coeff))
        return write(program)

    monkeypatch.setattr(bmodel, "write", damage)
    assert deploy(mode="INT8") == 3
    assert "first diverging layer: a_Relu" in capsys.readouterr().err
    assert not Path("new.bmodel").exists()
    assert not Path("new").exists()


def test_a_fault_found_by_the_simulator_is_a_failure(
    workshop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Computing commands that wait for no copy may read what is not there yet; no input is needed to see that."""
    write = bmodel.write

    def forget_waits(program: Program) -> bytes:
        program.tiu = [Command(command.layout, command.fields | {"cmd_id_dep": 0}) for command in program.tiu]
        return write(program)

    monkeypatch.setattr(bmodel, "write", forget_waits)
    assert run("model_deploy", "--mlir", "net.mlir", "--processor", "bm1684x", "--model", "new.bmodel") == 1
    assert "the simulator found faults" in capsys.readouterr().err
    assert not Path("new.bmodel").exists()


def test_excepting_every_output_compares_nothing_and_fails(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert deploy("--excepts", "y_Conv", "--test_reference", "net_top_outputs.npz") == 3
    assert "nothing was compared" in capsys.readouterr().err


def test_the_same_input_gives_the_same_bytes(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1684")
    assert deploy(mode="INT8", model="a.bmodel") == deploy(mode="INT8", model="b.bmodel") == 0
    assert Path("a.bmodel").read_bytes() == Path("b.bmodel").read_bytes()


def test_options_without_effect_are_logged(workshop: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "bmflow"):
        assert deploy("--op_divide", "--opt", "3", "--addr_mode", "basic") == 0
    assert any(message.startswith("--op_divide: without effect") for message in caplog.messages)


def test_the_workshop_model_took_the_usual_way(built: Path) -> None:
    assert "--tolerance" in DEPLOY
    assert (built / "net_int8.bmodel").is_file()
