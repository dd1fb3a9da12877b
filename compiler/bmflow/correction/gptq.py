"""--gptq: round filters so that the errors of their weights cancel on real inputs, instead of each weight to its nearest step.

Input after input of a convolution is rounded, and what that does to the output is taken back by the inputs not yet rounded:

    w_j <- w_j - (w_i - q_i) * U[i, j] / U[i, i]   for all j behind i,   U upper, U' U = inverse of cov(x)

What the rounded filter adds on average goes into the bias: b <- b + (W - Q) mean(x). Sources: Frantar et al. 2023, "GPTQ: Accurate
post-training quantization for generative pre-trained transformers" (order and factorization); Hassibi and Stork 1993, "Second order
derivatives for network pruning: optimal brain surgeon" (the update). Inputs are those of the float network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from bmflow.dialects.top.conv import TopConvOp
from bmflow.ir.layer import layer_name
from bmflow.ir.module import Module
from bmflow.ir.structure import TopWeightOp
from bmflow.ir.types import DType, is_none, shape_of
from bmflow.kernels import Executable
from bmflow.passes.lowering.conv import quantize_filter

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
    """A copy of a top module whose filters are integers times the largest weight of their output channel / 127.

    Lowering to 8 bits finds those integers again. Filters in which it rounds nothing stay as they are.

    Args:
        samples: network inputs by name, at least one; the same samples and seed choose the same places.
    """
    convs = [
        op
        for op in module.layers()
        if isinstance(op, TopConvOp) and isinstance(op.filter.owner, TopWeightOp) and len(shape_of(op.output)) == 4
    ]
    inputs = _gather(module, convs, samples, threads, np.random.default_rng(seed))
    rounded = module.clone()
    for op in list(rounded.layers()):
        if isinstance(op, TopConvOp) and op.layer_name in inputs:
            _rewrite(rounded, op, inputs[op.layer_name])
    rounded.op.verify()
    return rounded


def round_rows(weights: Reals, covariance: Reals) -> Reals:
    """Round the rows of `weights` (oc, k) to steps of 1 / 127 of their largest magnitude, which stays.

    Args:
        covariance: of the k inputs, (k, k).
    Returns:
        real values (oc, k) on the grid.
    """
    count = weights.shape[1]
    order = np.argsort(-np.diag(covariance), kind="stable")
    left, largest = weights[:, order].copy(), np.abs(weights[:, order])
    step = np.maximum(largest.max(1, keepdims=True), np.finfo(np.float32).tiny) / LARGEST
    pinned = largest == largest.max(1, keepdims=True)  # the grid is found again by it
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


class _Inputs:
    """What a convolution reads, per group: sums and sums of products of its k inputs at some places.

    Counted from the values at one of the places, so that inputs that hardly vary lose nothing to rounding.
    """

    def __init__(self, op: TopConvOp) -> None:
        self.source, self.group = layer_name(op.input), _integer(op, "group")
        _, channels, self.height, self.width = shape_of(op.filter)
        size = channels * self.height * self.width
        self.pads, self.strides, self.dilations = op.ints("pads"), op.ints("strides"), op.ints("dilations") or [1, 1]
        self.rows, self.columns = shape_of(op.output)[2:]
        self.count, self.total, self.products = 0, np.zeros((self.group, size)), np.zeros((self.group, size, size))
        self.origin: NDArray[np.float32] | None = None

    def add(self, x: np.ndarray, generator: np.random.Generator) -> None:
        """Take one sample (n, c, h, w) into account."""
        top, left, bottom, right = self.pads
        padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        picked = np.sort(generator.choice(len(x) * self.rows * self.columns, min(PLACES, len(x) * self.rows * self.columns), replace=False))
        sample, row, column = np.unravel_index(picked, (len(x), self.rows, self.columns))
        rows = row[:, None] * self.strides[0] + np.arange(self.height) * self.dilations[0]
        columns = column[:, None] * self.strides[1] + np.arange(self.width) * self.dilations[1]
        patches = padded[sample[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (places, kh, kw, c)
        by_group = patches.transpose(3, 1, 2, 0).reshape(self.group, -1, len(picked))
        if self.origin is None:
            self.origin = by_group[:, :, len(picked) // 2, None].copy()
        by_group = by_group - self.origin
        self.count += len(picked)
        self.total += by_group.sum(2, dtype=np.float64)
        self.products += by_group @ by_group.transpose(0, 2, 1)

    def moments(self) -> tuple[Reals, Reals]:
        """Mean (group, k) and covariance (group, k, k)."""
        assert self.origin is not None, "no sample was added"
        mean = self.total / self.count
        return self.origin[:, :, 0] + mean, self.products / self.count - mean[:, :, None] * mean[:, None, :]


def _gather(
    module: Module, convs: list[TopConvOp], samples: Iterable[Mapping[str, np.ndarray]], threads: int, generator: np.random.Generator
) -> dict[str, _Inputs]:
    found = {op.layer_name: _Inputs(op) for op in convs}
    executable = Executable(module, {one.source for one in found.values()} - {op.layer_name for op in module.inputs}, threads)
    for sample in samples:
        values = {**sample, **executable.run(sample)}
        for one in found.values():
            one.add(values[one.source], generator)
    return found


def _rewrite(module: Module, op: TopConvOp, inputs: _Inputs) -> None:
    if _is_exact(module.weight(op.filter), not is_none(op.bias)):
        return
    weights = module.weight(op.filter).astype(np.float64)
    rows = weights.reshape(inputs.group, len(weights) // inputs.group, -1)
    means, covariances = inputs.moments()
    rounded = np.stack([round_rows(part, covariance) for part, covariance in zip(rows, covariances, strict=True)])
    bias = np.zeros(len(weights)) if is_none(op.bias) else module.weight(op.bias).astype(np.float64).reshape(-1)
    bias += np.einsum("gok,gk->go", rows - rounded, means).reshape(-1)
    op.operands[1] = module.new_weight(f"{op.layer_name}_rounded_filter", rounded.reshape(weights.shape).astype(np.float32), DType.F32, op)
    op.operands[2] = module.new_weight(f"{op.layer_name}_rounded_bias", bias.astype(np.float32), DType.F32, op)


def _is_exact(weights: np.ndarray, has_bias: bool) -> bool:
    """Whether lowering rounds nothing in a float32 filter but its last bits."""
    found = quantize_filter(weights, has_bias)
    return np.allclose(found.integers * found.scales.reshape(-1, *[1] * (weights.ndim - 1)), weights, rtol=LAST_BITS, atol=0)


def _integer(op: TopConvOp, name: str) -> int:
    value = op[name]
    assert isinstance(value, int), f"{op.layer_name}: {name} is {value!r}"
    return value
