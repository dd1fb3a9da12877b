"""Float and compiled network on the same picture: where they differ most, and both drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from bmflow.evaluation.detections import Detections, overlap, suppress
from bmflow.evaluation.detector import read_picture
from bmflow.evaluation.draw import draw

from bmflow_components.report.data import Pair

SIDE = 560
"""Most pixels of a drawn picture's longer side."""
THRESHOLD = 0.25
"""Least score of a box that counts and is drawn."""
_MATCH_IOU, _ONE_PLACE_IOU, _MOST_BOXES = 0.5, 0.6, 100


@dataclass(frozen=True)
class Difference:
    """Classes of boxes that only one side found, and the sum of score changes of those both found."""

    lost: tuple[int, ...]
    gained: tuple[int, ...]
    drift: float

    @property
    def weight(self) -> float:
        """How bad it is: a lost box counts most, then one too many, then scores."""
        return 2.0 * len(self.lost) + len(self.gained) + 0.5 * self.drift


def compare(before: Detections, after: Detections, threshold: float = THRESHOLD) -> Difference:
    """Match boxes of the same class that overlap by half or more, best score first."""
    before, after = visible(before, threshold), visible(after, threshold)
    free = np.ones(len(after), bool)
    lost: list[int] = []
    drift = 0.0
    for index in np.argsort(-before.scores, kind="stable"):
        kind = int(before.classes[index])
        usable = free & (after.classes == kind)
        iou = np.where(usable, overlap(before.boxes[index], after.boxes), 0.0) if len(after) else np.zeros(0)
        best = int(iou.argmax()) if len(iou) else -1
        if best < 0 or iou[best] < _MATCH_IOU:
            lost.append(kind)
            continue
        free[best] = False
        drift += abs(float(before.scores[index]) - float(after.scores[best]))
    return Difference(tuple(lost), tuple(int(kind) for kind in after.classes[free]), drift)


def visible(found: Detections, threshold: float = THRESHOLD) -> Detections:
    """The boxes that are drawn: above the threshold, one for each place whatever its class."""
    return suppress(found.take(found.scores >= threshold), _ONE_PLACE_IOU, _MOST_BOXES, by_class=False)


def worst(before: Mapping[int, Detections], after: Mapping[int, Detections], count: int = 6) -> list[int]:
    """Ids of the pictures where the two differ most, worst first; pictures without any difference are left out."""
    weights = {number: compare(before[number], after[number]).weight for number in before if number in after}
    ranked = sorted((number for number, weight in weights.items() if weight > 0), key=lambda number: (-weights[number], number))
    return ranked[:count]


def pair(path: str, name: str, before: Detections, after: Detections, names: Sequence[str]) -> Pair:
    """Draw both sides.

    Raises:
        InputError: the picture cannot be read.
    """
    picture = read_picture(path)
    difference = compare(before, after)
    note = "; ".join(
        part for part in (_counted("lost", difference.lost, names), _counted("too many", difference.gained, names)) if part
    )  # fmt: skip
    note = note or f"the same boxes, scores moved by {difference.drift:.2f} in all"
    return Pair(name, note, _jpeg(picture, before, names), _jpeg(picture, after, names))


def _counted(word: str, kinds: Sequence[int], names: Sequence[str]) -> str:
    counts = Counter(names[kind] for kind in kinds)
    return f"{word}: {', '.join(f'{count} × {name}' if count > 1 else name for name, count in counts.most_common())}" if counts else ""


def _jpeg(picture: np.ndarray, found: Detections, names: Sequence[str]) -> bytes:
    ratio = SIDE / max(picture.shape[:2])
    shown = cv2.resize(picture, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC)
    found = visible(found)
    scaled = Detections(found.boxes * np.float32(ratio), found.scores, found.classes)
    done, data = cv2.imencode(".jpg", draw(shown, scaled, THRESHOLD, names), [cv2.IMWRITE_JPEG_QUALITY, 82])
    assert done, "OpenCV encodes any 8-bit picture"
    return data.tobytes()
