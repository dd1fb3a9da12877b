"""How heavy the tails of tensors are: a hint at layers whose thresholds are hard to choose (3 for a bell, more for outliers)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

FILE = "kurtosis_analysis"
_BLOCK = 1 << 17  # elements whose working arrays stay in the cache of a core


def kurtosis(values: np.ndarray) -> float:
    """mean((x - mean)**4) / (deviation + 1e-8)**4 of one float32 sample."""
    flat = values.reshape(-1)
    mean, second, fourth = flat.mean(dtype=np.float64), 0.0, 0.0
    for start in range(0, flat.size, _BLOCK):
        squares = np.square(flat[start : start + _BLOCK] - mean)
        second += float(squares.sum())
        fourth += float(np.dot(squares, squares))
    return fourth / flat.size / (np.sqrt(second / flat.size) + 1e-8) ** 4


def report(found: Mapping[str, float], kinds: Mapping[str, str]) -> str:
    """Lines `name kurtosis type`, the heaviest tails first. `kinds`: op types such as top.Conv by layer name."""
    lines = sorted(found.items(), key=lambda item: -item[1])
    return (
        "\n".join(["op_name kurtosis op_type", *(f"{name} {value:.6f} {kinds[name].removeprefix('top.')}" for name, value in lines)]) + "\n"
    )
