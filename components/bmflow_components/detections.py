"""Boxes of every picture as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from bmflow.errors import InputError
from bmflow.evaluation.detections import Detections

from bmflow_components import documents


def save(path: Path, found: Mapping[int, Detections], names: tuple[str, ...]) -> None:
    """Write boxes (x1, y1, x2, y2 in the picture's pixels, to a thousandth), scores and class numbers by picture id."""
    documents.write(path, {"classes": list(names), "pictures": {str(number): _row(boxes) for number, boxes in found.items()}}, None)


def _row(found: Detections) -> dict[str, Any]:
    return {
        "boxes": [[round(float(v), 3) for v in box] for box in found.boxes], "scores": [round(float(v), 6) for v in found.scores],
        "classes": [int(v) for v in found.classes],
    }  # fmt: skip


def load(path: Path) -> dict[int, Detections]:
    """Read the file.

    Raises:
        InputError: not such a file.
    """
    data = documents.read(path, "detections, as the stage evaluate writes them")
    try:
        return {
            int(number): Detections(
                np.array(row["boxes"], np.float32).reshape(-1, 4), np.array(row["scores"], np.float32), np.array(row["classes"], np.int64)
            )
            for number, row in data["pictures"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not usable detections ({type(error).__name__}: {error})") from error
