"""The stored network of the example: small, sound, self-describing, convertible, and as accurate as its README says."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest
from bmflow.driver.evaluate import CocoOptions, detector_spec, evaluate_coco
from bmflow.evaluation.spec import DetectorSpec
from bmflow.frontend.onnx import import_onnx
from bmflow.passes import optimize_top
from bmflow_components.example_data import CLASSES, DatasetOptions, generate

EXAMPLES = Path(__file__).parents[3] / "examples"
NETWORK = EXAMPLES / "shapes.onnx"


def test_the_stored_network_is_at_most_a_megabyte() -> None:
    assert NETWORK.stat().st_size <= 1_000_000


def test_the_stored_network_has_the_shapes_of_three_strides() -> None:
    model = onnx.load(NETWORK)
    onnx.checker.check_model(model, full_check=True)
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in (*model.graph.input, *model.graph.output)}
    assert shapes == {"images": [1, 3, 320, 320], "head8": [1, 33, 40, 40], "head16": [1, 33, 20, 20], "head32": [1, 33, 10, 10]}


def test_the_stored_network_and_the_file_beside_it_describe_the_same_detector() -> None:
    spec = detector_spec(str(NETWORK))
    assert spec == DetectorSpec.load(EXAMPLES / "detector.json")
    assert spec.names == CLASSES


def test_the_stored_network_converts_with_no_operator_left_over() -> None:
    module = import_onnx(NETWORK, "shapes").module
    optimize_top(module)
    kinds = {op.name for op in module.layers()}
    assert {"top.Conv", "top.SiLU", "top.Concat", "top.MaxPool", "top.Add"} <= kinds
    assert not kinds & {"top.Sigmoid", "top.Mul"}  # all of them became SiLU


@pytest.mark.slow
def test_the_stored_network_is_as_accurate_as_its_readme_says(tmp_path: Path) -> None:
    made = generate(tmp_path / "set", DatasetOptions(train=0, calibration=0))
    result = evaluate_coco(CocoOptions(str(NETWORK), str(made.images("evaluation")), str(made.annotations("evaluation"))))
    stated = re.search(r"^ *mAP50-95 (0\.\d{4})  mAP50 (0\.\d{4})", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert stated is not None
    assert (result.accuracy.map, result.accuracy.map50) == tuple(pytest.approx(float(figure), abs=0.003) for figure in stated.groups())
    assert result.accuracy.map50 >= 0.90
