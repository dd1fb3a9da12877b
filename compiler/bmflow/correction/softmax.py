"""--smc: let the probabilities of attention use all of their 8 bits.

    MatMul(Softmax(x), v)  ->  Mul(MatMul(Mul(Softmax(x), 1 / s), v), s)        s per head

The second Mul goes into the rows of the matrix products that read the heads, where nothing else does: our own addition, which saves a
rounding.

A Softmax is 0..1 whatever it holds, but over many tokens all probabilities are small: of 197 alike ones each is 1.3 steps of 1/255. s is
the mean over rows and samples of the largest probability of a row (quantization notes, 3), or a multiple of it: what lies above it is
clipped. Ours is that the multiple, one s per head or one for all, and whether any of it pays, are decided by the error of the 8-bit
product on samples. It pays because the first Mul is computed in float like the Softmax before it (`passes.lowering.modes`); in 8 bits
it would scale what has been rounded already.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bmflow.correction.channel_flow import Leaf, follow, is_plain
from bmflow.correction.channel_graph import clamps_above
from bmflow.correction.for_int8 import drop_for_int8
from bmflow.correction.gain import Gain
from bmflow.correction.rounding import round_activation
from bmflow.dialects.top.elementwise import TopMulOp, TopSoftmaxOp
from bmflow.dialects.top.matmul import TopMatMulOp
from bmflow.ir.layer import layer_name, set_layer_name
from bmflow.ir.module import Module
from bmflow.ir.structure import TopWeightOp
from bmflow.ir.types import DType, is_none, shape_of
from bmflow.ir.values import SSAValue
from bmflow.kernels import Executable
from bmflow.passes.rewrite import free_name, insert_before, insert_behind, producer

Reals = NDArray[np.floating]
MULTIPLES = (1.0, 1.5, 2.0, 3.0, 4.0)
LEAST_GAIN = 0.3
"""Part of the error of a product that the Muls must take away to be worth their time."""
KEPT = 4
"""Samples of which rows are kept, evenly likely over all, however many there are."""
ENDING = "scaled"
LEAST = 1e-30
ROWS = 64
"""Rows of probabilities kept of each head and sample."""


@dataclass(frozen=True)
class HeadGain(Gain):
    """Of one product; `scales` are the s of its heads."""

    scales: tuple[float, ...]


@dataclass
class Corrected:
    """The rewritten module, what was won by each Softmax, and those that were left because they would win too little."""

    module: Module
    gains: dict[str, HeadGain] = field(default_factory=dict[str, HeadGain])
    left: list[str] = field(default_factory=list[str])


def correct_softmaxes(module: Module, samples: Iterable[Mapping[str, np.ndarray]], threads: int = 2) -> Corrected:
    """Scale the probabilities in front of matrix products; `module` is a top module and is left as it is.

    Args:
        samples: network inputs by name, at least one; looked at once, and not at all where there is no such product.
    """
    result = Corrected(module.clone())
    points = {layer_name(op.output): _Attention(op, result.module) for op in _points(result.module)}
    if points:
        _gather(result.module, points, samples, threads)
    for attention in points.values():
        _treat(attention, result)
    result.module.op.verify()
    return result


def correctable(module: Module) -> list[str]:
    """The Softmaxes over the last of three or four dimensions that feed a product with something computed."""
    return list(dict.fromkeys(layer_name(op.input) for op in _points(module)))


def can_be_corrected(module: Module) -> bool:
    """Whether a network has such a Softmax."""
    return bool(correctable(module))


def _points(module: Module) -> Iterator[TopMatMulOp]:
    for op in module.layers():
        if isinstance(op, TopMatMulOp) and _reads_probabilities(op) and is_none(op.bias) and is_plain(op) and not clamps_above(op):
            yield op


def _reads_probabilities(op: TopMatMulOp) -> bool:
    """Whether its left operand is a Softmax over the tokens that its right operand, which is computed, has; such a Softmax is float."""
    source, rank = producer(op.input), len(shape_of(op.input))
    over_tokens = isinstance(source, TopSoftmaxOp) and rank in (3, 4) and source["axis"] == rank - 1 and not source["log"]
    return over_tokens and not isinstance(op.right.owner, TopWeightOp)


class _Attention:
    """What one product reads and gives over a set of samples: extremes of all, some rows of few. Probabilities are (..., heads, rows, tokens)."""

    def __init__(self, op: TopMatMulOp, module: Module) -> None:
        self.op = op
        heads = shape_of(op.input)[-3]
        self.names = {"p": layer_name(op.input), "v": layer_name(op.right), "y": op.layer_name}
        self.largest, self.count = np.zeros(heads), 0
        self.peak = np.zeros(heads)
        self.values = np.zeros(2)
        self.ends = np.zeros((2, heads))
        self.leaves = _leaves(op, module)
        self.kept: list[tuple[Reals, Reals]] = []
        self._generator = np.random.default_rng(0)

    def add(self, found: Mapping[str, np.ndarray]) -> None:
        """Take one sample into account."""
        p, v, y = (found[self.names[key]] for key in "pvy")
        rows = p.max(-1).reshape(-1, *p.shape[-3:-1])
        self.largest += rows.mean((0, 2))
        self.peak = np.maximum(self.peak, rows.max((0, 2)))
        self.count += 1
        self.values = np.array([min(self.values[0], float(v.min())), max(self.values[1], float(v.max()))])
        by_head = y.reshape(-1, *y.shape[-3:])
        self.ends = np.stack([np.minimum(self.ends[0], by_head.min((0, 2, 3))), np.maximum(self.ends[1], by_head.max((0, 2, 3)))])
        self._keep(p, v)

    def _keep(self, p: np.ndarray, v: np.ndarray) -> None:
        """Vitter 1985, "Random sampling with a reservoir", algorithm R, over samples."""
        place = len(self.kept) if len(self.kept) < KEPT else int(self._generator.integers(0, self.count))
        if place >= KEPT:
            return
        rows = np.sort(self._generator.choice(p.shape[-2], min(ROWS, p.shape[-2]), replace=False))
        values = np.swapaxes(v, -1, -2) if self.op["right_transpose"] else v
        self.kept[place : place + 1] = [(p[..., rows, :].astype(np.float64), values.astype(np.float64))]

    def candidates(self) -> Iterator[Reals]:
        """Scales worth trying, (heads)."""
        mean = self.largest / self.count
        for multiple in MULTIPLES:
            yield mean * multiple
            yield np.full_like(mean, mean.mean() * multiple)
        yield self.peak
        yield np.full_like(mean, self.peak.max())

    def error(self, scales: Reals | None) -> float:
        """Noise to signal of the product in 8 bits, with the probabilities as they are or divided by `scales`."""
        noise = power = 0.0
        for p, v in self.kept:
            exact = p @ v
            noise += float(np.square(self._product(p, v, scales) - exact).sum())
            power += float(np.square(exact).sum())
        return noise / max(power, LEAST)

    def _product(self, p: Reals, v: Reals, scales: Reals | None) -> Reals:
        v = round_activation(v, *self.values)
        low, high = self.ends
        if scales is None:
            return round_activation(round_activation(p, 0.0, 1.0) @ v, low.min(), high.max())
        by_head = scales[:, None, None]
        y = round_activation(round_activation(p / by_head, 0.0, 1.0) @ v, (low / scales).min(), (high / scales).max())
        return y * by_head if self.leaves else round_activation(y * round_activation(by_head, 0.0, scales.max()), low.min(), high.max())


def _gather(module: Module, points: Mapping[str, _Attention], samples: Iterable[Mapping[str, np.ndarray]], threads: int) -> None:
    names = dict.fromkeys(name for attention in points.values() for name in attention.names.values())
    executable = Executable(module, names, threads)
    for sample in samples:
        found = executable.run(sample)
        for attention in points.values():
            attention.add(found)
    assert all(attention.count for attention in points.values()), "no sample to look at"


def _treat(attention: _Attention, result: Corrected) -> None:
    name = attention.names["p"]
    as_it_is = attention.error(None)
    best = min(attention.candidates(), key=attention.error)
    after = attention.error(best)
    if after > (1 - LEAST_GAIN) * as_it_is:
        result.left.append(name)
        return
    result.gains[name] = HeadGain(as_it_is, after, tuple(best.tolist()))
    _divide_probabilities(attention.op, best, result.module)
    for leaf in attention.leaves:
        _multiply_rows(leaf, best, result.module)
    if not attention.leaves:
        _multiply_product(attention.op, best, result.module)


def _leaves(op: TopMatMulOp, module: Module) -> list[Leaf]:
    """The products by constants that read the heads, where nothing else reads any; `channels` are the heads their rows belong to."""
    heads = shape_of(op.output)[-3]
    flow = follow(module, op.output, channels=np.arange(heads, dtype=np.int32).reshape(heads, 1, 1))
    return [] if flow.fixed else flow.leaves


def _divide_probabilities(op: TopMatMulOp, scales: Reals, module: Module) -> None:
    name = free_name(f"{layer_name(op.input)}_{ENDING}", module)
    factor = _factor(op, f"{name}_factor", 1 / scales, module)
    op.operands[0] = insert_before(op, TopMulOp.make(name, [op.input, factor], op.input.type)).results[0]


def _multiply_rows(leaf: Leaf, scales: Reals, module: Module) -> None:
    op, rows = leaf.op, scales[leaf.channels]
    right = module.weight(op.right).astype(np.float64)
    drop_for_int8(module, op)
    scaled = (right * rows if op["right_transpose"] else right * rows[:, None]).astype(np.float32)
    op.operands[1] = module.new_weight(f"{op.layer_name}_{ENDING}_weight", scaled, DType.F32, op)


def _multiply_product(op: TopMatMulOp, scales: Reals, module: Module) -> None:
    """Put a Mul behind a product, which takes the name of the product, whose value it gives."""
    name = op.layer_name
    set_layer_name(op, free_name(f"{name}_{ENDING}", module))
    result = TopMulOp.make(name, [op.output, _factor(op, f"{name}_factor", scales, module)], op.output.type)
    insert_behind(op, result)
    for use in list(op.output.uses):
        if use.operation is not result:
            use.operation.operands[use.index] = result.output


def _factor(op: TopMatMulOp, name: str, scales: Reals, module: Module) -> SSAValue:
    shape = (len(scales), 1, 1) if len(shape_of(op.output)) == 3 else (1, len(scales), 1, 1)
    return module.new_weight(name, scales.astype(np.float32).reshape(shape), DType.F32, op)
