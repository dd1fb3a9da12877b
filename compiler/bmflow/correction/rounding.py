"""What 8 bits leave of numbers, as lowered matrix products store them: symmetric, one step for a whole tensor.

For estimates: halves go to even here, and numbers may be float32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bmflow.ir.types import DType

Reals = NDArray[np.floating]


def round_activation(x: Reals, low: float, high: float) -> Reals:
    """Real values after 8 bits over low..high; unsigned where nothing is negative."""
    lowest, highest = (-128, 127) if low < 0 else (0, 255)
    step = max(-low, high) / highest or 1.0
    return np.clip(np.rint(x / step), lowest, highest) * step


def round_weights(weights: Reals) -> Reals:
    """The weights of one matrix after 8 bits."""
    step = float(np.abs(weights).max()) / DType.I8.limits[1] or 1.0
    return np.rint(weights / step) * step
