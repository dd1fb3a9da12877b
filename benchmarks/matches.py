"""Which detections match which boxes, picture by picture, so that mAP of any draw of pictures costs no second matching.

Matching is pycocotools'; averaging is the same sum, done with arrays, since a bootstrap does it hundreds of times. A paired bootstrap draws
the same pictures for both networks.
"""

from __future__ import annotations

import contextlib
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
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Class:
    """One class, detections of all pictures one after the other, those of picture k from starts[k] to starts[k + 1].

    scores (n); hit, counted (10 IoU, n): right, and not to be ignored; boxes (pictures): boxes to find.
    """

    scores: np.ndarray
    hit: np.ndarray
    counted: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray

    def average_precision(self, draw: np.ndarray) -> float | None:
        """Mean over IoU and recall of the pictures drawn; None where they have no box of the class."""
        total = self.boxes[draw].sum()
        if not total:
            return None
        picked = np.concatenate([np.arange(int(self.starts[k]), int(self.starts[k + 1])) for k in draw.tolist()])
        order = picked[np.argsort(-self.scores[picked], kind="mergesort")]
        hits, misses = (np.cumsum(marks[:, order], axis=1, dtype=float) for marks in (self.hit, ~self.hit & self.counted))
        precision = hits / np.maximum(hits + misses, np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        padded = np.pad(envelope, ((0, 0), (0, 1)))
        places = [np.searchsorted(found / total, RECALLS, side="left") for found in hits]
        return float(np.mean([row[place] for row, place in zip(padded, places, strict=True)]))


@dataclass(frozen=True)
class Matches:
    """What was found in some pictures against the boxes there."""

    pictures: tuple[int, ...]
    classes: tuple[Class, ...]

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
        count = len(found)
        every = [evaluation.evalImgs[first : first + count] for first in range(0, len(evaluation.evalImgs), count)]
        return cls(tuple(sorted(found)), tuple(_class(parts) for parts in every))

    def mean_ap(self, draw: np.ndarray | None = None) -> float:
        """mAP50-95 over pictures given by their places in `pictures`, with repetition; all of them once without."""
        draw = np.arange(len(self.pictures)) if draw is None else draw
        values = [value for one in self.classes if (value := one.average_precision(draw)) is not None]
        return float(np.mean(values))


@dataclass(frozen=True)
class Difference:
    """mAP of a network less that of float, mean of the folds, and where 95 of 100 draws of pictures lie."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, floating: Draws, other: Draws) -> Difference:
        """The same pictures of both networks in each draw."""
        gaps = other.values - floating.values
        return cls(other.mean - floating.mean, *(float(value) for value in np.percentile(gaps, (2.5, 97.5))))


@dataclass(frozen=True)
class Draws:
    """mAP of one network, mean of the folds: over all pictures, and over each of many draws of as many pictures (draws)."""

    mean: float
    values: np.ndarray

    @classmethod
    def of(cls, folds: Sequence[Matches], count: int, seed: int = 1684) -> Draws:
        """The same seed draws the same pictures."""
        generator, values = np.random.default_rng(seed), list[float]()
        for _ in range(count):
            draws = [generator.integers(0, len(fold.pictures), len(fold.pictures)) for fold in folds]
            values.append(float(np.mean([fold.mean_ap(draw) for fold, draw in zip(folds, draws, strict=True)])))
        return cls(float(np.mean([fold.mean_ap() for fold in folds])), np.array(values))


def _class(parts: Sequence[Any]) -> Class:
    sizes = [len(part["dtScores"]) if part else 0 for part in parts]
    there = [part for part in parts if part]
    scores = np.concatenate([np.asarray(part["dtScores"], float) for part in there]) if there else np.zeros(0)
    matched, ignored = (
        np.concatenate([np.asarray(part[key], bool).reshape(10, -1) for part in there], axis=1) if there else np.zeros((10, 0), bool)
        for key in ("dtMatches", "dtIgnore")
    )
    boxes = np.array([int((np.asarray(part["gtIgnore"]) == 0).sum()) if part else 0 for part in parts])
    return Class(scores, matched & ~ignored, ~ignored, np.concatenate(([0], np.cumsum(sizes))), boxes)
