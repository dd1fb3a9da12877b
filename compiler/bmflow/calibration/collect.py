"""Gather the statistics of every tensor over samples, and turn them into ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bmflow.calibration.histogram import Histogram
from bmflow.calibration.kurtosis import kurtosis
from bmflow.calibration.methods import Estimate, KlEstimate, Method, Sample, estimate
from bmflow.calibration.percentile import Extremes, extremes_to_keep, percentage
from bmflow.errors import InputError
from bmflow.ir.layer import layer_name
from bmflow.ir.module import Module
from bmflow.ir.types import shape_of
from bmflow.tables.calibration import Range

LEAST = 1e-5
"""The smallest threshold a table holds."""
TAIL = 5
_SAME_VALUES = ("top.Reshape", "top.Permute", "top.Depth2Space")


@dataclass
class Tensor:
    """Running statistics of one tensor; `extremes` of values and `magnitudes` of |x| only where the method needs them, kurtosis and, beside
    methods that keep none, a histogram when asked for."""

    estimate: Estimate
    with_kurtosis: bool = False
    histogram: Histogram | None = None
    extremes: Extremes | None = None
    magnitudes: Extremes | None = None
    low: float = np.inf
    high: float = -np.inf
    kurtosis: float = 0.0
    samples: int = 0

    @property
    def largest(self) -> float:
        """Largest |x| so far."""
        return max(abs(self.low), abs(self.high))

    def add(self, values: np.ndarray, low: float, high: float) -> None:
        """Take the float32 values of one sample and their extremes."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.estimate.add(Sample(values, low, high, self.largest))
        if self.histogram is not None:
            self.histogram.add(values, self.largest)
        if self.extremes:
            self.extremes.add(values)
        if self.magnitudes:
            self.magnitudes.add(np.abs(values))
        if self.with_kurtosis:
            self.samples += 1
            self.kurtosis += (kurtosis(values) - self.kurtosis) / self.samples


class Statistics:
    """Statistics of all tensors of a top module under one method, batch by batch in order.

    Ops that only move values share the statistics of their operand: `exposed` names the tensors that must be given. `kinds` has the op
    type of every tensor.
    """

    def __init__(
        self, module: Module, method: Method, batches: int, bins: int = 2048, with_kurtosis: bool = False, with_histograms: bool = False
    ):
        """`batches` is the number planned; fewer may come."""
        self._method = method
        self.kinds: dict[str, str] = {}
        self._source: dict[str, str] = {}
        for op in module.layers():
            operand = layer_name(op.operands[0]) if op.name in _SAME_VALUES else op.layer_name
            self._source[op.layer_name] = self._source.get(operand, op.layer_name)
            self.kinds[op.layer_name] = op.name
        self._names = list(self.kinds)
        elements = {op.layer_name: int(np.prod(shape_of(op.results[0]))) for op in module.layers()}
        self._tensors: dict[str, Tensor] = {}
        for index, name in enumerate(self._names):
            tensor = self._tensors.setdefault(self._source[name], Tensor(estimate(method, bins), with_kurtosis))
            if with_histograms and method is not Method.KL:
                tensor.histogram = tensor.histogram or Histogram(bins)
            keep = extremes_to_keep(percentage(index, len(self._names)), batches * elements[name])
            if method is Method.PERCENTILE:
                tensor.extremes = tensor.extremes or Extremes.of(keep)  # the first index of a group keeps most
            if method.keeps_inputs_and_tail and index >= len(self._names) - TAIL:
                tensor.magnitudes = tensor.magnitudes or Extremes.of(keep)

    @property
    def exposed(self) -> list[str]:
        """Names of the tensors whose values `add` needs."""
        return list(self._tensors)

    def add(self, values: Mapping[str, np.ndarray]) -> None:
        """Take one batch: float32 values of the exposed tensors.

        Raises:
            InputError: a tensor holds NaN or infinity, which no range can bound.
        """
        for name, tensor in self._tensors.items():
            low, high = float(values[name].min()), float(values[name].max())
            if not (np.isfinite(low) and np.isfinite(high)):
                raise InputError(f"{name}: holds NaN or infinity; look for the first such layer with npz_tool check_nan_inf")
            tensor.add(values[name], low, high)

    def largest(self) -> dict[str, float]:
        """Largest |x| of every tensor, at least LEAST."""
        return {name: max(self._of(name).largest, LEAST) for name in self._names}

    def ranges(self) -> dict[str, Range]:
        """Threshold and extremes of every tensor in network order, untuned."""
        ranges = {name: self._range(index, name) for index, name in enumerate(self._names)}
        return ranges | self._kept_ranges(ranges) if self._method.keeps_inputs_and_tail else ranges

    def kurtosis(self) -> dict[str, float]:
        """Mean over samples of every tensor's kurtosis; 0 when it was not gathered."""
        return {name: self._of(name).kurtosis for name in self._names}

    def histograms(self) -> dict[str, Histogram]:
        """Counts of every tensor's absolute values; empty ones when they were not gathered."""
        return {name: _histogram(self._of(name)) for name in self._names}

    def _of(self, name: str) -> Tensor:
        return self._tensors[self._source[name]]

    def _range(self, index: int, name: str) -> Range:
        tensor = self._of(name)
        low, high, threshold = tensor.low, tensor.high, tensor.estimate.threshold(tensor.largest)
        if tensor.extremes:
            percent = percentage(index, len(self._names))
            low, high = max(low, tensor.extremes.low(percent)), min(high, tensor.extremes.high(percent))
            threshold = max(abs(low), abs(high))
        if tensor.largest <= LEAST:
            return Range(LEAST, -LEAST if tensor.low < 0 else 0.0, LEAST)
        return Range(max(min(threshold, tensor.largest), LEAST), low, high)

    def _kept_ranges(self, ranges: Mapping[str, Range]) -> dict[str, Range]:
        """Network inputs, and outputs at the end that saturate: their largest value is the threshold."""
        kept = {name for name, kind in self.kinds.items() if kind == "top.Input"} | self._saturated_tail()
        return {name: Range(max(self._of(name).largest, LEAST), ranges[name].low, ranges[name].high) for name in kept}

    def _saturated_tail(self) -> set[str]:
        kept: set[str] = set()
        for index in reversed(range(max(0, len(self._names) - TAIL), len(self._names))):
            name = self._names[index]
            magnitudes = self._of(name).magnitudes
            assert magnitudes is not None, "the constructor gives the last tensors their extremes"
            if magnitudes.high(percentage(index, len(self._names))) != self._of(name).largest:
                break
            kept.add(name)
            if self.kinds[name] in ("top.Conv", "top.MatMul"):
                break
        return kept


def _histogram(tensor: Tensor) -> Histogram:
    return tensor.estimate.histogram if isinstance(tensor.estimate, KlEstimate) else tensor.histogram or Histogram()
