"""Raise thresholds where that brings the outputs of the ops that read a tensor closer to their float values.

Ops are walked in network order. For each tensor an op reads, candidates from its threshold up to its largest |x| are tried: the op
runs in float with all its inputs fake-quantized at the one candidate, on float references, and the smallest mean distance wins:

    distance = mean over samples of ||y - y_q||_2 / ||y||_1,  x_q = clip(round_half_even(x * 127 / th), -128, 127) * th / 127
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.structure import TopNoneOp, TopWeightOp
from bmflow.kernels import Executable

Arrays = dict[str, np.ndarray]
Progress = Callable[[Iterable[LayerOp], int], Iterable[LayerOp]]
_BLOCK = 1 << 17  # elements whose working arrays stay in the cache of a core
_MOVES = ("top.Reshape", "top.Permute", "top.Depth2Space", "top.Upsample", "top.Concat")


@dataclass(frozen=True)
class TuneSettings:
    """`steps` + 1 candidates a tensor; tensors whose largest |x| exceeds the threshold by `least` or less are left alone."""

    steps: int = 21
    least: float = 0.01
    threads: int = 2


def tune(
    module: Module,
    batches: Sequence[Arrays],
    thresholds: Mapping[str, float],
    largest: Mapping[str, float],
    settings: TuneSettings | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Return thresholds, none below what was given.

    Args:
        batches: network inputs by name; the float values of all layers follow from them op by op, and only those still needed are kept.
        largest: largest |x| of each tensor, the last candidate.
    """
    settings = settings or TuneSettings()
    ops = [op for op in module.layers() if op.name != "top.Input"]
    tuned, walked = dict(thresholds), set[str]()
    references = _References(ops, {op.layer_name: [batch[op.layer_name] for batch in batches] for op in module.inputs})
    with ThreadPoolExecutor(settings.threads) as pool:
        for op in progress(ops, len(ops)) if progress else ops:
            trial = Trial.of(module, op, references, pool)
            for name in _to_tune(trial.inputs, walked):
                walked.add(name)
                low, high = thresholds[name], largest[name]
                if high - low <= settings.least:
                    continue
                best = trial.best([low + k * ((high - low) / settings.steps) for k in range(settings.steps + 1)])
                tuned[name] = max(tuned[name], low if best is None else best)
            references.keep(op, trial.outputs)
    return tuned


def _to_tune(inputs: Sequence[str], walked: set[str]) -> list[str]:
    """Inputs no earlier op has tuned, or the first one when there is none."""
    return [name for name in inputs if name not in walked] or list(inputs[:1])


def activations(op: LayerOp) -> list[str]:
    """Names of the tensors an op reads, each once, weights and absent operands left out."""
    read = [operand for operand in op.operands if not isinstance(operand.owner, TopWeightOp | TopNoneOp)]
    return list(dict.fromkeys(layer_name(operand) for operand in read))


class _References:
    """Float values of the tensors that ops to come still read, one array a batch."""

    def __init__(self, ops: Sequence[LayerOp], inputs: Mapping[str, list[np.ndarray]]):
        self._last = {name: op.layer_name for op in ops for name in activations(op)}
        self._values = dict(inputs)

    def __getitem__(self, name: str) -> list[np.ndarray]:
        return self._values[name]

    def keep(self, op: LayerOp, outputs: list[np.ndarray]) -> None:
        """Keep an op's outputs while they are needed; drop what it was the last to read."""
        if op.layer_name in self._last:
            self._values[op.layer_name] = outputs
        for name in activations(op):
            if self._last[name] == op.layer_name:
                self._values.pop(name, None)


