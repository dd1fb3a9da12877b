"""Boxes found in a picture, and suppression of duplicates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Detections:
    """Boxes (k, 4) float32 as x1, y1, x2, y2 in pixels; scores (k) in 0..1; classes (k), counted from 0. Best score first after NMS."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, keep: np.ndarray) -> Detections:
        """The chosen rows (indices or a mask)."""
        return Detections(self.boxes[keep], self.scores[keep], self.classes[keep])

    def moved(self, left: float, top: float, ratio: float, width: int, height: int) -> Detections:
        """From network pixels to picture pixels: subtract the padding, divide by the resize ratio, clip to the picture."""
        boxes = (self.boxes - np.array([left, top, left, top], np.float32)) / np.float32(ratio)
        limits = np.array([width, height, width, height], np.float32)
        return Detections(np.clip(boxes, 0, limits), self.scores, self.classes)


def overlap(box: np.ndarray, boxes: np.ndarray, plus_one: bool = False) -> np.ndarray:
    """Intersection over union of one box (4) with many (k, 4); `plus_one` counts pixels inclusively."""
    extra = 1.0 if plus_one else 0.0
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    inside = np.prod(np.clip(high - low + extra, 0, None), axis=1)
    area = np.prod(box[2:] - box[:2] + extra)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + extra, axis=1)
    return inside / np.maximum(area + areas - inside, 1e-12)


def suppress(found: Detections, iou: float, limit: int, by_class: bool = True, plus_one: bool = False) -> Detections:
    """Greedy non-maximum suppression, best score first, at most `limit` boxes.

    Args:
        iou: a box goes when it overlaps a better one by more than this.
        by_class: boxes of different classes do not suppress each other.
    """
    if not len(found):
        return found
    order = np.argsort(-found.scores, kind="stable")
    boxes = found.boxes.astype(np.float64)
    if by_class:
        boxes = boxes + (found.classes.astype(np.float64) * (np.ptp(boxes) + 1))[:, None]
    keep: list[int] = []
    while len(order) and len(keep) < limit:
        best, order = order[0], order[1:]
        keep.append(int(best))
        order = order[overlap(boxes[best], boxes[order], plus_one) <= iou]
    return found.take(np.array(keep, np.int64))
