"""Integer ops in Python's unlimited integers, and windows in plain numpy: a slow meaning of each op, written from its formula."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from bmflow.ir.types import DType


def half_up(values: np.ndarray, shift: int) -> np.ndarray:
    """values / 2^shift, ties upwards; object array of Python integers in, the same out."""
    v = values.astype(object)
    return v << -shift if shift < 0 else (v + (1 << shift >> 1)) >> shift


def half_away(values: np.ndarray, shift: int) -> np.ndarray:
    """values / 2^shift, ties away from zero."""
    v = values.astype(object)
    return np.where(v < 0, -half_up(-v, shift), half_up(v, shift))


def saturate(values: np.ndarray, dtype: DType, zero: int = 0, relu: bool = False) -> np.ndarray:
    """Add the zero point and clamp to the type, below at the zero point for relu."""
    low, high = dtype.limits
    return np.clip(values + zero, zero if relu else low, high).astype(dtype.numpy)


def windows(
    x: np.ndarray, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int] = (1, 1), fill: float = 0
) -> np.ndarray:
    """(n, c, oh, ow, kh, kw) windows of x (n, c, h, w)."""
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=fill)
    views = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=(2, 3))
    return views[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def conv(x: np.ndarray, w: np.ndarray, group: int, **window: object) -> np.ndarray:
    """Sum of products, in the type of x (int64 or float64)."""
    views = windows(x, w.shape[2:], **window)  # pyright: ignore[reportArgumentType]
    parts = zip(np.split(views, group, axis=1), np.split(w, group, axis=0), strict=True)
    return np.concatenate([np.einsum("nchwij,ocij->nohw", a, f) for a, f in parts], axis=1)
