"""The example through the local runner: real stages, a verdict, nothing done twice, the same bytes every time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bmflow.tables.calibration import CalibrationTable
from bmflow_components.local import State
from example_run import MODEL, SETTINGS, WITHOUT, Made
from example_run import run_local as run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not MODEL.is_file(), reason="examples/shapes.onnx is absent")]


def test_the_example_ends_with_the_fastest_candidate_that_passes(made: Made) -> None:
    """INT8 moves half the bytes, so its estimate is lower."""
    assert made.code == 0, made.runner.progress
    decision = json.loads((made.plan.folder / "gate/bm1684x/decision.json").read_text())
    assert decision["chosen"]["label"] == "bm1684x/INT8"
    assert decision["chosen"]["sha256"] == made.result("deploy/bm1684x-INT8").outputs["bmodel"].digest
    times = {item["label"]: item["milliseconds"] for item in decision["candidates"]}
    assert times["bm1684x/INT8"] < times["bm1684x/F16"]


def test_candidates_are_measured_on_the_pictures_that_nothing_was_calibrated_on(made: Made) -> None:
    """By the record of the dataset and what calibrate and evaluate say."""
    split = json.loads((made.plan.folder / "dataset/split.json").read_text())["sets"]
    metrics = json.loads((made.plan.folder / "evaluate/bm1684x-INT8/metrics.json").read_text())
    assert metrics["evaluation"]["digest"] == split["evaluation"]["digest"]
    assert made.result("calibrate").facts["calibration_set"] == split["calibration"]["digest"]
    assert not set(split["evaluation"]["pictures"].values()) & set(split["calibration"]["pictures"].values())


def test_float16_keeps_what_the_float_network_finds(made: Made) -> None:
    """mAP of bmodel and ONNX within a hundredth; every layer above the bound that the compiler states for F16."""
    before, after = (made.result(name).metrics["map"] for name in ("evaluate_float", "evaluate/bm1684x-F16"))
    assert abs(before - after) < 0.01
    layers = json.loads((made.plan.folder / "deploy/bm1684x-F16/similarity.json").read_text())["layers"]
    assert len(layers) > 100
    assert {layer["mode"] for layer in layers} <= {"F16", "F32"}
    assert min(layer["cosine"] for layer in layers) > 0.99


def test_the_same_run_again_redoes_nothing(made: Made, bars: Path) -> None:
    """Each task is seen to be done in well under two seconds of its own."""
    again = run(made.plan.folder, SETTINGS, bars)
    assert again.code == 0
    assert {item.state for item in again.runner.progress.values()} == {State.KEPT}
    assert min(item.seconds for item in again.runner.progress.values()) < 2.0


def test_another_run_gives_the_same_bytes(made: Made, bars: Path, tmp_path: Path) -> None:
    """Every output of every task, with another number of processes."""
    other = run(tmp_path / "second", SETTINGS, bars, jobs=1)
    assert other.digests() == made.digests()


def test_nothing_that_passes_is_exit_code_three_with_every_reason(made: Made, tmp_path: Path) -> None:
    """Only the gate is done anew."""
    strict = tmp_path / "gate.toml"
    strict.write_text("largest_milliseconds = 0.001\n")
    failed = run(made.plan.folder, SETTINGS, strict)
    assert failed.code == 3
    states = {name: item.state for name, item in failed.runner.progress.items()}
    assert states.pop("gate[bm1684x]") is State.BELOW_BAR
    assert set(states.values()) == {State.KEPT}
    note = (made.plan.folder / "gate/bm1684x/decision.md").read_text()
    assert note.startswith("# Not passed: bm1684x")
    assert note.count("above the allowed 0.001 ms") == 2


def test_a_table_without_corrections_belongs_to_the_module_as_it_was_transformed(made: Made) -> None:
    digests = made.digests()
    assert digests["calibrate.corrected"] == digests["transform.mlir"]
    tensors = json.loads((made.plan.folder / "calibrate" / "histograms.json").read_text())["tensors"]
    table = CalibrationTable.load(str(made.plan.folder / "calibrate" / "calibration_table"))
    assert {tensor["name"]: tensor["high"] for tensor in tensors} == pytest.approx({n: r.high for n, r in table.ranges.items()}, abs=1e-6)


def test_corrections_change_what_is_compiled_in_8_bits_and_nothing_else(tmp_path: Path, made: Made, bars: Path) -> None:
    asked = dict.fromkeys((f"calibrate_{name}" for name in ("sq", "smc", "we", "gptq", "bc")), True)
    settings = {**SETTINGS, **asked, "calibrate_bc_inference_num": 3}
    del settings["evaluate_pictures"]
    corrected = run(tmp_path / "run", settings, bars, without=[*WITHOUT, "evaluate", "evaluate_float", "gate"])
    before, after = made.digests(), corrected.digests()
    changed = {name for name in after if after[name] != before[name]}
    assert corrected.code == 0
    assert {"calibrate.corrected", "calibrate.table", "deploy/bm1684x-INT8.bmodel"} <= changed
    assert not {name for name in changed if name.startswith(("dataset", "transform", "deploy/bm1684x-F16."))}
    assert corrected.result("calibrate").facts["corrected"] == "we, gptq, bc", "the detector has no place for sq and smc"
