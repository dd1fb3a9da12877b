"""COCO mAP by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bmflow.errors import InputError
from bmflow.evaluation.detections import Detections
from bmflow.evaluation.labels import CATEGORY_IDS, NAMES


@dataclass(frozen=True)
class CocoAccuracy:
    """Mean average precision in 0..1 over IoU .50:.95, at .50 and .75, and per class (only classes that occur)."""

    map: float
    map50: float
    map75: float
    per_class: dict[str, float]
    pictures: int


@dataclass(frozen=True)
class Annotations:
    """A COCO annotation file: its path and the picture file name of each id."""

    path: str
    pictures: dict[int, str]

    @staticmethod
    def load(path: str) -> Annotations:
        """Read the picture list.

        Raises:
            InputError: missing file, not JSON, or no pictures and boxes in it.
        """
        try:
            data = json.loads(Path(path).read_text())
            pictures = {int(item["id"]): str(item["file_name"]) for item in data["images"]}
            boxes = len(data["annotations"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a COCO annotation file ({type(error).__name__}: {error})") from error
        if not pictures or not boxes:
            raise InputError(f"{path}: has {len(pictures)} pictures and {boxes} boxes; nothing to measure against")
        return Annotations(path, pictures)


def measure(annotations: Annotations, found: Mapping[int, Detections], limit: int = 300) -> CocoAccuracy:
    """Score detections by picture id against the annotations of exactly these pictures, at most `limit` boxes each."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations.path)
        rows = [row for picture, detections in found.items() for row in _rows(picture, detections)]
        if not rows:
            return CocoAccuracy(0.0, 0.0, 0.0, {}, len(found))
        results = truth.loadRes(rows)  # pyright: ignore[reportArgumentType]  (its stub forgets the list form)
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.params.imgIds = sorted(found)
        evaluation.params.maxDets = [1, 10, limit]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (10 IoU, 101 recall, classes), all areas, most boxes
    names = dict(zip(CATEGORY_IDS, NAMES, strict=True))
    ids = list(evaluation.params.catIds)
    per_class = {names.get(ids[k], str(ids[k])): _mean(precision[:, :, k]) for k in range(len(ids)) if (precision[:, :, k] > -1).any()}
    return CocoAccuracy(_mean(precision), _mean(precision[0]), _mean(precision[5]), per_class, len(found))


def _rows(picture: int, found: Detections) -> list[dict[str, object]]:
    return [
        {
            "image_id": picture,
            "category_id": CATEGORY_IDS[int(kind)],
            "bbox": [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])],
            "score": float(score),
        }
        for box, score, kind in zip(found.boxes, found.scores, found.classes, strict=True)
    ]


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else 0.0
