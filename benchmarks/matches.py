"""Which detections match which boxes, picture by picture, so that mAP of any draw of pictures costs no second matching.

Matching and averaging are pycocotools'; only the list of pictures is ours. A paired bootstrap draws the same pictures for both networks.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bmflow.evaluation.coco import Annotations, rows
from bmflow.evaluation.detections import Detections
from bmflow.evaluation.spec import COCO

MOST = 300
"""Boxes a picture, as model_eval counts them."""


@dataclass(frozen=True)
class Matches:
    """`evaluation` is a pycocotools COCOeval after its matching; `pictures` are the ids in its order."""

    evaluation: Any
    pictures: tuple[int, ...]

    @classmethod
    def of(cls, annotations: Annotations, found: dict[int, Detections]) -> Matches:
        """Match what was found in each picture, by id."""
        from pycocotools import coco, cocoeval

        with contextlib.redirect_stdout(io.StringIO()):
            truth = coco.COCO(annotations.path)
            results = truth.loadRes([row for number, items in found.items() for row in rows(number, items, COCO)])  # pyright: ignore
            evaluation = cocoeval.COCOeval(truth, results, "bbox")
            evaluation.params.imgIds, evaluation.params.maxDets = sorted(found), [MOST]  # pyright: ignore
            evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
            evaluation.evaluate()
        return cls(evaluation, tuple(sorted(found)))

    def mean_ap(self, draw: Sequence[int] | np.ndarray | None = None) -> float:
        """mAP50-95 over pictures given by their places in `pictures`, with repetition; all of them once without."""
        draw = range(len(self.pictures)) if draw is None else draw
        part = copy.copy(self.evaluation)
        part.params, part._paramsEval = copy.copy(part.params), copy.copy(part._paramsEval)
        count = len(self.pictures)
        part.evalImgs = [self.evaluation.evalImgs[start + k] for start in range(0, len(self.evaluation.evalImgs), count) for k in draw]
        part.params.imgIds = part._paramsEval.imgIds = list(range(len(draw)))
        with contextlib.redirect_stdout(io.StringIO()):
            part.accumulate()
        precision = part.eval["precision"]
        return float(precision[precision > -1].mean())


@dataclass(frozen=True)
class Difference:
    """mAP of a network less that of float, mean of the folds, and where 95 of 100 draws of pictures lie."""

    mean: float
    low: float
    high: float


def difference(floats: Sequence[Matches], others: Sequence[Matches], draws: int = 300, seed: int = 1684) -> Difference:
    """Paired bootstrap over pictures, fold by fold: each draw takes the same pictures of both networks."""
    generator, found = np.random.default_rng(seed), list[float]()
    for _ in range(draws):
        parts = list[float]()
        for one, other in zip(floats, others, strict=True):
            draw = generator.integers(0, len(one.pictures), len(one.pictures))
            parts.append(other.mean_ap(draw) - one.mean_ap(draw))
        found.append(float(np.mean(parts)))
    mean = float(np.mean([other.mean_ap() - one.mean_ap() for one, other in zip(floats, others, strict=True)]))
    return Difference(mean, *(float(value) for value in np.percentile(found, (2.5, 97.5))))
