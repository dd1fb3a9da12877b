"""Detector families bmflow can score: how each wants its picture and how its outputs become boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from bmflow.errors import InputError
from bmflow.evaluation import yolov5, yolox
from bmflow.evaluation.detections import Detections, suppress
from bmflow.evaluation.spec import COCO, DetectorSpec, Family


@dataclass(frozen=True)
class Settings:
    """What decides a box: score floor, overlap limit, most boxes a picture, NMS by class or over all, one or every class a cell."""

    floor: float = 0.001
    iou: float = 0.6
    limit: int = 300
    by_class: bool = True
    every_class: bool = True
    plus_one: bool = False

    def __str__(self) -> str:
        kind = "class-aware" if self.by_class else "class-agnostic"
        classes = "every class above the floor" if self.every_class else "best class only"
        return f"score floor {self.floor:g}, {kind} NMS {self.iou:g}, at most {self.limit} boxes, {classes}"


@dataclass(frozen=True)
class Letterboxed:
    """A picture made ready: data (1, 3, H, W) float32, and the way back to its own pixels."""

    data: np.ndarray
    left: int
    top: int
    ratio: float
    width: int
    height: int


def family_of(outputs: Mapping[str, np.ndarray], net_size: tuple[int, int], spec: DetectorSpec = COCO) -> Family:
    """The family the spec names, or recognise it by the shapes of the outputs.

    Raises:
        InputError: no detection head (of that family) among them.
    """
    per_cell, fields, cells = len(next(iter(spec.anchors.values()))), 5 + spec.classes, yolox.cells_of(net_size)
    found = {
        Family.YOLOV5: any(yolov5.as_head(output, spec.classes, per_cell) is not None for output in outputs.values()),
        Family.YOLOX: any(output.shape == (1, cells, fields) for output in outputs.values()),
    }
    for family in Family:
        if found[family] and spec.family in (None, family):
            return family
    ny, nx = net_size[0] // 8, net_size[1] // 8
    shapes = ", ".join(f"{name} {output.shape}" for name, output in outputs.items())
    raise InputError(
        f"no {spec.family.value if spec.family else 'detection'} head found in the outputs {shapes}; for {spec.classes} classes expected YOLOv5 "
        f"heads such as (1, {per_cell}, {ny}, {nx}, {fields}) or (1, {per_cell * fields}, {ny}, {nx}), or a YOLOX output (1, {cells}, {fields}); "
        "a network with other classes or anchors needs --detector detector.json"
    )


def letterbox(picture: np.ndarray, net_size: tuple[int, int], family: Family, pad_value: int = COCO.pad_value) -> Letterboxed:
    """Fit a BGR picture (h, w, 3) uint8 into the network input, the way the family was trained.

    YOLOv5: centred, RGB, divided by 255. YOLOX: top-left, BGR, 0..255.
    """
    height, width = picture.shape[:2]
    ratio = min(net_size[0] / height, net_size[1] / width)
    new_h, new_w = int(height * ratio), int(width * ratio)
    centred = family is Family.YOLOV5
    top, left = ((net_size[0] - new_h) // 2, (net_size[1] - new_w) // 2) if centred else (0, 0)
    canvas = np.full((*net_size, 3), pad_value, np.uint8)
    canvas[top : top + new_h, left : left + new_w] = cv2.resize(picture, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    if centred:
        canvas = canvas[:, :, ::-1]
    data = np.ascontiguousarray(canvas.transpose(2, 0, 1)[None], np.float32)
    if centred:
        data /= np.float32(255)
    return Letterboxed(data, left, top, ratio, width, height)


def find(
    outputs: Mapping[str, np.ndarray],
    family: Family,
    net_size: tuple[int, int],
    settings: Settings,
    picture: Letterboxed,
    spec: DetectorSpec = COCO,
) -> Detections:
    """Boxes of one picture, in its own pixels, best first."""
    if family is Family.YOLOV5:
        found = yolov5.decode(list(outputs.values()), net_size, settings.floor, settings.every_class, spec.classes, spec.anchors)
    else:
        output = next(out for out in outputs.values() if out.shape == (1, yolox.cells_of(net_size), 5 + spec.classes))
        found = yolox.decode(output, net_size, settings.floor, settings.every_class)
    kept = suppress(found, settings.iou, settings.limit, settings.by_class, settings.plus_one)
    return kept.moved(picture.left, picture.top, picture.ratio, picture.width, picture.height)


def read_picture(path: str) -> np.ndarray:
    """Decode a picture to BGR (h, w, 3) uint8.

    Raises:
        InputError: missing or not a picture.
    """
    picture = cv2.imread(path, cv2.IMREAD_COLOR)
    if picture is None:
        raise InputError(f"{path}: no such picture, or not one OpenCV can read (jpg, png, bmp)")
    return np.asarray(picture)
