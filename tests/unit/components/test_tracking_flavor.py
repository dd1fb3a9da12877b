"""The flavor `bmodel`: what is saved comes back, runs as the simulator runs it, and is refused once altered."""

# ruff: noqa: E402
# (imports after the skip)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed; install the extra `mlflow`")

from bmflow import artifacts
from bmflow.container import bmodel
from bmflow.driver.inference import open_session, run_on_picture
from bmflow.errors import InputError
from bmflow.evaluation import detector
from bmflow.evaluation.spec import COCO, DetectorSpec
from bmflow.simulator import Simulator
from bmflow_components.tracking import flavor
from bmflow_components.tracking.flavor import Origin
from tracking_store import SPEC, detector_files, small_bmodel

ORIGIN = Origin("INT8", {"pixel_format": "rgb", "mean": [0, 0, 0]}, {"bmflow": "0.1.0"}, {"onnx": "ab" * 32})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A network without detector description, with a calibration table."""
    (tmp_path / "table").write_text("x 1 -1 1\n")
    flavor.save_model(small_bmodel(), tmp_path / "model", ORIGIN, calibration_table=tmp_path / "table")
    return tmp_path / "model"


@pytest.fixture
def detecting(tmp_path: Path) -> Path:
    """A detector."""
    flavor.save_model(detector_files()[1], tmp_path / "model", Origin("F32"), SPEC)
    return tmp_path / "model"


def flavors(folder: Path) -> dict:
    return yaml.safe_load((folder / "MLmodel").read_text())["flavors"]


def test_the_model_file_says_what_it_is_and_where_it_comes_from(saved: Path) -> None:
    facts = flavors(saved)["bmodel"]
    assert (facts["chip"], facts["quantize"], facts["data"]) == ("BM1684X", "INT8", "model.bmodel")
    assert facts["files"] == {name: artifacts.sha256_file(saved / name) for name in ("model.bmodel", "calibration_table")}
    assert facts["preprocess"] == {"pixel_format": "rgb", "mean": [0, 0, 0]}
    assert facts["toolchain"] == {"bmflow": "0.1.0"}
    assert facts["digests"] == {"onnx": "ab" * 32}
    assert facts["inputs"] == [{"name": "x", "shape": [1, 16, 20, 20], "dtype": "I8", "scale": pytest.approx(0.1), "zero_point": 0}]
    assert flavors(saved)["python_function"]["loader_module"] == "bmflow_components.tracking.flavor"


def test_requirements_are_pinned_and_not_guessed(saved: Path) -> None:
    lines = (saved / "requirements.txt").read_text().split()
    assert all("==" in line for line in lines)
    assert {line.split("==")[0] for line in lines} == {"mlflow", "numpy", "pandas", "bmflow"}


def test_raw_outputs_are_those_of_the_simulator(saved: Path, rng: np.random.Generator) -> None:
    x = rng.normal(size=(1, 16, 20, 20)).astype(np.float32)
    simulator = Simulator(bmodel.read(small_bmodel().read_bytes()))
    expected = simulator.outputs[0].to_real(simulator.run({"x": x}).outputs["y"])
    np.testing.assert_array_equal(mlflow.pyfunc.load_model(str(saved)).predict({"x": x})["y"], expected)
    np.testing.assert_array_equal(flavor.load_model(str(saved)).run({"x": x})["y"], expected)


@pytest.mark.parametrize("bad", [{"x": np.zeros((1, 16, 20, 21), np.float32)}, {"y": np.zeros((1, 16, 20, 20), np.float32)}])
def test_inputs_that_do_not_fit_the_signature_are_refused(saved: Path, bad: dict[str, np.ndarray]) -> None:
    with pytest.raises(mlflow.exceptions.MlflowException):
        mlflow.pyfunc.load_model(str(saved)).predict(bad)


def test_a_detector_gives_the_boxes_that_the_evaluation_finds(detecting: Path, rng: np.random.Generator) -> None:
    picture = rng.integers(0, 256, (40, 60, 3), np.uint8)  # BGR
    settings = detector.Settings(0.25)
    ready = detector.letterbox(picture, (32, 32), detector.Family.YOLOV5, SPEC.pad_value)
    expected = detector.find(
        run_on_picture(open_session(str(detector_files()[1])), ready.data), detector.Family.YOLOV5, (32, 32), settings, ready, SPEC
    )
    table = mlflow.pyfunc.load_model(str(detecting)).predict(picture[None, :, :, ::-1].copy())
    assert len(table) == len(expected) > 0
    np.testing.assert_array_equal(table[["x1", "y1", "x2", "y2"]].to_numpy(np.float32), expected.boxes)
    assert list(table["class_name"]) == [SPEC.names[int(kind)] for kind in expected.classes]
    assert set(table["picture"]) == {0}


def test_a_detector_of_the_onnx_file_agrees_with_the_float_network(detecting: Path, rng: np.random.Generator) -> None:
    picture = rng.integers(0, 256, (32, 32, 3), np.uint8)
    ready = detector.letterbox(picture, (32, 32), detector.Family.YOLOV5, SPEC.pad_value)
    expected = run_on_picture(open_session(str(detector_files()[0])), ready.data)["head"]
    raw = mlflow.pyfunc.load_model(str(detecting)).predict(picture[None, :, :, ::-1].copy(), params={"raw": True})
    (outputs,) = raw.values()
    np.testing.assert_allclose(outputs[0], expected, atol=1e-4)


def test_params_set_the_floor_and_the_number_of_boxes(detecting: Path, rng: np.random.Generator) -> None:
    model = mlflow.pyfunc.load_model(str(detecting))
    picture = rng.integers(0, 256, (1, 32, 32, 3), np.uint8)
    assert len(model.predict(picture, params={"score_floor": 0.01, "limit": 2})) == 2
    assert len(model.predict(picture, params={"score_floor": 0.999})) == 0
    with pytest.raises(InputError, match="score_floor 1: expected more than 0 and less than 1"):
        model.predict(picture, params={"score_floor": 1.0})


def test_the_example_input_runs(detecting: Path) -> None:
    model = mlflow.pyfunc.load_model(str(detecting))
    assert set(model.predict(model.input_example).columns) == set(flavor.COLUMNS)


@pytest.mark.parametrize("name", ["model.bmodel", "calibration_table"])
def test_an_altered_file_is_refused(saved: Path, name: str) -> None:
    data = bytearray((saved / name).read_bytes())
    data[-1] ^= 1
    (saved / name).write_bytes(data)
    for load in (flavor.load_model, mlflow.pyfunc.load_model):
        with pytest.raises(InputError, match=rf"{name}: was altered after it was registered: expected SHA-256 [0-9a-f]{{16}}"):
            load(str(saved))


def test_a_missing_file_is_named(saved: Path) -> None:
    (saved / "calibration_table").unlink()
    with pytest.raises(InputError, match="calibration_table: the file is missing"):
        flavor.load_model(str(saved))


def test_a_detector_that_does_not_fit_the_bmodel_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no detection head found"):
        flavor.save_model(detector_files()[1], tmp_path / "model", Origin("F32"), COCO)
    with pytest.raises(InputError, match="a detector has one input 1x3xHxW"):
        flavor.save_model(small_bmodel(), tmp_path / "model", Origin("F32"), SPEC)
    assert not (tmp_path / "model").exists()


def test_what_is_no_bmodel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.bmodel").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"a\.bmodel"):
        flavor.save_model(tmp_path / "a.bmodel", tmp_path / "model", ORIGIN)


def test_the_description_of_the_detector_comes_back(detecting: Path) -> None:
    loaded = flavor.load_model(str(detecting))
    assert loaded.detector is not None
    assert loaded.detector.names == SPEC.names
    assert loaded.detector == DetectorSpec.load(detecting / "detector.json")
