"""Recognize the "focus" of detectors: four slices with stride 2, joined along the channels, read by a convolution.

Where the order of the slices is not row by row (yolox: column by column), the input channels of the convolution are
reordered instead, and the op is named `<concat>_r_Depth2Space`, because its values are not those of the Concat any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.shape import TopConcatOp, TopDepth2SpaceOp, TopSliceOp
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.ir.structure import TopWeightOp
from bmflow.ir.types import DType, shape_of
from bmflow.passes.rewrite import Rewrite, erase, insert_before, is_dead, producer, replace, single_user, users

_ROW_MAJOR = [0, 1, 2, 3]


@dataclass(frozen=True)
class FuseFocusIntoDepth2Space(Rewrite):
    """Conv(Concat(x[::2, ::2], x[::2, 1::2], x[1::2, ::2], x[1::2, 1::2])) -> Conv(Depth2Space(x, inversed))."""

    pattern: ClassVar = (TopConcatOp,)

    def check(self, op: LayerOp, module: Module) -> str:
        """See `Rewrite.check`."""
        slices = [producer(value) for value in op.operands]
        if len(slices) != 4 or not all(isinstance(part, TopSliceOp) for part in slices):
            return "it does not join four slices"
        if op["axis"] != 1 or op["do_relu"]:
            return "it joins along another axis than the channels, or has a relu"
        if any(part.operands[0] is not slices[0].operands[0] for part in slices if part and slices[0]):
            return "its slices are cut from different tensors"
        order = _quadrants(op)
        if sorted(order) != _ROW_MAJOR:
            return "its slices are not the four quadrants of a stride of 2"
        return _check_reader(op, order)

    def rewrite(self, op: LayerOp, module: Module) -> None:
        """See `Rewrite.rewrite`."""
        order = _quadrants(op)
        (conv,) = users(op.results[0])
        name = op.layer_name
        if order != _ROW_MAJOR:
            assert isinstance(conv, TopConvOp)
            _reorder_filter(module, conv, order)
            name = f"{name}_r_Depth2Space"
        settings = {"block_h": 2, "block_w": 2, "is_CRD": False, "is_inversed": True, "swap_cr": False}
        first = producer(op.operands[0])
        assert first is not None
        focus = TopDepth2SpaceOp.make(name, [first.operands[0]], op.results[0].type, settings)
        replace(op, insert_before(op, focus).results[0])


def _quadrants(op: LayerOp) -> list[int]:
    """2 * row + column of the quadrant each operand takes; -1 for another slice."""
    result = []
    for value in op.operands:
        part = producer(value)
        assert isinstance(part, TopSliceOp)
        shape = shape_of(part.input)
        offset = part.ints("offset")
        strided = len(shape) == 4 and part.ints("steps") == [1, 1, 2, 2] and offset[:2] == [0, 0] and max(offset) < 2
        halved = strided and shape_of(value) == (shape[0], shape[1], shape[2] // 2, shape[3] // 2) and shape[2] % 2 == shape[3] % 2 == 0
        result.append(2 * offset[2] + offset[3] if halved else -1)
    return result


def _check_reader(op: LayerOp, order: list[int]) -> str:
    if reason := single_user(op.results[0]):
        return reason
    (conv,) = users(op.results[0])
    if not isinstance(conv, TopConvOp) or conv.input is not op.results[0]:
        return "its reader is no convolution"
    if order != _ROW_MAJOR and (conv["group"] != 1 or not isinstance(producer(conv.filter), TopWeightOp)):
        return f"the filter of {conv.layer_name} is grouped or not constant, so its channels cannot be reordered"
    return ""


def _reorder_filter(module: Module, conv: TopConvOp, order: list[int]) -> None:
    """Sort the four blocks of input channels by quadrant."""
    old = producer(conv.filter)
    blocks = np.split(module.weight(conv.filter), 4, axis=1)
    reordered = np.concatenate([blocks[order.index(quadrant)] for quadrant in range(4)], axis=1)
    conv.operands[1] = module.new_weight(f"{conv.layer_name}_filter_S2D", reordered, DType.F32, conv)
    if old is not None and is_dead(old):
        erase(old)
