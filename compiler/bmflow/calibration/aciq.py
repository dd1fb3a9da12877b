"""The ACIQ thresholds: the best clipping of a Gaussian or a Laplacian that resembles one sample."""

from __future__ import annotations

import math

import numpy as np

GAUSS = {8: 3.92403337, 4: 2.55913642}
LAPLACE = {8: 9.89675982, 4: 5.02864014}


def gauss(low: float, high: float, elements: int, bits: int = 8) -> float:
    """alpha times the deviation of a Gaussian whose `elements` draws lie within [low, high]; 0 for fewer than two elements."""
    if elements < 2:
        return 0.0
    deviation = (high - low) * 0.175 * (1 + math.sqrt(math.pi * math.log(4))) / math.sqrt(2 * math.log(elements))
    return GAUSS[bits] * deviation


def laplace(values: np.ndarray, bits: int = 8) -> float:
    """beta times the mean distance of a float32 sample from its mean."""
    flat = values.reshape(-1)
    centred = flat - flat.mean(dtype=np.float64).astype(np.float32)
    np.abs(centred, out=centred)
    return LAPLACE[bits] * float(centred.mean(dtype=np.float64))
