"""Histograms for people: the absolute values of every tensor in few bins, beside the threshold that was chosen for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from bmflow.calibration.histogram import Histogram
from bmflow.tables.calibration import Range

FILE = "histograms.json"
BINS = 64
SCHEMA = 1


def coarse(histogram: Histogram, bins: int = BINS) -> tuple[float, list[int]]:
    """Width of a bin in units of the values, and counts (bins): bin k counts k * width <= |x| < (k + 1) * width, zeros left out.

    The last bin takes the largest value as well. A value near a border may count in the bin beside it, by half a width of the fine
    histogram.
    """
    if not histogram.extent:
        return 0.0, [0] * bins
    centres = np.arange(histogram.counts.size) * histogram.width
    index = np.minimum((centres * (bins / histogram.extent)).astype(np.int64), bins - 1)
    return histogram.extent / bins, np.bincount(index, histogram.counts, bins).astype(np.int64).tolist()


def report(found: Mapping[str, Histogram], ranges: Mapping[str, Range], kinds: Mapping[str, str]) -> str:
    """JSON with one entry a tensor, in network order. `ranges`: of the table; `kinds`: op types such as top.Conv by name."""
    tensors = [_tensor(name, histogram, ranges[name], kinds[name]) for name, histogram in found.items()]
    lines = ",\n".join(f"  {json.dumps(tensor)}" for tensor in tensors)
    return f'{{\n "schema": {SCHEMA},\n "tensors": [\n{lines}\n ]\n}}\n'


def _tensor(name: str, histogram: Histogram, found: Range, kind: str) -> dict[str, Any]:
    width, counts = coarse(histogram)
    return {
        "name": name, "op": kind, "threshold": found.threshold, "low": found.low, "high": found.high, "width": width, "counts": counts,
    }  # fmt: skip
