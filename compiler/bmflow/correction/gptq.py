"""--gptq: round filters so that the errors of their weights cancel on real inputs, instead of each weight to its nearest step.

Input after input of a convolution, or of a product by a constant matrix, is rounded, and what that does to the output is taken back by
the inputs not yet rounded:

    w_j <- w_j - (w_i - q_i) * U[i, j] / U[i, i]   for all j behind i,   U upper, U' U = inverse of cov(x)

What the rounded filter adds on average goes into the bias: b <- b + (W - Q) mean(x). Both are kept beside the exact ones, for forms in
8 bits alone; the float network stays the same. Sources: Frantar et al. 2023, "GPTQ: Accurate
post-training quantization for generative pre-trained transformers" (order and factorization); Hassibi and Stork 1993, "Second order
derivatives for network pruning: optimal brain surgeon" (the update). Inputs are those of the float network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from bmflow.correction.channel_flow import is_constant_product, rows_of
from bmflow.correction.for_int8 import Layer, drop_for_int8, set_for_int8
from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.matmul import TopMatMulOp
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.structure import TopWeightOp
from bmflow.ir.types import DType, is_none, shape_of
from bmflow.kernels import Executable
from bmflow.passes.lowering.conv import quantize_filter
from bmflow.passes.lowering.matmul import quantize_matrix

Reals = NDArray[np.float64]
PLACES = 400
"""Output places looked at in each sample; together they tell how inputs vary together."""
DAMPING = 0.01
"""Added to the diagonal of the covariance, as a share of its mean: some inputs hardly vary, or always do so together."""
LARGEST = 127
LAST_BITS = 2.0**-21
"""What float32 may add to a weight on the grid, relative to it."""
BLOCK = 64


def round_filters(module: Module, samples: Iterable[Mapping[str, np.ndarray]], threads: int = 2, seed: int = 0) -> Module:
    """A copy of a top module that has, for 8 bits, filters which are integers times the largest weight of their output channel / 127.

    Those of matrices are times the largest weight of the whole matrix. Lowering finds those integers again. Filters and matrices in which it
    rounds nothing stay as they are, and so do matrices that read fewer tokens than they have rows, which do not tell how their inputs vary
    together.

    Args:
        samples: network inputs by name, at least one; the same samples and seed choose the same places.
    """
    inputs = {op.layer_name: found for op in module.layers() if (found := _inputs_of(op))}
    _gather(module, inputs, samples, threads, np.random.default_rng(seed))
    rounded = module.clone()
    for op in list(rounded.layers()):
        if op.layer_name in inputs and isinstance(op, TopConvOp):
            _rewrite(rounded, op, inputs[op.layer_name])
        elif op.layer_name in inputs and isinstance(op, TopMatMulOp):
            _rewrite_product(rounded, op, inputs[op.layer_name])
    rounded.op.verify()
    return rounded


def round_rows(weights: Reals, covariance: Reals, one_step: bool = False) -> Reals:
    """Round the rows of `weights` (oc, k) to steps of 1 / 127 of their largest magnitude, which stays.

    Args:
        covariance: of the k inputs, (k, k).
        one_step: all rows have the step of the largest magnitude of all.
    Returns:
        real values (oc, k) on the grid.
    """
    count = weights.shape[1]
    order = np.argsort(-np.diag(covariance), kind="stable")
    left, largest = weights[:, order].copy(), np.abs(weights[:, order])
    ends = np.full((len(weights), 1), largest.max()) if one_step else largest.max(1, keepdims=True)
    step = np.maximum(ends, np.finfo(np.float32).tiny) / LARGEST
    pinned = largest == ends  # the grid is found again by it
    damped = covariance[np.ix_(order, order)] + np.eye(count) * (DAMPING * np.trace(covariance) / count + np.finfo(np.float32).tiny)
    update = np.linalg.cholesky(np.linalg.inv(damped)).T
    exact = left.copy()
    done = np.empty_like(left)
    for first in range(0, count, BLOCK):
        last = min(first + BLOCK, count)
        errors = np.empty((len(left), last - first))
        for i in range(first, last):
            nearest = np.clip(np.rint(left[:, i : i + 1] / step), -LARGEST, LARGEST) * step
            done[:, i : i + 1] = np.where(pinned[:, i : i + 1], exact[:, i : i + 1], nearest)
            error = (left[:, i : i + 1] - done[:, i : i + 1]) / update[i, i]
            errors[:, i - first : i - first + 1] = error
            left[:, i:last] -= error * update[i, i:last]
        left[:, last:] -= errors @ update[first:last, last:]
    result = np.empty_like(done)
    result[:, order] = done
    return result


class _Inputs(ABC):
    """What a layer reads, per group: sums and sums of products of its k inputs at some places.

    Counted from the values at one of the places, so that inputs that hardly vary lose nothing to rounding.
    """

    def __init__(self, source: str, group: int, size: int) -> None:
        self.source, self.group = source, group
        self.count, self.total, self.products = 0, np.zeros((group, size)), np.zeros((group, size, size))
        self.origin: NDArray[np.float32] | None = None

    @abstractmethod
    def pick(self, x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Inputs at some places of one sample (group, k, places)."""

    def add(self, x: np.ndarray, generator: np.random.Generator) -> None:
        """Take one sample of the layer's input into account."""
        by_group = self.pick(x, generator)
        if self.origin is None:
            self.origin = by_group[:, :, by_group.shape[2] // 2, None].copy()
        by_group = by_group - self.origin
        self.count += by_group.shape[2]
        self.total += by_group.sum(2, dtype=np.float64)
        self.products += by_group @ by_group.transpose(0, 2, 1)

    def moments(self) -> tuple[Reals, Reals]:
        """Mean (group, k) and covariance (group, k, k)."""
        assert self.origin is not None, "no sample was added"
        mean = self.total / self.count
        return self.origin[:, :, 0] + mean, self.products / self.count - mean[:, :, None] * mean[:, None, :]


class _Tokens(_Inputs):
    """What a product by a constant matrix reads: the last axis, at some of all other places."""

    def __init__(self, op: TopMatMulOp) -> None:
        super().__init__(layer_name(op.input), 1, shape_of(op.input)[-1])

    def pick(self, x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """See `_Inputs.pick`."""
        rows = x.reshape(-1, x.shape[-1])
        return rows[np.sort(generator.choice(len(rows), min(PLACES, len(rows)), replace=False))].T[None]


class _Windows(_Inputs):
    """What a convolution reads: windows of its padded input (n, c, h, w)."""

    def __init__(self, op: TopConvOp) -> None:
        _, channels, self.height, self.width = shape_of(op.filter)
        super().__init__(layer_name(op.input), _integer(op, "group"), channels * self.height * self.width)
        self.pads, self.strides, self.dilations = op.ints("pads"), op.ints("strides"), op.ints("dilations") or [1, 1]
        self.rows, self.columns = shape_of(op.output)[2:]

    def pick(self, x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """See `_Inputs.pick`."""
        top, left, bottom, right = self.pads
        padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        picked = np.sort(generator.choice(len(x) * self.rows * self.columns, min(PLACES, len(x) * self.rows * self.columns), replace=False))
        sample, row, column = np.unravel_index(picked, (len(x), self.rows, self.columns))
        rows = row[:, None] * self.strides[0] + np.arange(self.height) * self.dilations[0]
        columns = column[:, None] * self.strides[1] + np.arange(self.width) * self.dilations[1]
        patches = padded[sample[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (places, kh, kw, c)
        return patches.transpose(3, 1, 2, 0).reshape(self.group, -1, len(picked))


def _inputs_of(op: LayerOp) -> _Inputs | None:
    """What to gather for a layer whose weights can be rounded; None for others."""
    if isinstance(op, TopConvOp) and isinstance(op.filter.owner, TopWeightOp) and len(shape_of(op.output)) == 4:
        return _Windows(op)
    return _Tokens(op) if isinstance(op, TopMatMulOp) and is_constant_product(op) else None


def _gather(
    module: Module, inputs: Mapping[str, _Inputs], samples: Iterable[Mapping[str, np.ndarray]], threads: int, generator: np.random.Generator
) -> None:
    executable = Executable(module, {one.source for one in inputs.values()} - {op.layer_name for op in module.inputs}, threads)
    for sample in samples:
        values = {**sample, **executable.run(sample)}
        for one in inputs.values():
            one.add(values[one.source], generator)


def _rewrite_product(module: Module, op: TopMatMulOp, inputs: _Inputs) -> None:
    columns = rows_of(op, module).T
    integers, step = quantize_matrix(module.weight(op.right))
    if inputs.count < len(inputs.total[0]) or np.allclose(integers * step, module.weight(op.right), rtol=LAST_BITS, atol=0):
        return
    (mean,), (covariance,) = inputs.moments()
    rounded = round_rows(columns, covariance, one_step=True)
    bias = (0 if is_none(op.bias) else module.weight(op.bias).astype(np.float64).reshape(-1)) + (columns - rounded) @ mean
    right = rounded if op["right_transpose"] else rounded.T
    _keep_for_int8(module, op, {"right": np.ascontiguousarray(right), "bias": bias})


def _rewrite(module: Module, op: TopConvOp, inputs: _Inputs) -> None:
    if _is_exact(module.weight(op.filter), not is_none(op.bias)):
        return
    weights = module.weight(op.filter).astype(np.float64)
    rows = weights.reshape(inputs.group, len(weights) // inputs.group, -1)
    means, covariances = inputs.moments()
    rounded = np.stack([round_rows(part, covariance) for part, covariance in zip(rows, covariances, strict=True)])
    bias = np.zeros(len(weights)) if is_none(op.bias) else module.weight(op.bias).astype(np.float64).reshape(-1)
    bias += np.einsum("gok,gk->go", rows - rounded, means).reshape(-1)
    _keep_for_int8(module, op, {"filter": rounded.reshape(weights.shape), "bias": bias})


def _keep_for_int8(module: Module, op: Layer, arrays: Mapping[str, Reals]) -> None:
    drop_for_int8(module, op)
    weights, bias = (
        module.new_weight(f"{op.layer_name}_rounded_{name}", array.astype(np.float32), DType.F32, op) for name, array in arrays.items()
    )
    set_for_int8(module, op, weights, bias)


def _is_exact(weights: np.ndarray, has_bias: bool) -> bool:
    """Whether lowering rounds nothing in a float32 filter but its last bits."""
    found = quantize_filter(weights, has_bias)
    return np.allclose(found.integers * found.scales.reshape(-1, *[1] * (weights.ndim - 1)), weights, rtol=LAST_BITS, atol=0)


def _integer(op: TopConvOp, name: str) -> int:
    value = op[name]
    assert isinstance(value, int), f"{op.layer_name}: {name} is {value!r}"
    return value
