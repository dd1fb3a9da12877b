"""COCO mAP by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bmflow.errors import InputError, nearest_names
from bmflow.evaluation.detections import Detections
from bmflow.evaluation.spec import COCO as COCO_SPEC
from bmflow.evaluation.spec import DetectorSpec


@dataclass(frozen=True)
class CocoAccuracy:
    """Mean average precision in 0..1 over IoU .50:.95, at .50 and .75, and per class (only classes that occur).

    `curves`: precision at the recalls 0, .01, ..., 1 for IoU .50, per class.
    """

    map: float
    map50: float
    map75: float
    per_class: dict[str, float]
    pictures: int
    curves: dict[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]], repr=False)


@dataclass(frozen=True)
class Annotations:
    """A COCO annotation file: its path, the picture file name of each id, and the name of each category that has boxes."""

    path: str
    pictures: dict[int, str]
    categories: dict[int, str] = field(default_factory=dict)

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
            names = {int(item["id"]): str(item["name"]) for item in data.get("categories", [])}
            used = sorted({int(item["category_id"]) for item in data["annotations"]})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a COCO annotation file ({type(error).__name__}: {error})") from error
        if not pictures or not boxes:
            raise InputError(f"{path}: has {len(pictures)} pictures and {boxes} boxes; nothing to measure against")
        return Annotations(path, pictures, {number: names.get(number, "") for number in used})

    def check_classes(self, spec: DetectorSpec, where: str) -> None:
        """Refuse annotations of classes that the detector does not know: they would count as missed.

        Raises:
            InputError: a category id the detector lacks, or has under another name.
        """
        known = dict(zip(spec.category_ids, spec.names, strict=True))
        for number, name in self.categories.items():
            if number not in known:
                raise InputError(
                    f"{self.path}: has boxes of category {number} ({name or 'without a name'}), which {where} does not know "
                    f"({nearest_names(name, spec.names) or 'its classes: ' + ', '.join(spec.names[:8])}); give the --detector of these classes"
                )
            if name and name != known[number]:
                raise InputError(
                    f"{self.path}: category {number} is {name}, but {known[number]} in {where}; give the --detector of these classes"
                )


def measure(annotations: Annotations, found: Mapping[int, Detections], limit: int = 300, spec: DetectorSpec = COCO_SPEC) -> CocoAccuracy:
    """Score detections by picture id against the annotations of exactly these pictures, at most `limit` boxes each."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations.path)
        every = [row for picture, detections in found.items() for row in rows(picture, detections, spec)]
        if not every:
            return CocoAccuracy(0.0, 0.0, 0.0, {}, len(found))
        results = truth.loadRes(every)  # pyright: ignore[reportArgumentType]  (its stub forgets the list form)
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.params.imgIds = sorted(found)
        evaluation.params.maxDets = [1, 10, limit]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (10 IoU, 101 recall, classes), all areas, most boxes
    names = dict(zip(spec.category_ids, spec.names, strict=True))
    ids = list(evaluation.params.catIds)
    occurring = {names.get(ids[k], str(ids[k])): precision[:, :, k] for k in range(len(ids)) if (precision[:, :, k] > -1).any()}
    per_class = {name: _mean(values) for name, values in occurring.items()}
    curves = {name: tuple(map(float, values[0])) for name, values in occurring.items()}
    return CocoAccuracy(_mean(precision), _mean(precision[0]), _mean(precision[5]), per_class, len(found), curves)


def rows(picture: int, found: Detections, spec: DetectorSpec) -> list[dict[str, object]]:
    """What pycocotools takes: one row a detection, boxes as x, y, width, height."""
    return [
        {
            "image_id": picture,
            "category_id": spec.category_ids[int(kind)],
            "bbox": [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])],
            "score": float(score),
        }
        for box, score, kind in zip(found.boxes, found.scores, found.classes, strict=True)
    ]


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else 0.0
