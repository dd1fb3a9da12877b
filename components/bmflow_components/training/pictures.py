"""Annotated pictures in memory, and what is done to them before each look."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from bmflow.errors import InputError
from bmflow.evaluation import coco, detector
from bmflow.evaluation.spec import Family

PAD_VALUE = 114
LEAST_SIDE = 3.0  # a box narrower than this after cropping is dropped
LEAST_LEFT = 0.4  # so is one that keeps less than this share of its area


@dataclass(frozen=True)
class Augmentation:
    """How far pictures are changed: chances of a 2x2 mosaic and of flips; zoom in 1 - zoom .. 1 + zoom; shift as a share of the side;
    brightness and contrast of each colour in 1 - colour .. 1 + colour."""

    mosaic: float = 0.3
    flip_lr: float = 0.5
    flip_ud: float = 0.5
    zoom: float = 0.3
    shift: float = 0.1
    colour: float = 0.25


@dataclass(frozen=True)
class Pictures:
    """One split, fitted into the network input.

    Attributes:
        ids: COCO picture ids.
        pixels: (n, size, size, 3) uint8 RGB.
        boxes: for each picture (k, 5) float32: class from 0, x1, y1, x2, y2 in network pixels.
        fitted: for each picture how it was fitted (without its data).
    """

    ids: tuple[int, ...]
    pixels: np.ndarray
    boxes: tuple[np.ndarray, ...]
    fitted: tuple[detector.Letterboxed, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int]) -> Pictures:
        """Some of the pictures."""
        return Pictures(
            tuple(self.ids[k] for k in rows),
            self.pixels[list(rows)],
            tuple(self.boxes[k] for k in rows),
            tuple(self.fitted[k] for k in rows),
        )

    @property
    def sizes(self) -> np.ndarray:
        """Width and height (k, 2) of all boxes, in network pixels."""
        every = np.concatenate(self.boxes)
        return every[:, 3:] - every[:, 1:3]


def class_table(annotation: Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Category ids and names of a COCO file, by id.

    Raises:
        InputError: no categories in it.
    """
    coco.Annotations.load(str(annotation))
    try:
        found = sorted((int(item["id"]), str(item["name"])) for item in json.loads(annotation.read_text())["categories"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{annotation}: its categories lack id or name ({error})") from error
    if not found:
        raise InputError(f"{annotation}: has no categories; a detector needs at least one class")
    return tuple(number for number, _ in found), tuple(name for _, name in found)


def load(images: Path, annotation: Path, size: int) -> Pictures:
    """Read a COCO split into memory: size * size * 3 bytes a picture.

    Raises:
        InputError: unreadable annotations, a box of no picture or category, a missing or broken picture.
    """
    listed = coco.Annotations.load(str(annotation)).pictures
    order = {number: k for k, number in enumerate(class_table(annotation)[0])}
    boxes: dict[int, list[list[float]]] = {number: [] for number in listed}
    for item in json.loads(annotation.read_text())["annotations"]:
        try:
            x, y, width, height = (float(v) for v in item["bbox"])
            if not item.get("iscrowd") and width > 0 and height > 0:
                boxes[int(item["image_id"])].append([order[int(item["category_id"])], x, y, x + width, y + height])
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"{annotation}: annotation {item} is unusable ({type(error).__name__}: {error})") from error
    numbers = sorted(listed)
    pixels = np.empty((len(numbers), size, size, 3), np.uint8)
    fitted: list[detector.Letterboxed] = []
    for k, number in enumerate(numbers):
        ready = detector.letterbox(detector.read_picture(str(images / listed[number])), (size, size), Family.YOLOV5, PAD_VALUE)
        pixels[k] = np.round(ready.data[0].transpose(1, 2, 0) * 255).astype(np.uint8)
        fitted.append(replace(ready, data=ready.data[:, :, :0, :0]))
    placed = (_placed(np.array(boxes[number], np.float32).reshape(-1, 5), fit) for number, fit in zip(numbers, fitted, strict=True))
    return Pictures(tuple(numbers), pixels, tuple(placed), tuple(fitted))


def _placed(boxes: np.ndarray, fit: detector.Letterboxed) -> np.ndarray:
    offset = np.array([0, fit.left, fit.top, fit.left, fit.top], np.float32)
    return boxes * np.array([1, *[fit.ratio] * 4], np.float32) + offset


def look(pictures: Pictures, index: int, change: Augmentation, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One changed picture (size, size, 3) uint8 and its boxes (k, 5)."""
    pixels, boxes = _mosaic(pictures, index, rng) if rng.random() < change.mosaic else (pictures.pixels[index], pictures.boxes[index])
    pixels, boxes = _zoomed(pixels, boxes, change, rng)
    pixels, boxes = _flipped(pixels, boxes, change, rng)
    return _recoloured(pixels, change, rng), boxes


def _mosaic(pictures: Pictures, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Four pictures' random parts around a random point."""
    size = pictures.pixels.shape[1]
    canvas = np.empty((size, size, 3), np.uint8)
    cut_x, cut_y = (int(rng.integers(size * 3 // 10, size * 7 // 10)) for _ in range(2))
    found: list[np.ndarray] = []
    chosen = [index, *(int(k) for k in rng.integers(0, len(pictures), 3))]
    corners = ((0, 0, cut_x, cut_y), (cut_x, 0, size, cut_y), (0, cut_y, cut_x, size), (cut_x, cut_y, size, size))
    for k, (x1, y1, x2, y2) in zip(chosen, corners, strict=True):
        from_x, from_y = int(rng.integers(0, size - (x2 - x1) + 1)), int(rng.integers(0, size - (y2 - y1) + 1))
        canvas[y1:y2, x1:x2] = pictures.pixels[k, from_y : from_y + y2 - y1, from_x : from_x + x2 - x1]
        moved = pictures.boxes[k] + np.array([0, x1 - from_x, y1 - from_y, x1 - from_x, y1 - from_y], np.float32)
        found.append(_clipped(moved, x1, y1, x2, y2))
    return canvas, np.concatenate(found)


def _clipped(boxes: np.ndarray, x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    """Boxes cut to a window; those that lose too much are dropped."""
    cut = boxes.copy()
    cut[:, 1::2] = cut[:, 1::2].clip(x1, x2)
    cut[:, 2::2] = cut[:, 2::2].clip(y1, y2)
    before, after = boxes[:, 3:] - boxes[:, 1:3], cut[:, 3:] - cut[:, 1:3]
    return cut[(after.min(axis=1, initial=np.inf) > LEAST_SIDE) & (after.prod(axis=1) > LEAST_LEFT * before.prod(axis=1))]


def _zoomed(pixels: np.ndarray, boxes: np.ndarray, change: Augmentation, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    size = len(pixels)
    scale = rng.uniform(1 - change.zoom, 1 + change.zoom)
    dx, dy = rng.uniform(-change.shift, change.shift, 2) * size + (1 - scale) * size / 2
    matrix = np.array([[scale, 0, dx], [0, scale, dy]])
    grey = (PAD_VALUE, PAD_VALUE, PAD_VALUE)
    warped = np.asarray(cv2.warpAffine(pixels, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=grey))
    moved = boxes * np.array([1, *[scale] * 4], np.float32) + np.array([0, dx, dy, dx, dy], np.float32)
    return warped, _clipped(moved, 0, 0, size, size)


def _flipped(pixels: np.ndarray, boxes: np.ndarray, change: Augmentation, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    size = len(pixels)
    left_right, up_down = rng.random(2) < (change.flip_lr, change.flip_ud)
    if left_right:
        pixels, boxes = pixels[:, ::-1], np.stack([boxes[:, 0], size - boxes[:, 3], boxes[:, 2], size - boxes[:, 1], boxes[:, 4]], 1)
    if up_down:
        pixels, boxes = pixels[::-1], np.stack([boxes[:, 0], boxes[:, 1], size - boxes[:, 4], boxes[:, 3], size - boxes[:, 2]], 1)
    return pixels, boxes


def _recoloured(pixels: np.ndarray, change: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Another contrast for each colour and another brightness, through a table of 256 values."""
    gain, lift = rng.uniform(1 - change.colour, 1 + change.colour, 3), rng.uniform(-change.colour, change.colour) * 64
    table = np.clip((np.arange(256)[:, None] - 128) * gain + 128 + lift, 0, 255).astype(np.uint8)  # (256, 3)
    return np.asarray(cv2.LUT(np.ascontiguousarray(pixels), table[None]))


def to_targets(boxes: Sequence[np.ndarray]) -> np.ndarray:
    """Boxes of a batch to rows (k, 6): picture, class, centre x, y, width, height."""
    rows = [
        np.concatenate([np.full((len(b), 1), k), b[:, :1], (b[:, 1:3] + b[:, 3:]) / 2, b[:, 3:] - b[:, 1:3]], 1)
        for k, b in enumerate(boxes)
    ]
    return np.concatenate(rows).astype(np.float32)
