"""Anchors that fit a dataset's boxes."""

from __future__ import annotations

import numpy as np
from bmflow.evaluation.yolov5 import Anchors


def fit_anchors(sizes: np.ndarray, strides: tuple[int, ...], each: int = 3, rounds: int = 50) -> dict[int, Anchors]:
    """Cluster box sizes by k-means in the logarithm (so that errors are ratios), smallest to the finest stride.

    The start is one box at each of evenly spaced ranks of area, so the result depends on the boxes alone.

    Args:
        sizes: (k, 2) width, height in pixels.
    Returns:
        width and height in grid units by stride, whole pixels times 1 / stride.
    """
    count = each * len(strides)
    points = np.log(np.maximum(sizes, 2.0)).astype(np.float64)
    order = np.argsort(points.sum(axis=1), kind="stable")
    centres = points[order[np.linspace(0, len(points) - 1, count).round().astype(int)]]
    for _ in range(rounds):
        nearest = np.square(points[:, None] - centres[None]).sum(axis=2).argmin(axis=1)
        centres = np.array([points[nearest == k].mean(axis=0) if (nearest == k).any() else centres[k] for k in range(count)])
    pixels = np.round(np.exp(centres[np.argsort(centres.sum(axis=1), kind="stable")]))
    parts = zip(strides, pixels.reshape(len(strides), each, 2), strict=True)
    return {stride: tuple((float(w) / stride, float(h) / stride) for w, h in part) for stride, part in parts}
