"""What must be known of a detector to turn its outputs into boxes: family, classes, anchors, padding.

A bmodel holds numbers only, so this travels beside it as `detector.json`; an ONNX file carries the same text in its metadata
(key `bmflow.detector`). Where neither is given, the detector is taken for one of COCO's 80 classes with YOLOv5's own anchors.

    {"schema": 1, "family": "yolov5", "pad_value": 114,
     "classes": [{"id": 1, "name": "circle"}, ...],                 in the order of the network's class outputs
     "anchors": {"8": [[17, 16], ...], "16": [...], "32": [...]}}   width, height in pixels of the network input, by stride; YOLOv5 only
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from bmflow.errors import InputError
from bmflow.evaluation import yolov5
from bmflow.evaluation.labels import CATEGORY_IDS, NAMES

SCHEMA = 1
METADATA_KEY = "bmflow.detector"
_KEYS = {"schema", "family", "pad_value", "classes", "anchors"}


class Family(Enum):
    """Detector families by the name of their decode."""

    YOLOV5 = "yolov5"
    YOLOX = "yolox"


@dataclass(frozen=True)
class DetectorSpec:
    """How to read a detector's outputs.

    Attributes:
        family: None: recognise it by the outputs' shapes.
        names, category_ids: of each class, in the order of the network's outputs; ids are those of the annotation file.
        anchors: width and height in grid units by stride (YOLOv5).
        pad_value: grey 0..255 around a picture that does not fill the input.
    """

    family: Family | None = None
    names: tuple[str, ...] = NAMES
    category_ids: tuple[int, ...] = CATEGORY_IDS
    anchors: Mapping[int, yolov5.Anchors] = field(default_factory=lambda: yolov5.ANCHORS)
    pad_value: int = 114

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    def text(self) -> str:
        """The spec as JSON."""
        anchors = {str(stride): [[w * stride, h * stride] for w, h in pairs] for stride, pairs in self.anchors.items()}
        classes = [{"id": number, "name": name} for number, name in zip(self.category_ids, self.names, strict=True)]
        family = (self.family or Family.YOLOV5).value
        return (
            json.dumps({"schema": SCHEMA, "family": family, "pad_value": self.pad_value, "classes": classes, "anchors": anchors}, indent=1)
            + "\n"
        )

    @staticmethod
    def load(path: str | Path) -> DetectorSpec:
        """Read a `detector.json`.

        Raises:
            InputError: missing, not JSON, or a field that is absent, unknown or out of range.
        """
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot read this detector description ({error}); expected a detector.json") from error
        return DetectorSpec.parse(text, str(path))

    @staticmethod
    def parse(text: str, where: str) -> DetectorSpec:
        """Read the JSON text of a spec; `where` names its source in errors."""
        try:
            data = json.loads(text)
            return _spec(data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{where}: not a usable detector description: {reason}; see `model_eval --help` for its form") from error


COCO = DetectorSpec()
"""A detector of COCO's 80 classes with YOLOv5's own anchors."""


def _spec(data: Any) -> DetectorSpec:
    if not isinstance(data, dict):
        raise ValueError("expected a JSON object")
    if unknown := sorted(set(data) - _KEYS):
        raise ValueError(f"unknown field {', '.join(unknown)}; known are {', '.join(sorted(_KEYS))}")
    if data["schema"] != SCHEMA:
        raise ValueError(f"schema {data['schema']}, this version reads schema {SCHEMA}")
    family = Family(data["family"])
    names, ids = _classes(data["classes"])
    anchors = _anchors(data["anchors"]) if family is Family.YOLOV5 else yolov5.ANCHORS
    pad_value = int(data.get("pad_value", COCO.pad_value))
    if not 0 <= pad_value <= 255:
        raise ValueError(f"pad_value {pad_value}, expected 0 to 255")
    return DetectorSpec(family, names, ids, anchors, pad_value)


def _classes(items: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    names, ids = tuple(str(item["name"]) for item in items), tuple(int(item["id"]) for item in items)
    if not names or len(set(names)) < len(names) or len(set(ids)) < len(ids):
        raise ValueError(f"classes {names} with ids {ids}: expected at least one class, each name and id once")
    return names, ids


def _anchors(data: Any) -> dict[int, yolov5.Anchors]:
    anchors = {int(stride): tuple((float(w) / int(stride), float(h) / int(stride)) for w, h in pairs) for stride, pairs in data.items()}
    if not anchors or len({len(pairs) for pairs in anchors.values()}) != 1:
        raise ValueError(f"anchors {data}: expected the same number of width, height pairs for every stride")
    if any(stride < 1 or not pairs or min(min(pair) for pair in pairs) <= 0 for stride, pairs in anchors.items()):
        raise ValueError(f"anchors {data}: strides, widths and heights must be positive")
    return anchors
