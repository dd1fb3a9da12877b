"""Find objects in one picture with a three-head YOLOv5 and draw them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2

from bmflow import artifacts
from bmflow.driver.evaluate import detector_spec
from bmflow.driver.inference import open_session, run_on_picture
from bmflow.errors import BelowBarError, InputError
from bmflow.evaluation import detector
from bmflow.evaluation.detections import Detections
from bmflow.evaluation.draw import draw


@dataclass(frozen=True)
class DetectOptions:
    """`score` is the least score drawn; floor and iou decide what is found at all; `detector` as for `detector_spec`."""

    model: str
    picture: str
    output: str
    net_size: tuple[int, int]
    floor: float
    iou: float
    score: float
    detector: str = ""


@dataclass(frozen=True)
class DetectResult:
    """All detections, best first, and the names of their classes."""

    found: Detections
    names: tuple[str, ...]


def detect(options: DetectOptions) -> DetectResult:
    """Run the network and write the picture with boxes to `options.output`.

    Raises:
        InputError: unreadable file, wrong network size, unknown outputs, or an output file name that is no picture.
        BelowBarError: nothing was found.
    """
    if Path(options.output).suffix.lower() not in (".jpg", ".jpeg", ".png", ".bmp"):
        raise InputError(f"--output {options.output}: expected a picture name ending in .jpg, .png or .bmp")
    picture = detector.read_picture(options.picture)
    spec = detector_spec(options.model, options.detector)
    session = open_session(options.model)
    _check_size(session.input_shapes, options.net_size)
    ready = detector.letterbox(picture, options.net_size, detector.Family.YOLOV5, spec.pad_value)
    outputs = run_on_picture(session, ready.data)
    family = detector.family_of(outputs, options.net_size, spec)
    if family is not detector.Family.YOLOV5:
        raise InputError(f"{options.model}: its outputs are those of {family.value}; score it with model_eval instead")
    settings = detector.Settings(options.floor, options.iou, by_class=False, every_class=False, plus_one=True)
    found = detector.find(outputs, family, options.net_size, settings, ready, spec)
    if not len(found):
        known = f"{spec.classes} classes, {spec.names[0]} first"
        raise BelowBarError(f"{options.picture}: nothing above {options.floor:g} was found; is {options.model} a detector of {known}?")
    with artifacts.atomic_path(options.output) as temporary:
        cv2.imwrite(str(temporary), draw(picture, found, options.score, spec.names))
    return DetectResult(found, spec.names)


def _check_size(shapes: dict[str, tuple[int, ...]], net_size: tuple[int, int]) -> None:
    for name, shape in shapes.items():
        if len(shape) == 4 and shape[2:] != net_size:
            raise InputError(f"input {name} is {list(shape)}, --net_input_dims says {net_size[0]},{net_size[1]}")
