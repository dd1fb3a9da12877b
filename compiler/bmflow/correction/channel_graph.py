"""Which channels of which feature maps must share a scale when channels are scaled one by one.

A convolution can take any scale of its input channels into its weights and give its output channels any scale; so can SiLU and
Sigmoid in a table per channel. Pools, Upsample, Concat and Add hand scales on, so the channels they connect form one class. All else
(reshapes, outputs, inputs, products) fixes its channels at 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.elementwise import TopAddOp, TopReluOp, TopSigmoidOp, TopSiLUOp
from bmflow.dialects.top.pool import TopAvgPoolOp, TopMaxPoolOp
from bmflow.dialects.top.shape import TopConcatOp, TopUpsampleOp
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.structure import TopInputOp, TopWeightOp
from bmflow.ir.types import is_none, shape_of
from bmflow.ir.values import SSAValue
from bmflow.passes.rewrite import users

Classes = NDArray[np.int64]
ACTIVATIONS: dict[type, str] = {TopSiLUOp: "SILU", TopSigmoidOp: "SIGMOID"}
"""Ops that can take a scale per channel on both sides, and what the scaled form calls them."""
_KEEPERS = (TopMaxPoolOp, TopAvgPoolOp, TopUpsampleOp)


class ChannelGraph:
    """Classes of channels: `classes(value)` gives one number per channel, equal numbers share a scale; `fixed` ones stay at 1."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self._parent: list[int] = []
        self._fixed: set[int] = set()
        self._first: dict[str, int] = {}
        for op in module.layers():
            self._add(op)
        for value in module.outputs:
            self._fix(value)

    def classes(self, value: SSAValue) -> Classes:
        """Class of every channel of a feature map."""
        return np.array([self._find(member) for member in self._members(value)], np.int64)

    def fixed(self, value: SSAValue) -> NDArray[np.bool_]:
        """Which channels must keep their scale."""
        roots = {self._find(member) for member in self._fixed}
        return np.array([root in roots for root in self.classes(value)], np.bool_)

    def _members(self, value: SSAValue) -> range:
        name = layer_name(value)
        if name not in self._first:
            self._first[name] = len(self._parent)
            shape = shape_of(value)
            self._parent += range(len(self._parent), len(self._parent) + (shape[1] if len(shape) == 4 else 1))
            if len(shape) != 4:
                self._fixed.add(self._first[name])
        first = self._first[name]
        shape = shape_of(value)
        return range(first, first + (shape[1] if len(shape) == 4 else 1))

    def _add(self, op: LayerOp) -> None:
        result, operands = op.results[0], [value for value in op.operands if _is_map(value)]
        match op:
            case TopInputOp():
                self._fix(result)
            case TopConvOp() if clamps_above(op):
                self._fix(result)
            case TopConvOp():
                pass
            case TopSiLUOp() if is_argument(op.input):
                pass
            case TopSigmoidOp() if is_argument(op.input):
                self._fix(result)
            case TopAddOp() if len(operands) == len(op.operands) and not clamps_above(op) and _same_shapes(op):
                self._tie(result, operands)
            case TopConcatOp() if op["axis"] == 1 and len(shape_of(result)) == 4 and not clamps_above(op):
                self._join(result, operands)
            case _ if isinstance(op, _KEEPERS) and not clamps_above(op):
                self._tie(result, operands)
            case TopReluOp() if float(op["relu_limit"]) <= 0:  # pyright: ignore[reportArgumentType]
                self._tie(result, operands)
            case _:
                for value in (result, *operands):
                    self._fix(value)
        if isinstance(op, TopConvOp) and not isinstance(op.filter.owner, TopWeightOp):
            self._fix(op.input)

    def _tie(self, result: SSAValue, operands: Sequence[SSAValue]) -> None:
        for value in operands:
            for a, b in zip(self._members(result), self._members(value), strict=True):
                self._union(a, b)

    def _join(self, result: SSAValue, operands: Sequence[SSAValue]) -> None:
        if any(isinstance(value.owner, TopWeightOp) for value in operands):
            for value in (result, *operands):
                self._fix(value)
            return
        parts = [member for value in operands for member in self._members(value)]
        for a, b in zip(self._members(result), parts, strict=True):
            self._union(a, b)

    def _fix(self, value: SSAValue) -> None:
        if _is_map(value):
            self._fixed.update(self._members(value))

    def _find(self, member: int) -> int:
        while self._parent[member] != member:
            self._parent[member] = self._parent[self._parent[member]]
            member = self._parent[member]
        return member

    def _union(self, a: int, b: int) -> None:
        self._parent[self._find(a)] = self._find(b)


def is_argument(value: SSAValue) -> bool:
    """Whether a feature map is the plain result of a convolution that one activation reads and nobody else."""
    owner, readers = value.owner, users(value)
    plain = isinstance(owner, TopConvOp) and not owner["do_relu"] and isinstance(owner.filter.owner, TopWeightOp)
    return plain and len(shape_of(value)) == 4 and len(readers) == 1 and type(readers[0]) in ACTIVATIONS


def clamps_above(op: LayerOp) -> bool:
    """Whether a fused relu has an upper limit, which a scale per channel would move."""
    settings = op.settings()
    return bool(settings.get("do_relu")) and float(settings["relu_limit"]) > 0  # pyright: ignore[reportArgumentType]


def is_depthwise(op: TopConvOp) -> bool:
    """Whether every output channel reads one input channel of its own number."""
    return op["group"] == shape_of(op.input)[1] == shape_of(op.output)[1]


def _is_map(value: SSAValue) -> bool:
    return not is_none(value) and not isinstance(value.owner, TopWeightOp)


def _same_shapes(op: LayerOp) -> bool:
    return len({shape_of(value) for value in (*op.operands, *op.results)}) == 1