@dataclass(frozen=True)
class Trial:
    """One op that runs on fake-quantized inputs: float inputs and outputs of every sample, and 1 / ||y||_1."""

    op: LayerOp
    run: Callable[[Arrays], np.ndarray]
    inputs: list[str]
    samples: list[Arrays]
    outputs: list[np.ndarray]
    pool: ThreadPoolExecutor

    @classmethod
    def of(cls, module: Module, op: LayerOp, references: _References, pool: ThreadPoolExecutor) -> Trial:
        """Prepare an op and compute its float outputs."""
        inputs, name = activations(op), op.layer_name
        executable = Executable(module, [name], threads=1, given=inputs)
        samples = [dict(zip(inputs, values, strict=True)) for values in zip(*(references[n] for n in inputs), strict=True)]
        outputs = list(pool.map(lambda sample: executable.run(sample)[name], samples))
        return cls(op, lambda sample: executable.run(sample)[name], inputs, samples, outputs, pool)

    def best(self, candidates: Sequence[float]) -> float | None:
        """The candidate of the smallest distance, the first on a tie; None when a sample's output is all zero (no distance exists).

        A candidate is given up as soon as its sum over some samples exceeds the whole sum of another one.
        """
        weights = [_reciprocal_norm(output) for output in self.outputs]
        if not all(np.isfinite(weights)):
            return None
        first = list(self.pool.map(lambda candidate: self._distance(0, candidate) * weights[0], candidates))
        totals = np.full(len(candidates), np.inf)

        def finish(k: int) -> None:
            total = first[k]
            for sample in range(1, len(self.samples)):
                if total > totals.min():
                    return
                total += self._distance(sample, candidates[k]) * weights[sample]
            totals[k] = total

        list(self.pool.map(finish, np.argsort(first, kind="stable")))
        return candidates[int(totals.argmin())]

    def _distance(self, sample: int, threshold: float) -> float:
        """||y - y_q||_2 of one sample."""
        inputs = self.samples[sample]
        if self.op.name in _MOVES and not self.op.settings().get("do_relu"):  # every input value comes out, all equally often
            return float(np.sqrt(sum(_squared_error(values, threshold) for values in inputs.values())))
        output = self.run({name: fake_quantize(values, threshold) for name, values in inputs.items()})
        return float(np.sqrt(_squared_distance(output, self.outputs[sample])))


def _reciprocal_norm(values: np.ndarray) -> float:
    total = float(np.abs(values).sum(dtype=np.float64))
    return 1 / total if total else np.inf


def fake_quantize(values: np.ndarray, threshold: float) -> np.ndarray:
    """Float32 values as 8-bit integers of scale threshold / 127 hold them."""
    values = np.ascontiguousarray(values)
    result = np.empty_like(values)
    source, target = values.reshape(-1), result.reshape(-1)
    for start in range(0, source.size, _BLOCK):
        _quantize_block(source[start : start + _BLOCK], target[start : start + _BLOCK], threshold)
    return result


def _quantize_block(source: np.ndarray, target: np.ndarray, threshold: float) -> None:
    np.multiply(source, np.float32(127 / threshold), out=target)
    np.rint(target, out=target)
    np.clip(target, np.float32(-128), np.float32(127), out=target)
    np.multiply(target, np.float32(threshold / 127), out=target)


def _squared_error(values: np.ndarray, threshold: float) -> float:
    """Squared 2-norm of what fake quantization changes."""
    source = np.ascontiguousarray(values).reshape(-1)
    buffer, total = np.empty(min(_BLOCK, source.size), np.float32), 0.0
    for start in range(0, source.size, _BLOCK):
        block = source[start : start + _BLOCK]
        part = buffer[: block.size]
        _quantize_block(block, part, threshold)
        np.subtract(part, block, out=part)
        total += float(np.dot(part, part))
    return total


def _squared_distance(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.reshape(-1), other.reshape(-1)
    buffer, total = np.empty(min(_BLOCK, one.size), np.float32), 0.0
    for start in range(0, one.size, _BLOCK):
        part = buffer[: min(_BLOCK, one.size - start)]
        np.subtract(one[start : start + _BLOCK], other[start : start + _BLOCK], out=part)
        total += float(np.dot(part, part))
    return total
