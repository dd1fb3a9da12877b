"""Box decoding, suppression and scoring against their formulas."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bmflow.errors import InputError
from bmflow.evaluation import coco, detector, yolov5, yolox
from bmflow.evaluation.detections import Detections, overlap, suppress
from bmflow.evaluation.labels import CATEGORY_IDS, NAMES


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def one_cell_head(anchor: int, y: int, x: int, kind: int) -> np.ndarray:
    head = np.full((1, 3, 20, 20, 85), -20.0, np.float32)
    head[0, anchor, y, x, :5] = [0.0, 0.0, 0.0, 0.0, logit(0.9)]
    head[0, anchor, y, x, 5 + kind] = logit(0.5)
    return head


def test_a_yolov5_cell_decodes_to_the_centre_of_its_grid_cell_with_its_anchor_size() -> None:
    found = yolov5.decode([one_cell_head(1, 4, 7, 16)], (640, 640), 0.001, every_class=True)
    assert len(found) == 1
    assert found.classes[0] == 16
    assert found.scores[0] == pytest.approx(0.45, rel=1e-5)
    # raw zeros: sigmoid 0.5, xy = (1 - 0.5 + grid) * 32, wh = 1 * anchor * 32
    width, height = 156.0, 198.0
    centre_x, centre_y = 7.5 * 32, 4.5 * 32
    expected = [centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2]
    np.testing.assert_allclose(found.boxes[0], expected, rtol=1e-6)


@pytest.mark.parametrize("form", ["convolution", "channels last", "flat"])
def test_every_accepted_head_shape_gives_the_same_cells(form: str, rng: np.random.Generator) -> None:
    head = rng.normal(size=(1, 3, 4, 6, 85)).astype(np.float32)
    forms = {
        "convolution": head.transpose(0, 1, 4, 2, 3).reshape(1, 255, 4, 6),
        "channels last": head.transpose(0, 2, 3, 1, 4).reshape(1, 4, 6, 255),
        "flat": head.reshape(1, 3, 4, 6 * 85),
    }
    back = yolov5.as_head(forms[form])
    assert back is not None
    np.testing.assert_array_equal(back, head[0])


def test_a_decoded_yolov5_output_is_no_head() -> None:
    assert yolov5.as_head(np.zeros((1, 25200, 85))) is None


def test_a_yolox_row_decodes_by_its_grid_cell_and_stride() -> None:
    output = np.zeros((1, yolox.cells_of((64, 64)), 85), np.float32)
    row = 64 + 2 * 4 + 3  # stride 16, y = 2, x = 3, after the 8 x 8 cells of stride 8
    output[0, row, :5] = [0.5, 0.25, np.log(2.0), 0.0, 0.8]
    output[0, row, 5 + 2] = 0.5
    found = yolox.decode(output, (64, 64), 0.001, every_class=False)
    np.testing.assert_allclose(found.boxes[0], [56 - 16, 36 - 8, 56 + 16, 36 + 8], rtol=1e-6)
    assert (found.scores[0], found.classes[0]) == (pytest.approx(0.4), 2)


def test_overlap_is_intersection_over_union() -> None:
    box, other = np.array([0.0, 0, 10, 10]), np.array([[5.0, 0, 15, 10], [20, 20, 30, 30]])
    np.testing.assert_allclose(overlap(box, other), [50 / 150, 0])
    np.testing.assert_allclose(overlap(box, other, plus_one=True), [66 / (121 + 121 - 66), 0])


def test_suppression_keeps_the_best_of_overlapping_boxes_of_one_class() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10]], np.float32)
    found = Detections(boxes, np.array([0.5, 0.9, 0.8], np.float32), np.array([0, 0, 1]))
    assert suppress(found, 0.6, 300).scores.tolist() == pytest.approx([0.9, 0.8])
    assert suppress(found, 0.6, 300, by_class=False).scores.tolist() == pytest.approx([0.9])
    assert len(suppress(found, 0.6, 1)) == 1


def test_letterbox_and_back_returns_to_the_same_pixels() -> None:
    picture = np.zeros((100, 200, 3), np.uint8)
    box = detector.letterbox(picture, (64, 64), detector.Family.YOLOV5)
    assert (box.top, box.left, box.ratio) == (16, 0, 0.32)
    assert box.data[0, :, 0, 0] == pytest.approx(np.full(3, 114 / 255), rel=1e-6)
    moved = Detections(np.array([[0, 16, 64, 48]], np.float32), np.ones(1), np.zeros(1)).moved(box.left, box.top, box.ratio, 200, 100)
    np.testing.assert_allclose(moved.boxes[0], [0, 0, 200, 100], rtol=1e-6)


def test_there_are_80_classes_with_official_ids_up_to_90() -> None:
    assert len(NAMES) == len(CATEGORY_IDS) == 80
    assert dict(zip(NAMES, CATEGORY_IDS, strict=True))["dog"] == 18
    assert dict(zip(NAMES, CATEGORY_IDS, strict=True))["toothbrush"] == 90


@pytest.fixture
def annotations(tmp_path: Path) -> coco.Annotations:
    path = tmp_path / "a.json"
    truth = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 100, "height": 100}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 18, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 3, "bbox": [50, 50, 20, 20], "area": 400, "iscrowd": 0},
        ],
    }
    path.write_text(json.dumps(truth))
    return coco.Annotations.load(str(path))


def test_map_of_one_right_box_of_two_classes_is_one_half(annotations: coco.Annotations) -> None:
    found = Detections(np.array([[10, 10, 30, 30]], np.float32), np.array([0.9]), np.array([NAMES.index("dog")]))
    accuracy = coco.measure(annotations, {1: found})
    assert accuracy.map == pytest.approx(0.5)
    assert accuracy.per_class == pytest.approx({"dog": 1.0, "car": 0.0})


def test_finding_nothing_scores_zero(annotations: coco.Annotations) -> None:
    empty = Detections(np.zeros((0, 4), np.float32), np.zeros(0), np.zeros(0, np.int64))
    assert coco.measure(annotations, {1: empty}).map == 0.0


def test_a_broken_annotation_file_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match="not a COCO annotation file"):
        coco.Annotations.load(str(tmp_path / "x.json"))


def test_unknown_outputs_are_refused_with_what_was_expected() -> None:
    with pytest.raises(InputError, match=r"prob \(1, 1000\)"):
        detector.family_of({"prob": np.zeros((1, 1000))}, (224, 224))
