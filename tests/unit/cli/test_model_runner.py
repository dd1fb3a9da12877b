"""model_runner: every kind of network file gives its values by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from bmflow import artifacts
from bmflow.container import bmodel
from workshop import LAYERS, run

STEM = "net_bm1684x_int8_sym"


def results(model: str, *more: str, given: str = "net_in_f32.npz") -> dict[str, np.ndarray]:
    """What model_runner saves."""
    assert run("model_runner", "--input", given, "--model", model, "--output", "o.npz", *more) == 0
    return artifacts.load_npz("o.npz")


def test_onnx_outputs_keep_their_names_and_are_onnxruntimes(workshop: Path) -> None:
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, dict(artifacts.load_npz("net_in_f32.npz")))
    found = results("net.onnx")
    assert list(found) == ["y"]
    np.testing.assert_allclose(found["y"], np.asarray(expected), rtol=1e-5)


def test_every_layer_of_the_module_is_a_layer_of_the_onnx_file(workshop: Path) -> None:
    original, module = results("net.onnx", "--dump_all_tensors"), results("net.mlir", "--dump_all_tensors")
    assert set(LAYERS) == set(module) <= set(original)
    for name in LAYERS:
        np.testing.assert_allclose(module[name], original[name], rtol=1e-4, atol=1e-4)


def test_a_lowered_module_also_gives_the_value_before_its_final_cast(workshop: Path) -> None:
    found = results(f"{STEM}_tpu.mlir")
    assert list(found) == ["y_Conv", "y_Conv_f32"]
    np.testing.assert_array_equal(found["y_Conv"], found["y_Conv_f32"])


def test_a_bmodel_gives_exactly_what_its_lowered_module_gives(workshop: Path) -> None:
    module, compiled = (results(model, "--dump_all_tensors") for model in (f"{STEM}_tpu.mlir", "net_int8.bmodel"))
    common = module.keys() & compiled.keys()
    assert {"a_Relu", "p_MaxPool", "y_Conv", "y_Conv_f32"} <= common
    for name in common:
        np.testing.assert_array_equal(compiled[name], module[name], err_msg=name)


def test_the_addressed_module_runs_like_the_lowered_one(workshop: Path) -> None:
    lowered, final = results(f"{STEM}_tpu.mlir"), results(f"{STEM}_final.mlir")
    np.testing.assert_array_equal(lowered["y_Conv_f32"], final["y_Conv_f32"])


def test_out_fixed_keeps_integers_that_the_scale_turns_into_the_real_values(workshop: Path) -> None:
    real, raw = results("net_int8.bmodel", "--dump_all_tensors"), results("net_int8.bmodel", "--dump_all_tensors", "--out_fixed")
    layers = {span.name: span.tensor for span in bmodel.read(Path("net_int8.bmodel").read_bytes()).nets[0].stages[0].layers}
    tensor = layers["y_Conv"]
    assert raw["y_Conv"].dtype == np.int8
    np.testing.assert_allclose((raw["y_Conv"].astype(np.float64) - tensor.zero_point) * tensor.scale, real["y_Conv"], rtol=1e-6)


def test_a_lone_array_serves_a_lone_input_whatever_its_name(workshop: Path) -> None:
    artifacts.save_npz("other.npz", {"picture": artifacts.load_npz("net_in_f32.npz")["x"]})
    for model in ("net.onnx", "net.mlir", "net_int8.bmodel"):
        np.testing.assert_array_equal(*(next(iter(results(model, given=given).values())) for given in ("other.npz", "net_in_f32.npz")))


def test_running_a_bmodel_renews_the_reference_data_beside_it(workshop: Path) -> None:
    artifacts.save_npz("zero.npz", {"x": np.zeros((1, 3, 16, 16), np.float32)})
    results("net_int8.bmodel", given="zero.npz")
    assert set(Path("net_int8/input_ref_data.dat").read_bytes()) == {0}


def test_the_file_it_wrote_is_printed(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results("net.mlir")
    assert capsys.readouterr().out.endswith("Result saved to:o.npz\n")
