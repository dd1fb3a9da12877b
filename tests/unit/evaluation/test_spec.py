"""Detectors with classes, anchors and padding of their own: description, decoding, scoring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bmflow.cli.model_eval import main
from bmflow.driver.evaluate import detector_spec
from bmflow.errors import InputError
from bmflow.evaluation import coco, detector, yolov5
from bmflow.evaluation.detections import Detections
from bmflow.evaluation.draw import draw
from bmflow.evaluation.spec import COCO, METADATA_KEY, DetectorSpec, Family
from onnx import TensorProto, helper

SHAPES: dict[str, Any] = {
    "schema": 1,
    "family": "yolov5",
    "pad_value": 100,
    "classes": [{"id": 7, "name": "disc"}, {"id": 3, "name": "bar"}],
    "anchors": {"16": [[32, 16], [48, 80]], "32": [[64, 96], [160, 128]]},
}


@pytest.fixture
def spec() -> DetectorSpec:
    """Two classes, two anchors a cell, two strides."""
    return DetectorSpec.parse(json.dumps(SHAPES), "here")


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def head_with_one_box() -> np.ndarray:
    """(1, 14, 2, 4) for 64 x 128 pixels and stride 32: the second anchor of row 1, column 3 holds class 1 with score .72."""
    head = np.full((1, 2, 7, 2, 4), -20.0, np.float32)
    head[0, 1, :, 1, 3] = [0, 0, 0, 0, logit(0.9), -20, logit(0.8)]
    return head.reshape(1, 14, 2, 4)


def test_anchors_in_pixels_become_grid_units(spec: DetectorSpec) -> None:
    assert spec.anchors == {16: ((2.0, 1.0), (3.0, 5.0)), 32: ((2.0, 3.0), (5.0, 4.0))}
    assert (spec.names, spec.category_ids, spec.pad_value, spec.family) == (("disc", "bar"), (7, 3), 100, Family.YOLOV5)


@pytest.mark.parametrize("change", [{}, {"family": "yolox"}])
def test_a_description_reads_back_as_written(change: dict[str, Any]) -> None:
    spec = DetectorSpec.parse(json.dumps(SHAPES | change), "here")
    assert DetectorSpec.parse(spec.text(), "there") == spec


def test_boxes_follow_the_anchors_and_classes_of_the_description(spec: DetectorSpec) -> None:
    outputs, net_size = {"only": head_with_one_box()}, (64, 128)
    assert detector.family_of(outputs, net_size, spec) is Family.YOLOV5
    ready = detector.letterbox(np.zeros((64, 128, 3), np.uint8), net_size, Family.YOLOV5, spec.pad_value)
    found = detector.find(outputs, Family.YOLOV5, net_size, detector.Settings(), ready, spec)
    # raw zeros: centre (column + .5, row + .5) * 32 = (112, 48), size of the anchor 160 x 128; then cut to the picture
    np.testing.assert_allclose(found.boxes, [[112 - 80, 0, 128, 64]], rtol=1e-6)
    assert (found.classes.tolist(), found.scores.tolist()) == ([1], [pytest.approx(0.72, rel=1e-5)])


def test_padding_is_the_description_s(spec: DetectorSpec) -> None:
    ready = detector.letterbox(np.zeros((10, 40, 3), np.uint8), (64, 64), Family.YOLOV5, spec.pad_value)
    assert ready.data[0, :, 0, 0] == pytest.approx(np.full(3, 100 / 255), rel=1e-6)


def test_a_head_of_a_stride_without_anchors_is_refused(spec: DetectorSpec) -> None:
    with pytest.raises(InputError, match="anchors for strides 16, 32 only"):
        yolov5.decode([head_with_one_box()], (16, 32), 0.001, True, spec.classes, spec.anchors)


def test_heads_of_other_classes_are_refused_with_what_to_give() -> None:
    with pytest.raises(InputError, match=r"only \(1, 14, 2, 4\).*--detector"):
        detector.family_of({"only": head_with_one_box()}, (64, 128), COCO)


def test_detections_are_scored_under_the_description_s_ids(tmp_path: Path, spec: DetectorSpec) -> None:
    annotations = coco.Annotations.load(write_annotations(tmp_path, [{"id": 3, "name": "bar"}, {"id": 7, "name": "disc"}]))
    found = Detections(np.array([[10, 10, 30, 30]], np.float32), np.array([0.9]), np.array([1]))
    assert coco.measure(annotations, {1: found}, spec=spec).per_class == pytest.approx({"bar": 1.0, "disc": 0.0})


def write_annotations(folder: Path, categories: list[dict[str, Any]]) -> str:
    path = folder / "truth.json"
    boxes = [
        {"id": k + 1, "image_id": 1, "category_id": category["id"], "bbox": [10 + 40 * k, 10, 20, 20], "area": 400, "iscrowd": 0}
        for k, category in enumerate(categories)
    ]
    images = [{"id": 1, "file_name": "1.png", "width": 100, "height": 100}]
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": boxes}))
    return str(path)


@pytest.mark.parametrize(
    ("categories", "reason"),
    [
        ([{"id": 4, "name": "bars"}], r"category 4 \(bars\).*did you mean bar\?"),
        ([{"id": 7, "name": "bar"}], "category 7 is bar, but disc in d.json"),
    ],
    ids=["unknown id", "another name"],
)
def test_annotations_of_other_classes_are_refused(
    tmp_path: Path, spec: DetectorSpec, categories: list[dict[str, Any]], reason: str
) -> None:
    annotations = coco.Annotations.load(write_annotations(tmp_path, categories))
    with pytest.raises(InputError, match=reason):
        annotations.check_classes(spec, "d.json")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": 2}, "schema 2"),
        ({"colour": 1}, "unknown field colour"),
        ({"family": "yolov9"}, "yolov9"),
        ({"classes": []}, "at least one class"),
        ({"classes": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "each name and id once"),
        ({"classes": [{"id": 1}]}, "field 'name' is missing"),
        ({"anchors": {}}, "the same number"),
        ({"anchors": {"8": [[1, 1]], "16": [[1, 1], [2, 2]]}}, "the same number"),
        ({"anchors": {"8": [[0, 1]]}}, "must be positive"),
        ({"anchors": {"8": 5}}, "not iterable"),
        ({"pad_value": 256}, "expected 0 to 255"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_broken_description_is_bad_input(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=f"d.json: not a usable detector description: .*{reason}"):
        DetectorSpec.parse(json.dumps(SHAPES | change), "d.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", "null"])
def test_other_files_are_no_description(text: str) -> None:
    with pytest.raises(InputError, match="not a usable detector description"):
        DetectorSpec.parse(text, "d.json")


def test_a_missing_description_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        DetectorSpec.load(tmp_path / "none.json")


def write_network(folder: Path, metadata: dict[str, str]) -> str:
    """An ONNX network 1x3x64x128 whose output is always `head_with_one_box`, whatever the picture."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 64, 128])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 14, 2, 4])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=1),
        helper.make_node("Mul", ["s", "zero"], ["z"]),
        helper.make_node("Add", ["z", "head"], ["y"]),
    ]
    zero, head = onnx.numpy_helper.from_array(np.zeros(1, np.float32), "zero"), onnx.numpy_helper.from_array(head_with_one_box(), "head")
    model = helper.make_model(
        helper.make_graph(nodes, "net", [x], [y], [zero, head]), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    helper.set_model_props(model, metadata)
    onnx.save(model, folder / "net.onnx")
    return str(folder / "net.onnx")


def test_an_onnx_file_may_carry_its_description(tmp_path: Path, spec: DetectorSpec) -> None:
    assert detector_spec(write_network(tmp_path, {METADATA_KEY: spec.text()})) == spec
    assert detector_spec(write_network(tmp_path, {})) is COCO
    (tmp_path / "net.onnx").write_bytes(b"\xff" * 20)
    with pytest.raises(InputError, match="not a readable ONNX file"):
        detector_spec(str(tmp_path / "net.onnx"))


@pytest.mark.parametrize("given", ["metadata", "option"])
def test_model_eval_scores_a_network_of_other_classes(
    tmp_path: Path, spec: DetectorSpec, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((64, 128, 3), np.uint8))
    truth = {"image_id": 1, "iscrowd": 0, "id": 1, "category_id": 3, "bbox": [32, 0, 96, 64], "area": 96 * 64}
    images, categories = [{"id": 1, "file_name": "1.png", "width": 128, "height": 64}], [{"id": 3, "name": "bar"}]
    (tmp_path / "truth.json").write_text(json.dumps({"images": images, "categories": categories, "annotations": [truth]}))
    (tmp_path / "d.json").write_text(spec.text())
    network = write_network(tmp_path, {METADATA_KEY: spec.text()} if given == "metadata" else {})
    arguments = ["--model_file", network, "--dataset", str(tmp_path), "--coco_annotation", str(tmp_path / "truth.json")]
    option = ["--detector", str(tmp_path / "d.json")] if given == "option" else []
    assert main([*arguments, "--postprocess_type", "coco_mAP", *option]) == 0
    printed = capsys.readouterr().out
    assert "letterbox padding 100" in printed
    assert "mAP50-95 1.0000" in printed


def test_labels_are_the_description_s_names(spec: DetectorSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr("cv2.putText", lambda canvas, text, *rest: written.append(text))
    found = Detections(np.array([[2, 2, 9, 9]], np.float32), np.array([0.5]), np.array([1]))
    draw(np.zeros((20, 20, 3), np.uint8), found, 0.1, spec.names)
    assert written == ["bar:50.0%"]
