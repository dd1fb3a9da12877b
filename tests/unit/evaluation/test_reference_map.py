"""mAP of the float networks against figures published with the test data."""

from __future__ import annotations

from pathlib import Path

import pytest
from bmflow.driver.evaluate import CocoOptions, evaluate_coco
from bmflow.evaluation.detector import Settings


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("model", "expected"), [("yolov5n", 0.362), ("yolox_nano", 0.356)])
def test_float_map_on_the_39_pictures_equals_the_known_figure(model: str, expected: float, test_data: Path) -> None:
    # figures of the data's README: 100 boxes a picture, measured with another program
    options = CocoOptions(
        model=str(test_data / f"models/{model}.onnx"),
        dataset=str(test_data / "coco2017-val"),
        annotation=str(test_data / "annotations/instances_coco2017-val.json"),
        settings=Settings(limit=100),
    )
    assert evaluate_coco(options).accuracy.map == pytest.approx(expected, abs=0.004)
