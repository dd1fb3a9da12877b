"""The main job on real data: yolov5n from ONNX to F16 and INT8 bmodels, and the boxes each finds on the picture of the dog.

Calibrated on 10 pictures instead of 100 to save time. Expected boxes: scores published with the test data (dog .77, car .71,
bicycle .48 for the float network), places read off the picture.
"""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from bmflow import artifacts
from bmflow.container import bmodel
from bmflow.ir.module import Module
from bmflow.ir.types import dtype_of
from bmflow.numerics import similarity
from jobs import YOLOV5N, calibrate, deploy, run, transform

pytestmark = [pytest.mark.slow, pytest.mark.data]
F16, INT8 = "yolov5n_1684x_f16.bmodel", "yolov5n_1684x_int8_sym.bmodel"
FOUND = re.compile(r"^(\w+)\s+([\d.]+)%  x (\d+)\.\.(\d+)  y (\d+)\.\.(\d+)$", re.MULTILINE)
PLACES = {"dog": (130, 218, 312, 543), "car": (466, 76, 684, 170), "bicycle": (122, 128, 568, 425)}
"""Left, top, right, bottom in pixels of dog.jpg."""
SCORES = {"dog": 77, "car": 71, "bicycle": 48}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, test_data: Path) -> Path:
    """A folder in which the whole walkthrough has run."""
    folder = tmp_path_factory.mktemp("walkthrough")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert transform(YOLOV5N, test_data, "--tolerance", "0.9999,0.9999") == 0
        assert calibrate(YOLOV5N, test_data, 10) == 0
        assert deploy(YOLOV5N, "f16", F16, "--correctness", "0.999,0.99") == 0
        assert deploy(YOLOV5N, "int8_sym", INT8, "--tolerance", "0.85,0.45") == 0
    return folder


@pytest.fixture(autouse=True)
def inside(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the walkthrough is the current folder."""
    monkeypatch.chdir(job)


def test_the_files_are_those_users_know(job: Path) -> None:
    expected = {
        "yolov5n.mlir", "yolov5n_top_f32_all_weight.npz", "yolov5n_in_f32.npz", "yolov5n_top_outputs.npz", "yolov5n_cali_table",
        "yolov5n_bm1684x_f16_tpu.mlir", "yolov5n_bm1684x_f16_final.mlir", "yolov5n_bm1684x_int8_sym_tpu.mlir",
        "yolov5n_bm1684x_int8_sym_final.mlir", F16, INT8, f"{INT8}.json", f"{INT8}.compiler_profile_0.txt",
    }  # fmt: skip
    assert expected <= {path.name for path in job.iterdir()}


def test_layer_names_are_the_same_from_onnx_to_bmodel() -> None:
    top = {op.layer_name for op in Module.load("yolov5n.mlir").layers()}
    assert {"/model/model.0/conv/Conv_output_0_Conv", "/model/model.0/act/Mul_output_0_Mul", "head8_Transpose"} <= top
    lowered = {op.layer_name for op in Module.load("yolov5n_bm1684x_int8_sym_tpu.mlir").layers()}
    assert top <= lowered
    layers = {span.name for span in bmodel.read(Path(INT8).read_bytes()).nets[0].stages[0].layers}
    assert top <= layers | {"images"}


def test_integer_layers_of_the_bmodel_equal_those_of_the_lowered_module_exactly() -> None:
    lowered, compiled = "yolov5n_bm1684x_int8_sym_tpu.mlir", INT8
    for model, output in ((lowered, "tpu.npz"), (compiled, "model.npz")):
        assert run("model_runner", "--input", "yolov5n_in_f32.npz", "--model", model, "--output", output, "--dump_all_tensors") == 0
    expected, found = artifacts.load_npz("tpu.npz"), artifacts.load_npz("model.npz")
    integer = [op.layer_name for op in Module.load(lowered).layers() if not dtype_of(op.results[0]).is_float]
    assert len(integer) > 100
    assert [name for name in integer if not np.array_equal(expected[name], found[name])] == []
    assert [name for name in expected.keys() & found.keys() if not np.array_equal(expected[name], found[name])] == []


def test_every_layer_of_the_module_computes_what_onnxruntime_computes(test_data: Path) -> None:
    model = test_data / "models" / YOLOV5N.model
    assert run("model_runner", "--input", "yolov5n_in_f32.npz", "--model", model, "--output", "onnx.npz", "--dump_all_tensors") == 0
    report = similarity.compare(artifacts.load_npz("yolov5n_top_outputs.npz"), artifacts.load_npz("onnx.npz"), (0.9999, 0.9999))
    assert len(report.tensors) > 100
    assert report.passed, report.diverging()


@pytest.mark.parametrize(("model", "tolerance"), [("onnx", 1), ("f16", 2), ("int8", 15)])
def test_detector_finds_dog_car_and_bicycle(test_data: Path, capsys: pytest.CaptureFixture[str], model: str, tolerance: float) -> None:
    file = {"onnx": test_data / "models" / YOLOV5N.model, "f16": F16, "int8": INT8}[model]
    picture = f"dog_{model}.jpg"
    options = ("--score_thres", 0.3)
    assert run("detect_yolov5", "--input", test_data / "images" / "dog.jpg", "--model", file, "--output", picture, *options) == 0
    best: dict[str, tuple[float, list[int]]] = {}
    for name, score, left, right, top, bottom in FOUND.findall(capsys.readouterr().out):
        best.setdefault(name, (float(score), [int(left), int(top), int(right), int(bottom)]))
    for name, place in PLACES.items():
        score, box = best[name]
        assert abs(score - SCORES[name]) <= tolerance, f"{name}: {score}%"
        assert overlap(box, place) > 0.7, f"{name}: {box}"
    assert cv2.imread(picture).shape == cv2.imread(str(test_data / "images" / "dog.jpg")).shape


def overlap(a: list[int], b: tuple[int, ...]) -> float:
    """Intersection over union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inside = max(width, 0) * max(height, 0)
    return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)
