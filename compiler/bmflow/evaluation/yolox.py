"""YOLOX: one output of undecoded boxes with scores already through the sigmoid.

Source of the decode: Megvii YOLOX, export without decode_in_inference.
"""

from __future__ import annotations

import numpy as np

from bmflow.evaluation.detections import Detections
from bmflow.evaluation.yolov5 import pick_classes

STRIDES = (8, 16, 32)


def cells_of(net_size: tuple[int, int]) -> int:
    """Number of grid cells over the three strides: the rows of a YOLOX output."""
    return sum((net_size[0] // stride) * (net_size[1] // stride) for stride in STRIDES)


def decode(output: np.ndarray, net_size: tuple[int, int], floor: float, every_class: bool) -> Detections:
    """Turn the output (1, cells, 5 + classes) into boxes in network pixels: xy = (v + grid) * stride, wh = exp(v) * stride."""
    grid, stride = _grid(net_size)
    rows = output[0].astype(np.float32)
    keep = rows[:, 4] > floor
    rows, grid, stride = rows[keep], grid[keep], stride[keep]
    xy = (rows[:, 0:2] + grid) * stride
    wh = np.exp(rows[:, 2:4]) * stride
    boxes = np.concatenate([xy - wh / 2, xy + wh / 2], 1).astype(np.float32)
    return Detections(*pick_classes(boxes, rows[:, 4:5] * rows[:, 5:], floor, every_class))


def _grid(net_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    grids, strides = [], []
    for stride in STRIDES:
        ny, nx = net_size[0] // stride, net_size[1] // stride
        y, x = np.mgrid[0:ny, 0:nx]
        grids.append(np.stack([x, y], 2).reshape(-1, 2))
        strides.append(np.full((ny * nx, 1), stride))
    return np.concatenate(grids).astype(np.float32), np.concatenate(strides).astype(np.float32)
