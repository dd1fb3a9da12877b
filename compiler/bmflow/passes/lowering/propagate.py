"""Make ranges agree along the network, so that as few values as possible change their scale (quantization notes, 6.2).

Every rule looks at an op and its neighbours only; a rule that carries ranges forward sweeps in program order, one that carries
them backward in reverse, and so one sweep reaches the fixed point.
"""

from __future__ import annotations

from collections.abc import Sequence

from bmflow.dialects.top.elementwise import TopAddOp, TopMulOp, TopReluOp
from bmflow.dialects.top.pool import TopAvgPoolOp, TopMaxPoolOp
from bmflow.dialects.top.shape import TopConcatOp, TopDepth2SpaceOp, TopPermuteOp, TopReshapeOp
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.values import SSAValue
from bmflow.passes.lowering.ranges import COPIES, Interval, Ranges
from bmflow.passes.memory.lifetimes import is_activation
from bmflow.passes.rewrite import producer, users

_VIEWS = (TopReshapeOp, TopPermuteOp)
_PUSHED_THROUGH = (TopReshapeOp, TopPermuteOp, TopDepth2SpaceOp)
_TAKES_RESULT_RANGE = (TopReluOp, TopMaxPoolOp, TopDepth2SpaceOp)
SLIGHTLY_NEGATIVE = -0.1
"""A result that has to become signed gets this part of its upper end as its lower end."""


def propagate(module: Module, imported: Ranges) -> Ranges:
    """Return the ranges every layer is quantized with.

    Requires: a top module. Ensures: results of `COPIES` have the range of their input; signs of inputs and results match where
    the integer form needs it.
    """
    ops, ranges = list(module.layers()), dict(imported)
    _copy_forward(ops, ranges, _VIEWS)
    _keep_signs(module, ranges, with_products=True)
    for op in reversed(ops):
        if isinstance(op, TopConcatOp):
            _join_concat(op, ranges)
    for op in reversed(ops):
        if isinstance(op, _TAKES_RESULT_RANGE) and len(users(op.operands[0])) == 1:
            _push(op.operands[0], ranges.get(op.layer_name), ranges)
    for op in reversed(ops):
        if isinstance(op, TopAddOp):
            _join_products(op, ranges)
    _copy_forward(ops, ranges, COPIES)
    _keep_signs(module, ranges, with_products=False)
    return ranges


def activations(op: LayerOp) -> list[SSAValue]:
    """Operands that other layers make, neither constants nor absent."""
    return [value for value in op.operands if is_activation(value) and producer(value) is not None]


def _copy_forward(ops: Sequence[LayerOp], ranges: Ranges, kinds: tuple[type[LayerOp], ...]) -> None:
    for op in ops:
        if isinstance(op, kinds) and (source := ranges.get(layer_name(op.operands[0]))):
            ranges[op.layer_name] = source


def _push(value: SSAValue, interval: Interval | None, ranges: Ranges) -> None:
    """Give a value a range, and the value behind it too where only a view lies between."""
    if interval is None or not is_activation(value):
        return
    ranges[layer_name(value)] = interval
    source = producer(value)
    if isinstance(source, _PUSHED_THROUGH) and len(users(source.operands[0])) == 1:
        ranges[layer_name(source.operands[0])] = interval


def _keep_signs(module: Module, ranges: Ranges, with_products: bool) -> None:
    """Pools have the sign of their input, products that of a factor; a sum of what is never negative is not either."""
    for op in module.layers():
        result = ranges.get(op.layer_name)
        if result is None or any(layer_name(value) not in ranges for value in activations(op)):
            continue
        if isinstance(op, TopAvgPoolOp | TopMaxPoolOp):
            signed = _is_signed(op.operands[0], 1.0, module, ranges)
        elif isinstance(op, TopAddOp):
            terms = zip(op.operands, coefficients(op), strict=True)
            signed = result.signed and any(_is_signed(value, coefficient, module, ranges) for value, coefficient in terms)
        elif isinstance(op, TopMulOp) and with_products:
            signed = result.signed or all(_is_signed(value, 1.0, module, ranges) for value in op.operands)
        else:
            continue
        if signed != result.signed:
            ranges[op.layer_name] = Interval(SLIGHTLY_NEGATIVE * result.high if signed else 0.0, result.high)


def _is_signed(value: SSAValue, factor: float, module: Module, ranges: Ranges) -> bool:
    """Whether factor * value may be negative."""
    if not is_activation(value):
        return bool((module.weight(value) * factor).min() < 0)
    return factor < 0 or ranges[layer_name(value)].signed


def coefficients(op: LayerOp) -> list[float]:
    """Factors of the terms of an Add."""
    given = op["coeff"]
    assert isinstance(given, list)
    return [float(value) for value in given] if given else [1.0] * len(op.operands)  # pyright: ignore[reportArgumentType]


def _join_concat(op: TopConcatOp, ranges: Ranges) -> None:
    """One range for a concatenation and inputs that nobody else reads (a MaxPool may), provided they have one sign."""
    inputs = [ranges.get(layer_name(value)) for value in activations(op)]
    result, known = ranges.get(op.layer_name), [interval for interval in inputs if interval]
    if result is None or not known or len(known) < len(op.operands) or not all(_read_here_only(value, op) for value in op.operands):
        return
    if len({interval.signed for interval in known}) > 1:
        return
    if len(set(known)) == 1:
        ranges[op.layer_name] = known[0]
        return
    for value in op.operands:
        _push(value, result, ranges)


def _read_here_only(value: SSAValue, op: LayerOp) -> bool:
    return all(user is op or isinstance(user, TopMaxPoolOp) for user in users(value))


def _join_products(op: TopAddOp, ranges: Ranges) -> None:
    """A sum of products that nobody else reads gives them its range."""
    if all(isinstance(producer(value), TopMulOp) and len(users(value)) == 1 for value in op.operands):
        for value in op.operands:
            _push(value, ranges.get(op.layer_name), ranges)
