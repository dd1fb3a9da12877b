"""Which cells answer for which box, and how wrong they are.

Matching: an anchor answers for a box whose width and height differ from its own by less than MOST_RATIO; the cell that holds the
box's centre answers, and the neighbour to its left or right and above or below that is nearer to the centre (so that a centre
on a cell's edge is everybody's). Box: complete IoU, arXiv 1911.08287 section 4. Objectness: binary cross entropy
with the IoU reached as its target. Classes: binary cross entropy of each.
"""

# pyright: reportMissingImports=false
# (PyTorch and matplotlib belong to the extra `train`)

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

MOST_RATIO = 4.0
BOX, OBJECTNESS, CLASS = 1.0, 5.0, 0.75  # weights of the three terms
BALANCE = (4.0, 1.0, 0.4)  # objectness by stride: most cells of the fine map are empty


@dataclass(frozen=True)
class Matches:
    """For one map: picture, anchor, row and column (k) of each answering cell; its box (k, 4) as centre relative to the cell, width and
    height, in grid units; its class (k)."""

    picture: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    box: Tensor
    kind: Tensor


def match(boxes: Tensor, anchors: Tensor, stride: int, ny: int, nx: int) -> Matches:
    """Find the answering cells of one map.

    Args:
        boxes: (k, 6) picture, class, centre x, y, width, height in pixels.
        anchors: (3, 2) width, height in grid units.
    """
    box = boxes[:, 2:] / stride
    ratio = box[:, None, 2:] / anchors[None]
    close = torch.maximum(ratio, 1 / ratio).amax(2) < MOST_RATIO
    row_of_box, anchor = close.nonzero(as_tuple=True)
    picture, kind, box = boxes[row_of_box, 0].long(), boxes[row_of_box, 1].long(), box[row_of_box]

    x, y = box[:, 0], box[:, 1]
    here = torch.stack([x.floor(), y.floor()], 1)
    side = torch.where(x % 1 < 0.5, -1.0, 1.0), torch.where(y % 1 < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(x)
    cells = torch.cat([here, here + torch.stack([side[0], zero], 1), here + torch.stack([zero, side[1]], 1)])
    picture, kind, anchor, box = picture.repeat(3), kind.repeat(3), anchor.repeat(3), box.repeat(3, 1)

    inside = (cells[:, 0] >= 0) & (cells[:, 1] >= 0) & (cells[:, 0] < nx) & (cells[:, 1] < ny)
    cells = cells[inside]
    box = torch.cat([box[inside, :2] - cells, box[inside, 2:]], 1)
    return Matches(picture[inside], anchor[inside], cells[:, 1].long(), cells[:, 0].long(), box, kind[inside])


def complete_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU less the distance of the centres and the difference of the shapes, of boxes (k, 4) as centre x, y, width, height; -1.5 .. 1.

    CIoU = IoU - d^2 / c^2 - alpha v, v = 4 / pi^2 (atan w/h - atan w'/h')^2, alpha = v / (1 - IoU + v), c: diagonal of the enclosing box.
    """
    a_low, a_high, b_low, b_high = a[:, :2] - a[:, 2:] / 2, a[:, :2] + a[:, 2:] / 2, b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2
    inside = (torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).clamp(0).prod(1)
    iou = inside / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - inside + 1e-7)
    diagonal = (torch.maximum(a_high, b_high) - torch.minimum(a_low, b_low)).square().sum(1) + 1e-7
    distance = (a[:, :2] - b[:, :2]).square().sum(1)
    shape = 4 / math.pi**2 * (torch.atan(b[:, 2] / (b[:, 3] + 1e-7)) - torch.atan(a[:, 2] / (a[:, 3] + 1e-7))).square()
    with torch.no_grad():
        alpha = shape / (1 - iou + shape + 1e-7)
    return iou - distance / diagonal - alpha * shape


@dataclass(frozen=True)
class Loss:
    """The three terms, weighted (scalars with gradients)."""

    box: Tensor
    objectness: Tensor
    kind: Tensor

    @property
    def total(self) -> Tensor:
        """Their sum."""
        return self.box + self.objectness + self.kind


def loss(cells: Sequence[Tensor], boxes: Tensor, anchors: Sequence[Tensor], strides: Sequence[int]) -> Loss:
    """Compare the maps with the annotated boxes.

    Args:
        cells: for each stride (n, 3, ny, nx, 5 + classes), raw.
        boxes: (k, 6) picture 0..n-1, class, centre x, y, width, height in pixels.
        anchors: for each stride (3, 2) in grid units.
    """
    box, objectness, kind = cells[0].new_zeros(()), cells[0].new_zeros(()), cells[0].new_zeros(())
    for raw, sizes, stride, balance in zip(cells, anchors, strides, BALANCE, strict=True):
        found = match(boxes, sizes, stride, raw.shape[2], raw.shape[3])
        target = torch.zeros_like(raw[..., 4])
        if len(found.kind):
            answer = raw[found.picture, found.anchor, found.row, found.column]
            squashed = answer[:, :4].sigmoid()
            guess = torch.cat([squashed[:, :2] * 2 - 0.5, (squashed[:, 2:] * 2) ** 2 * sizes[found.anchor]], 1)
            quality = complete_iou(guess, found.box)
            box = box + (1 - quality).mean()
            order = quality.detach().argsort()  # where two boxes share a cell, the better one is written last
            at = found.picture[order], found.anchor[order], found.row[order], found.column[order]
            target[at] = quality.detach().clamp(0)[order]
            wanted = functional.one_hot(found.kind, raw.shape[4] - 5).to(raw.dtype)
            kind = kind + functional.binary_cross_entropy_with_logits(answer[:, 5:], wanted)
        objectness = objectness + balance * functional.binary_cross_entropy_with_logits(raw[..., 4], target)
    return Loss(BOX * box, OBJECTNESS * objectness, CLASS * kind)
