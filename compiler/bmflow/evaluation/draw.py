"""Boxes with labels on a picture."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from bmflow.evaluation.detections import Detections
from bmflow.evaluation.labels import NAMES


def draw(picture: np.ndarray, found: Detections, threshold: float, names: Sequence[str] = NAMES) -> np.ndarray:
    """Return a copy of a BGR picture with every box at or above the threshold and its `class:87.3%` label."""
    canvas = np.ascontiguousarray(picture.copy())
    scale = max(0.4, min(canvas.shape[:2]) / 1200)
    for box, score, kind in zip(found.boxes, found.scores, found.classes, strict=True):
        if score >= threshold:
            _draw_box(canvas, box, f"{names[int(kind)]}:{score:.1%}", _colour(int(kind)), scale)
    return canvas


def _colour(kind: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(kind * 0.381966 % 1, 0.75, 0.95)  # golden-ratio steps keep neighbours apart
    return int(blue * 255), int(green * 255), int(red * 255)


def _draw_box(canvas: np.ndarray, box: np.ndarray, label: str, colour: tuple[int, int, int], scale: float) -> None:
    thickness = max(1, round(scale * 2))
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, thickness)
    (width, height), base = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    top = max(0, y1 - height - base)
    dark = tuple(int(c * 0.6) for c in colour)
    cv2.rectangle(canvas, (x1, top), (x1 + width, top + height + base), dark, -1)
    cv2.putText(canvas, label, (x1, top + height), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
