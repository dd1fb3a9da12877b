"""Where the channels of one value go: through what only moves values, and through attention, which mixes tokens but no channels.

Every element of a value carries the number of the channel it belongs to. Ops that move values move the numbers along, so that what a
Reshape into heads and a Permute do to channels need not be understood, only done. Where all tokens of a MatMul's input carry the same
numbers in the same places, its rows take any scale of these channels; whatever else reads a channel fixes it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bmflow.correction.channel_graph import clamps_above
from bmflow.dialects.top.elementwise import TopMulOp, TopReluOp
from bmflow.dialects.top.matmul import TopMatMulOp
from bmflow.dialects.top.shape import TopConcatOp, TopPermuteOp, TopReshapeOp, TopSliceOp
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.ir.structure import TopWeightOp
from bmflow.ir.types import is_none, shape_of
from bmflow.ir.values import Operation, SSAValue

Numbers = NDArray[np.int32]


@dataclass(frozen=True)
class Leaf:
    """A MatMul with constant right operand and the channel that each of its rows reads."""

    op: TopMatMulOp
    channels: Numbers


@dataclass
class Flow:
    """What became of the channels: MatMuls whose rows take their scales, and the channels that other readers fix at 1."""

    leaves: list[Leaf] = field(default_factory=list[Leaf])
    fixed: set[int] = field(default_factory=set[int])


def follow(module: Module, source: SSAValue, readers: Collection[Operation] | None = None, channels: Numbers | None = None) -> Flow:
    """Follow the channels of a value; with `readers` only into these of its readers.

    Args:
        channels: which channel every element belongs to, of a shape that broadcasts to the value's; by default the last axis counts them.
    """
    flow, numbers = Flow(), dict[SSAValue, Numbers]()
    channels = np.arange(shape_of(source)[-1], dtype=np.int32) if channels is None else channels
    numbers[source] = np.broadcast_to(channels, shape_of(source))
    for op in module.layers():  # program order: what an op reads has its numbers before the op is met
        taken = [value for value in op.operands if value in numbers and (value is not source or readers is None or op in readers)]
        if taken:
            _step(op, numbers, flow)
    for value in module.outputs:
        if value in numbers and (value is not source or readers is None):
            _fix(numbers[value], flow)
    return flow


def is_constant_product(op: Operation) -> bool:
    """Whether an op is a MatMul by a constant matrix (k, n), or (n, k) with right_transpose."""
    return isinstance(op, TopMatMulOp) and isinstance(op.right.owner, TopWeightOp) and len(shape_of(op.right)) == 2 and is_plain(op)


def rows_of(op: TopMatMulOp, module: Module) -> NDArray[np.float64]:
    """The constant right operand as (k, n), whichever way it is stored."""
    right = module.weight(op.right).astype(np.float64)
    return right.T if op["right_transpose"] else right


def _step(op: LayerOp, numbers: dict[SSAValue, Numbers], flow: Flow) -> None:
    known = [numbers[value] for value in op.operands if value in numbers]
    moved = _moved(op, numbers)
    if moved is not None:
        numbers[op.results[0]] = moved
    elif is_constant_product(op) and op.operands[0] in numbers and (row := _same_for_all_tokens(known[0])) is not None:
        assert isinstance(op, TopMatMulOp)
        flow.leaves.append(Leaf(op, row))
    else:
        for one in known:
            _fix(one, flow)


def _moved(op: LayerOp, numbers: dict[SSAValue, Numbers]) -> Numbers | None:
    """The numbers of an op's result, where it keeps channels apart and any scale of theirs; else None."""
    first = numbers.get(op.operands[0])
    match op:
        case TopReshapeOp() if first is not None:
            return first.reshape(shape_of(op.output))
        case TopPermuteOp() if first is not None:
            return first.transpose(op.ints("order"))
        case TopSliceOp() if first is not None:
            return first[tuple(map(slice, op.ints("offset"), op.ints("ends"), op.ints("steps")))]
        case TopReluOp() if first is not None and float(op["relu_limit"]) <= 0:  # pyright: ignore[reportArgumentType]
            return first
        case TopConcatOp() if all(value in numbers for value in op.operands) and not clamps_above(op):
            return np.concatenate([numbers[value] for value in op.operands], int(op["axis"]))  # pyright: ignore[reportArgumentType]
        case TopMulOp() if not clamps_above(op):
            return _scaled(op, numbers)
        case TopMatMulOp() if not is_constant_product(op):
            return _mixed(op, numbers)
        case _:
            return None


def _scaled(op: TopMulOp, numbers: dict[SSAValue, Numbers]) -> Numbers | None:
    """A product with constants leaves channels where they are."""
    others = [value for value in op.operands if value not in numbers]
    if len(others) != len(op.operands) - 1 or not all(isinstance(value.owner, TopWeightOp) for value in others):
        return None
    (only,) = (numbers[value] for value in op.operands if value in numbers)
    return only if only.shape == shape_of(op.output) else None


def _mixed(op: TopMatMulOp, numbers: dict[SSAValue, Numbers]) -> Numbers | None:
    """Attention: probabilities (m, tokens) times values (tokens, channels) mix tokens only."""
    values = numbers.get(op.right)
    if values is None or op.input in numbers or not is_none(op.bias) or not is_plain(op) or clamps_above(op):
        return None
    values = np.swapaxes(values, -1, -2) if op["right_transpose"] else values
    if (values != values[..., :1, :]).any():
        return None
    return np.broadcast_to(values[..., :1, :], shape_of(op.output))


def is_plain(op: TopMatMulOp) -> bool:
    """Whether a MatMul is a product as it stands, but for right_transpose."""
    flags = ("left_transpose", "output_transpose", "hdim_is_batch")
    return not any(op[name] for name in flags) and bool(op["keep_dims"])


def _same_for_all_tokens(numbers: Numbers) -> Numbers | None:
    flat = numbers.reshape(-1, numbers.shape[-1])
    return flat[0] if (flat == flat[0]).all() else None


def _fix(numbers: Numbers, flow: Flow) -> None:
    flow.fixed.update(np.unique(numbers).tolist())
