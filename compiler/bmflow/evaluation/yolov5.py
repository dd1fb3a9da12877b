"""YOLOv5: three heads of raw logits to boxes.

Source of the decode: Ultralytics YOLOv5 v6 detection head; anchors of its COCO models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bmflow.errors import InputError
from bmflow.evaluation.detections import Detections

Anchors = tuple[tuple[float, float], ...]
ANCHORS: Mapping[int, Anchors] = {
    8: ((1.25, 1.625), (2.0, 3.75), (4.125, 2.875)),
    16: ((1.875, 3.8125), (3.875, 2.8125), (3.6875, 7.4375)),
    32: ((3.625, 2.8125), (4.875, 6.1875), (11.65625, 10.1875)),
}
"""Anchor width and height in grid units by stride, of the COCO models."""


def as_head(output: np.ndarray, classes: int = 80, anchors: int = 3) -> np.ndarray | None:
    """Bring an output to (anchors, ny, nx, 5 + classes); None when its shape is no detection head.

    Accepted, for 3 anchors and 80 classes: (1, 3, ny, nx, 85), (1, 255, ny, nx), (1, ny, nx, 255), (1, 3, ny, nx * 85).
    """
    fields = 5 + classes
    match output.shape:
        case (1, count, _, _, last) if (count, last) == (anchors, fields):
            return output[0]
        case (1, channels, ny, nx) if channels == anchors * fields:
            return output.reshape(anchors, fields, ny, nx).transpose(0, 2, 3, 1)
        case (1, ny, nx, channels) if channels == anchors * fields:
            return output.reshape(ny, nx, anchors, fields).transpose(2, 0, 1, 3)
        case (1, count, ny, width) if count == anchors and width % fields == 0:
            return output.reshape(anchors, ny, width // fields, fields)
    return None


def decode(
    outputs: Sequence[np.ndarray],
    net_size: tuple[int, int],
    floor: float,
    every_class: bool,
    classes: int = 80,
    anchors: Mapping[int, Anchors] = ANCHORS,
) -> Detections:
    """Turn raw heads into boxes in network pixels.

    Args:
        outputs: raw network outputs in any order; those that are no head are skipped.
        net_size: network input height and width.
        floor: boxes whose score (objectness * class probability) is not above it are dropped.
        every_class: one box per class above the floor; otherwise only the best class of each cell.
        classes: number of classes.
        anchors: width and height in grid units by stride.
    Raises:
        InputError: a head whose stride has no anchors.
    """
    per_cell = len(next(iter(anchors.values())))
    heads = [head for out in outputs if (head := as_head(out, classes, per_cell)) is not None]
    found = [_decode_head(head, net_size, floor, every_class, anchors) for head in heads]
    return Detections(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _decode_head(
    head: np.ndarray, net_size: tuple[int, int], floor: float, every_class: bool, anchors: Mapping[int, Anchors]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ny, nx = head.shape[1:3]
    stride = net_size[0] // ny
    if stride not in anchors or (ny * stride, nx * stride) != net_size:
        known = ", ".join(str(s) for s in anchors)
        raise InputError(
            f"a head of {ny} x {nx} cells for an input of {net_size[0]} x {net_size[1]}; there are anchors for strides {known} only"
        )
    logit_floor = np.log(floor / (1 - floor))
    anchor, y, x = np.nonzero(head[..., 4] > logit_floor)  # the product can only be smaller than the objectness
    cells = _sigmoid(head[anchor, y, x].astype(np.float32))
    xy = (cells[:, 0:2] * 2 - 0.5 + np.stack([x, y], 1)) * stride
    wh = (cells[:, 2:4] * 2) ** 2 * np.array(anchors[stride], np.float32)[anchor] * stride
    boxes = np.concatenate([xy - wh / 2, xy + wh / 2], 1).astype(np.float32)
    return pick_classes(boxes, cells[:, 4:5] * cells[:, 5:], floor, every_class)


def pick_classes(boxes: np.ndarray, scores: np.ndarray, floor: float, every_class: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows above the floor as (boxes, scores, classes): every class of a box (k, classes), or only its best one."""
    if every_class:
        row, kind = np.nonzero(scores > floor)
        return boxes[row], scores[row, kind], kind
    kind = scores.argmax(axis=1) if len(scores) else np.zeros(0, np.int64)
    best = scores[np.arange(len(scores)), kind]
    keep = best > floor
    return boxes[keep], best[keep], kind[keep]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
