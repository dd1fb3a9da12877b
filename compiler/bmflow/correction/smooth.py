"""--sq: SmoothQuant, which lets the weights of matrix products carry a part of the spread of what these read.

    MatMul(LayerNorm(x; g, b), W)  ->  MatMul(LayerNorm(x; g / s, b / s), s[k] * W[k, n])

A few channels that reach far make the steps of all others coarse; one scale per channel evens them out, and the float network stays the
same but for rounding. Other ops that can divide their channels serve as well: a Mul by constants, a MatMul by a constant, such as the
values of attention, whose channels come out of the mixing of tokens as they went in. A LayerNorm that others read, too, as a residual
sum does, gets a Mul of its own in front of the products. Source: Xiao et al. 2023, "SmoothQuant: Accurate and efficient post-training
quantization for large language models", equation 4; that scales are chosen by the error of the 8-bit products on samples, and the second
row of candidates, follow the quantization notes, 3. Ours are the errors of a lowered MatMul: one step for all weights of a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bmflow.correction.channel_flow import Flow, Leaf, follow, is_constant_product, rows_of
from bmflow.correction.channel_graph import clamps_above
from bmflow.correction.for_int8 import drop_for_int8
from bmflow.correction.gain import Gain
from bmflow.correction.product_rows import Halves, product_rows
from bmflow.correction.rounding import round_activation, round_weights
from bmflow.dialects.top.elementwise import TopMulOp
from bmflow.dialects.top.matmul import TopLayerNormOp, TopMatMulOp
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.structure import TopWeightOp
from bmflow.ir.types import DType, is_none, shape_of
from bmflow.passes.rewrite import free_name, insert_behind, replace, users

Reals = NDArray[np.floating]
BALANCES = tuple(np.arange(21) / 20)
CLIPS = tuple(np.arange(1, 21) / 20)
LEAST_GAIN = 0.02
"""Channels whose products would win less of their error stay as they are."""
LEAST_GAIN_OF_MUL = 0.5
"""What a Mul of its own must win to be worth its time."""
SILENT = 1e-4
"""A channel that reaches less than this share of the farthest counts as if it reached so far: the samples do not say how far it can."""
FAINT = 1e-3
"""A column weaker than this share of the mean power counts as if it had that power."""
ENDING = "smooth"


@dataclass(frozen=True)
class ChannelGain(Gain):
    """Of the products behind one layer; `farthest` of its channels over their median."""

    farthest: float


@dataclass
class Smoothed:
    """The rewritten module, what was won by the layers that were scaled, and those that were left because they would win too little."""

    module: Module
    gains: dict[str, ChannelGain] = field(default_factory=dict[str, ChannelGain])
    left: list[str] = field(default_factory=list[str])


def smooth(module: Module, samples: Iterable[Mapping[str, np.ndarray]], threads: int = 2) -> Smoothed:
    """Scale channels in front of matrix products; `module` is a top module and is left as it is.

    Args:
        samples: network inputs by name, at least one; looked at once, and not at all where there is no point to smooth.
    """
    return _Smoother(module.clone()).run(samples, threads)


def smoothable(module: Module) -> dict[str, NDArray[np.bool_]]:
    """The channels that could be divided for matrix products to multiply them, by the layer that computes them."""
    clone = module.clone()
    inserted = _insert_unit_products(clone)
    return {
        layer_name(point.source.operands[0]) if point.source in inserted else point.source.layer_name: point.free
        for point in _points(clone)
    }


def can_be_smoothed(module: Module) -> bool:
    """Whether a network has such channels."""
    return bool(smoothable(module))


@dataclass(frozen=True)
class _Point:
    """An op that can divide its channels, the MatMuls that multiply them again, and which channels only these read."""

    source: LayerOp
    leaves: tuple[Leaf, ...]
    free: NDArray[np.bool_]


@dataclass(frozen=True)
class _Tokens:
    """Tokens (rows, k), and the ends of the range of all that were seen."""

    values: Reals
    low: float
    high: float

    @property
    def stored(self) -> Reals:
        """The tokens after 8 bits."""
        return round_activation(self.values, self.low, self.high)


class _Smoother:
    def __init__(self, module: Module) -> None:
        self.module, self.result = module, Smoothed(module)
        self.inserted = _insert_unit_products(module)
        self.rows: dict[str, Halves] = {}
        self.applied: dict[str, Reals] = {}
        """By layer name: what its channels have been divided by since the rows were gathered."""
        self.exact: dict[tuple[object, ...], Reals] = {}

    def run(self, samples: Iterable[Mapping[str, np.ndarray]], threads: int) -> Smoothed:
        points = list(_points(self.module))
        names = {name for point in points for name in self._read(point)}
        self.rows = product_rows(self.module, names, samples, threads) if names else {}
        for point in points:
            self._treat(point)
        for op in self.inserted:  # only now: rows are known by what reads them
            replace(op, op.operands[0])
        self.module.op.verify()
        return self.result

    @staticmethod
    def _read(point: _Point) -> list[str]:
        """Values whose rows must be known."""
        sources = [point.source] if isinstance(point.source, TopMatMulOp) else []
        return [layer_name(op.input) for op in (*(leaf.op for leaf in point.leaves), *sources)]

    def _treat(self, point: _Point) -> None:
        """Take the scales that are best on one half of the samples, where they win enough on the other half."""
        name, costs = point.source.layer_name, point.source in self.inserted
        self.exact.clear()
        peak = self._peak(point)
        candidates = _candidates(peak, self._largest_weights(point), point.free)
        best = min(candidates, key=lambda scales: self._error(point, scales, 0), default=np.ones(len(peak)))
        as_it_is, after = self._error(point, np.ones(len(peak)), 1), self._error(point, best, 1)
        if after > (1 - (LEAST_GAIN_OF_MUL if costs else LEAST_GAIN)) * as_it_is:
            self.result.left.append(name.removesuffix(f"_{ENDING}") if costs else name)
            return
        self.inserted = [op for op in self.inserted if op is not point.source]
        known = peak[point.free & (peak > 0)]
        self.result.gains[name] = ChannelGain(as_it_is, after, float(known.max() / np.median(known)))
        self._divide(point.source, best)
        for leaf in point.leaves:
            self._multiply(leaf, best)
        for read, scales in {layer_name(leaf.op.input): best[leaf.channels] for leaf in point.leaves}.items():
            self.applied[read] = scales * self.applied.get(read, 1.0)

    def _peak(self, point: _Point) -> Reals:
        """How far each channel reaches where MatMuls read it."""
        peak = np.zeros(len(point.free))
        for leaf in point.leaves:
            name = layer_name(leaf.op.input)
            for rows in self.rows[name]:
                np.maximum.at(peak, leaf.channels, rows.peak / self.applied.get(name, 1.0))
        return peak

    def _largest_weights(self, point: _Point) -> Reals:
        """Largest magnitude among the weights that multiply each channel."""
        largest = np.zeros(len(point.free))
        for leaf in point.leaves:
            np.maximum.at(largest, leaf.channels, np.abs(rows_of(leaf.op, self.module)).max(1))
        return largest

    def _tokens(self, name: str, half: int, scales: Reals | float = 1.0) -> _Tokens:
        """Tokens of half of the samples as they would be divided by `scales`, too; the range is that of all samples."""
        halves, divisor = self.rows[name], self.applied.get(name, 1.0) * scales
        low, high = np.minimum(*(rows.low for rows in halves)) / divisor, np.maximum(*(rows.high for rows in halves)) / divisor
        return _Tokens((halves[half].kept / divisor).astype(np.float32), float(low.min()), float(high.max()))

    def _error(self, point: _Point, scales: Reals, half: int) -> float:
        """Noise to signal of all 8-bit products that the scales concern, one like the other, on half of the samples."""
        found = sum(self._error_of(leaf, scales, half) for leaf in point.leaves)
        return found + self._error_of_source(point, scales, half) if isinstance(point.source, TopMatMulOp) else found

    def _error_of(self, leaf: Leaf, scales: Reals, half: int) -> float:
        own = scales[leaf.channels]
        tokens, rows = self._tokens(layer_name(leaf.op.input), half, own), self._matrix(leaf.op)
        exact = self._exact((leaf.op, half), lambda: self._tokens(layer_name(leaf.op.input), half).values @ rows)
        return _noise(tokens.stored @ round_weights(rows * own[:, None].astype(np.float32)) - exact, exact)

    def _error_of_source(self, point: _Point, scales: Reals, half: int) -> float:
        """A source that is a MatMul has weights and a result of its own to round, seen through its leaves and, for other channels, as it is.

        What attention averages out on the way counts in full.
        """
        source = point.source
        assert isinstance(source, TopMatMulOp)
        tokens, columns, divisor = self._tokens(layer_name(source.input), half), self._matrix(source), scales.astype(np.float32)
        bias = np.zeros(1, np.float32) if is_none(source.bias) else self.module.weight(source.bias).reshape(-1)
        least = 0.0 if source["do_relu"] else -np.inf
        exact = self._exact((source, half), lambda: np.maximum(tokens.values @ columns + bias, least))
        found = np.maximum(tokens.stored @ round_weights(columns / divisor) + bias / divisor, least)
        ends = exact / divisor
        errors = round_activation(found, float(ends.min()), float(ends.max())) * divisor - exact
        noise = _noise(errors[:, ~point.free], exact[:, ~point.free])
        for leaf in point.leaves:
            rows, true = self._matrix(leaf.op), exact[:, leaf.channels]
            noise += _noise(errors[:, leaf.channels] @ rows, self._exact((leaf.op, half, source), lambda rows=rows, true=true: true @ rows))
        return noise

    def _matrix(self, op: TopMatMulOp) -> Reals:
        """The constant right operand, float32 (k, n)."""
        return self._exact((op,), lambda: rows_of(op, self.module).astype(np.float32))

    def _exact(self, key: tuple[object, ...], compute: Callable[[], Reals]) -> Reals:
        """What is the same for all scales of a point, computed once."""
        if key not in self.exact:
            self.exact[key] = compute()
        return self.exact[key]

    def _divide(self, op: LayerOp, scales: Reals) -> None:
        """Let an op give its channels divided by `scales`."""
        match op:
            case TopLayerNormOp():
                size = shape_of(op.output)[int(op["axis"]) :]  # pyright: ignore[reportArgumentType]
                weight = np.ones(size) if is_none(op.weight) else self.module.weight(op.weight).astype(np.float64)
                self._replace(op, 1, weight / scales, "weight")
                if not is_none(op.bias):
                    self._replace(op, 2, self.module.weight(op.bias).astype(np.float64) / scales, "bias")
            case TopMatMulOp():
                right = self.module.weight(op.right).astype(np.float64)
                self._replace(op, 1, right / scales[:, None] if op["right_transpose"] else right / scales, "weight")
                if not is_none(op.bias):
                    self._replace(op, 2, self.module.weight(op.bias).astype(np.float64) / scales, "bias")
            case _:
                index = next(i for i, value in enumerate(op.operands) if isinstance(value.owner, TopWeightOp))
                self._replace(op, index, self.module.weight(op.operands[index]).astype(np.float64) / scales, "weight")

    def _multiply(self, leaf: Leaf, scales: Reals) -> None:
        right, own = self.module.weight(leaf.op.right).astype(np.float64), scales[leaf.channels]
        self._replace(leaf.op, 1, right * own if leaf.op["right_transpose"] else right * own[:, None], "weight")

    def _replace(self, op: LayerOp, index: int, values: Reals, what: str) -> None:
        if isinstance(op, TopMatMulOp):
            drop_for_int8(self.module, op)
        op.operands[index] = self.module.new_weight(f"{op.layer_name}_smoothed_{what}", values.astype(np.float32), DType.F32, op)


def _points(module: Module) -> Iterator[_Point]:
    """All points of a network in program order."""
    for op in module.layers():
        if not _can_divide(op):
            continue
        flow = follow(module, op.results[0])
        free = _free(flow, shape_of(op.results[0])[-1])
        leaves = tuple(leaf for leaf in flow.leaves if free[leaf.channels].any())
        if leaves and (isinstance(op, TopMatMulOp) or not flow.fixed):
            yield _Point(op, leaves, free)


def _can_divide(op: LayerOp) -> bool:
    """Whether an op can give every channel of its last axis divided by a scale, by its weights alone."""
    match op:
        case TopLayerNormOp():
            return True
        case TopMulOp():
            constants = [value for value in op.operands if isinstance(value.owner, TopWeightOp)]
            return len(constants) == 1 and not clamps_above(op) and shape_of(constants[0])[-1:] == shape_of(op.output)[-1:]
        case TopMatMulOp():
            return is_constant_product(op) and not clamps_above(op)
        case _:
            return False


def _free(flow: Flow, channels: int) -> NDArray[np.bool_]:
    free = np.zeros(channels, np.bool_)
    for leaf in flow.leaves:
        free[leaf.channels] = True
    free[list(flow.fixed)] = False
    return free


def _insert_unit_products(module: Module) -> list[LayerOp]:
    """Give every LayerNorm that MatMuls and others read a Mul by ones in front of the MatMuls, named after it."""
    inserted: list[LayerOp] = []
    for op in list(module.layers()):
        if isinstance(op, TopLayerNormOp) and follow(module, op.output).fixed and (made := _insert_unit_product(op, module)):
            inserted.append(made)
    return inserted


def _insert_unit_product(op: TopLayerNormOp, module: Module) -> LayerOp | None:
    readers: list[LayerOp] = []
    for reader in dict.fromkeys(users(op.output)):
        flow = follow(module, op.output, [reader])
        if isinstance(reader, LayerOp) and flow.leaves and not flow.fixed:
            readers.append(reader)
    if not readers:
        return None
    name = free_name(f"{op.layer_name}_{ENDING}", module)
    ones = module.new_weight(f"{name}_weight", np.ones(shape_of(op.output)[-1], np.float32), DType.F32, op)
    made = TopMulOp.make(name, [op.output, ones], op.output.type)
    insert_behind(op, made)
    for reader in readers:
        for index, value in enumerate(reader.operands):
            if value is op.output:
                reader.operands[index] = made.output
    if follow(module, made.output).fixed:  # a branch meets another one that stays
        replace(made, op.output)
        return None
    return made


def _candidates(peak: Reals, weights: Reals, free: NDArray[np.bool_]) -> Iterator[Reals]:
    """Scales worth trying, 1 for channels that are not free."""
    if not (free & (peak > 0)).any():
        return
    reach = np.maximum(peak, SILENT * peak[free].max())
    for balance in BALANCES:
        with np.errstate(divide="ignore", over="ignore"):
            yield _settled(reach**balance / weights ** (1 - balance), free)
    for clip in CLIPS:
        yield _settled(np.maximum(reach / (reach[free].max() * clip), 1.0), free)


def _settled(scales: Reals, free: NDArray[np.bool_]) -> Reals:
    """Numbers that make no sense become 1; the geometric mean of the free ones is 1, so that floats keep their size."""
    sound = free & np.isfinite(scales) & (scales > 0)
    middle = np.exp(np.log(scales[sound]).mean()) if sound.any() and sound.all() else 1.0
    return np.where(sound, scales / middle, 1.0)


def _noise(errors: Reals, exact: Reals) -> float:
    """Error power over power, mean over the columns; 0 of none."""
    if not exact.shape[1]:
        return 0.0
    power = np.square(exact).mean(0)
    return float((np.square(errors).mean(0) / np.maximum(power, FAINT * power.mean() + np.finfo(np.float32).tiny)).mean())
