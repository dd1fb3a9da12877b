"""Whole networks: every layer of the optimized top module against the original ONNX graph in onnxruntime."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from bmflow.frontend.onnx import import_onnx
from bmflow.frontend.onnx.reference import run_onnx
from bmflow.ir.types import shape_of
from bmflow.kernels import Executable
from bmflow.numerics import similarity
from bmflow.passes import optimize_top

BRIGHTEST = {"yolov5n": 1.0, "yolox_nano": 255.0, "ultraface_rfb320": 1.0, "squeezenet_v1.1": 1.0}
"""Largest value of each network's input."""


@pytest.mark.data
@pytest.mark.parametrize("name", BRIGHTEST)
def test_every_layer_is_what_the_original_computes(name: str, test_data: Path) -> None:
    imported = import_onnx(str(test_data / "models" / f"{name}.onnx"), name)
    module = imported.module
    optimize_top(module)
    (source,) = module.inputs
    pictures = {source.layer_name: picture(test_data, shape_of(source.output), BRIGHTEST[name])}
    values = Executable(module, "all").run(pictures)
    report = similarity.compare(values, run_onnx(imported.model, pictures, all_tensors=True, threads=2), (0.9999, 0.9999))
    assert report.passed, report.diverging()
    assert len(report.tensors) >= len(values) - 1


def picture(test_data: Path, shape: tuple[int, ...], brightest: float) -> np.ndarray:
    """The first calibration picture, stretched to the input."""
    image = cv2.imread(str(min((test_data / "coco2017-calib").glob("*.jpg"))))
    assert image is not None
    resized = cv2.resize(image, (shape[3], shape[2]))
    return (resized.transpose(2, 0, 1)[None] * (brightest / 255)).astype(np.float32)
