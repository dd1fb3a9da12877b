"""--we: give every channel of a feature map its own scale, so that all channels use the 8-bit range, and undo it in the weights after it.

    Conv(x; W, b)            -> Conv(x / s_x; W[oc, ic] * s_x[ic] / s_y[oc], b / s_y)
    y = SiLU(x)              -> ScaledActive: SiLU(x' * s + z) / s_y, x' = (x - z) / s; one table per channel once lowered to INT8

The float network stays the same but for rounding. Scales weigh the range of activations against the range of weights,
s = peak^a / column^(1 - a), with the `a` that gives the least estimated noise. Sources: Nagel et al. 2019, "Data-free quantization
through weight equalization and bias correction" (scales moved across layers); Xiao et al. 2023, "SmoothQuant" (the form of s). That
SiLU and Sigmoid can take part, by tables per channel, is our own addition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bmflow.correction.channel_graph import ACTIVATIONS, ChannelGraph, is_argument, is_depthwise
from bmflow.correction.channel_statistics import ChannelStatistics
from bmflow.correction.for_int8 import drop_for_int8
from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.elementwise import TopScaledActiveOp
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.structure import TopWeightOp
from bmflow.ir.types import DType, is_none, shape_of
from bmflow.ir.values import SSAValue
from bmflow.passes.rewrite import insert_before, replace

Reals = NDArray[np.float64]
BALANCES = tuple(np.linspace(0.0, 1.0, 11))
LEAST = 1e-6
SILU_FLOOR = -8.0
"""Below it SiLU is 0 to within 0.003, so an 8-bit argument need not reach further down."""
STEPS = 254
LEAST_GAIN = 0.02
"""Channels that would win less of the estimated noise stay as they are: they are alike, and the estimate is no better than that."""
SILENT = 1e-4
"""A channel whose peak is below this share of the largest is silent: the samples do not say how far it reaches, and stretching what little
there is would stretch errors a ten thousandfold. Behind a Relu they then came to be all there was to see."""
FAINT = 1e-3
"""A channel weaker than this share of the mean power counts as if it had that power: its own noise hardly matters."""


@dataclass
class Equalized:
    """The rewritten module, in which arguments of activations fill -1..1 channel by channel."""

    module: Module
    scaled: dict[str, float] = field(default_factory=dict[str, float])
    """Per feature map whose channels were scaled: largest over smallest channel peak before."""


def equalize(module: Module, statistics: Mapping[str, ChannelStatistics]) -> Equalized:
    """Scale channels one by one; `module` is a top module and is left as it is.

    Args:
        statistics: of every layer of rank 4, from `channel_statistics` on the same module.
    """
    return _Equalizer(module.clone(), statistics).run()


class _Equalizer:
    """Chooses the scale of every class of channels, then rewrites weights and activations."""

    def __init__(self, module: Module, statistics: Mapping[str, ChannelStatistics]) -> None:
        self.module, self.statistics = module, {name: found.with_room() for name, found in statistics.items()}
        self.graph = ChannelGraph(module)
        self.convs = [op for op in module.layers() if isinstance(op, TopConvOp) and isinstance(op.filter.owner, TopWeightOp)]
        self.activations = [op for op in module.layers() if type(op) in ACTIVATIONS and is_argument(op.operands[0])]
        self.arguments = {layer_name(op.operands[0]) for op in self.activations}
        self.scale_of_class: dict[int, float] = {}
        self.result = Equalized(module)

    def run(self) -> Equalized:
        """Choose and rewrite."""
        self._choose()
        affine = {layer_name(op.operands[0]): self._argument_range(op) for op in self.activations}
        scales = {op.layer_name: self._scales(op.results[0]) for op in self.module.layers() if self._has_channels(op.results[0])}
        for op in self.convs:
            self._rewrite_conv(op, scales, affine)
        for op in self.activations:
            self._rewrite_activation(op, scales[op.layer_name], affine[layer_name(op.operands[0])])
        self.module.op.verify()
        return self.result

    def _has_channels(self, value: SSAValue) -> bool:
        return len(shape_of(value)) == 4

    def _argument_range(self, op: LayerOp) -> tuple[Reals, Reals]:
        """Half width and centre of the argument's range per channel."""
        known = self.statistics[layer_name(op.operands[0])]
        low, high = np.maximum(known.low, SILU_FLOOR), np.maximum(known.high, SILU_FLOOR + LEAST)
        low = np.minimum(low, high - LEAST)
        return np.maximum((high - low) / 2, LEAST), (high + low) / 2

    def _scales(self, value: SSAValue) -> Reals:
        return np.array([self.scale_of_class.get(int(k), 1.0) for k in self.graph.classes(value)])

    def _choose(self) -> None:
        """Scales of all classes that may move, component by component of feature maps that share classes or convolutions."""
        peaks: dict[int, float] = {}
        for op in self.module.layers():
            value = op.results[0]
            if not self._has_channels(value) or op.layer_name in self.arguments:
                continue
            for k, free, peak in zip(self.graph.classes(value), ~self.graph.fixed(value), self._peaks(op.layer_name), strict=True):
                if free:
                    peaks[int(k)] = max(peaks.get(int(k), LEAST), float(peak))
        columns = self._columns()
        for members in self._components(peaks):
            as_it_is = dict.fromkeys(members, 1.0)
            best = min((self._candidate(members, peaks, columns, balance) for balance in BALANCES), key=self._noise)
            pays = self._noise(best) < (1 - LEAST_GAIN) * self._noise(as_it_is)
            self.scale_of_class.update(best if pays else as_it_is)
        self._report(peaks)

    def _peaks(self, name: str) -> Reals:
        """Peaks of channels as scales are chosen for; a silent one may reach as far as any."""
        peak = self.statistics[name].peak
        return np.where(peak < SILENT * peak.max(), peak.max(), peak)

    def _columns(self) -> dict[int, float]:
        """Largest weight that reads a channel, relative to the largest in its row; classes read only by depthwise filters are absent."""
        columns: dict[int, float] = {}
        for op in self.convs:
            if is_depthwise(op):
                continue
            relative = self._relative_weights(op)
            for k, column in zip(self.graph.classes(op.input), relative, strict=True):
                columns[int(k)] = max(columns.get(int(k), LEAST), float(column))
        return columns

    def _relative_weights(self, op: TopConvOp) -> Reals:
        weights = np.abs(self._weights(op))
        rows = np.maximum(weights.max((1, 2, 3), keepdims=True), LEAST)
        return self._by_input(op, weights / rows).max((0, 2, 3))

    def _weights(self, op: TopConvOp) -> Reals:
        return self.module.weight(op.filter).astype(np.float64)

    @staticmethod
    def _by_input(op: TopConvOp, weights: Reals) -> Reals:
        """(oc / group, ic, kh, kw): the filters of all groups side by side, so that axis 1 counts the input's channels."""
        group = int(op["group"])  # pyright: ignore[reportArgumentType]
        oc, ic, kh, kw = weights.shape
        return weights.reshape(group, oc // group, ic, kh, kw).transpose(1, 0, 2, 3, 4).reshape(oc // group, group * ic, kh, kw)

    def _components(self, peaks: Mapping[int, float]) -> list[list[int]]:
        """Classes whose noise depends on each other: those that lie in one feature map."""
        parent = {k: k for k in peaks}

        def find(k: int) -> int:
            while parent[k] != k:
                parent[k] = parent[parent[k]]
                k = parent[k]
            return k

        for op in self.module.layers():
            if not self._has_channels(op.results[0]) or op.layer_name in self.arguments:
                continue
            known = [int(k) for k in self.graph.classes(op.results[0]) if int(k) in parent]
            for k in known[1:]:
                parent[find(k)] = find(known[0])
        components: dict[int, list[int]] = {}
        for k in peaks:
            components.setdefault(find(k), []).append(k)
        return list(components.values())

    @staticmethod
    def _candidate(members: list[int], peaks: Mapping[int, float], columns: Mapping[int, float], balance: float) -> dict[int, float]:
        scales = {k: peaks[k] ** balance / columns[k] ** (1 - balance) if k in columns else peaks[k] for k in members}
        largest = max(peaks[k] / scales[k] for k in members)
        return {k: max(scale * largest, LEAST) for k, scale in scales.items()}

    def _noise(self, scales: Mapping[int, float]) -> float:
        """Estimated noise to signal, summed over the channels that the convolutions reading these classes compute.

        Rounding errors of 8-bit activations and weights are taken as independent and uniform: step^2 / 12 (Widrow).
        """
        return sum(self._noise_of(op, scales) for op in self._readers(scales))

    def _noise_of(self, op: TopConvOp, scales: Mapping[int, float]) -> float:
        s = np.array([scales.get(int(k), self.scale_of_class.get(int(k), 1.0)) for k in self.graph.classes(op.input)])
        known, signal = self.statistics[layer_name(op.input)], self.statistics[op.layer_name].square
        group = int(op["group"])  # pyright: ignore[reportArgumentType]
        weights = self._weights(op)
        oc, ic, kh, kw = weights.shape
        weights *= np.repeat(s.reshape(group, ic), oc // group, axis=0)[:, :, None, None]
        power = np.repeat((known.square / s**2).reshape(group, ic).sum(1), oc // group) * kh * kw
        step_x = 2 * float(np.max(known.peak / s)) / STEPS
        step_w = 2 * np.abs(weights).max((1, 2, 3)) / STEPS
        noise = (step_x**2 * np.sum(weights**2, (1, 2, 3)) + step_w**2 * power) / 12
        return float(np.sum(noise / np.maximum(signal, FAINT * signal.mean() + LEAST)))

    def _readers(self, scales: Mapping[int, float]) -> list[TopConvOp]:
        return [op for op in self.convs if any(int(k) in scales for k in set(self.graph.classes(op.input).tolist()))]

    def _report(self, peaks: Mapping[int, float]) -> None:
        for op in self.module.layers():
            if not self._has_channels(op.results[0]) or op.layer_name in self.arguments:
                continue
            classes = [int(k) for k in self.graph.classes(op.results[0])]
            if any(self.scale_of_class.get(k, 1.0) != 1.0 for k in classes):
                peak = np.maximum(self.statistics[op.layer_name].peak, LEAST)
                self.result.scaled[op.layer_name] = float(peak.max() / peak.min())

    def _rewrite_conv(self, op: TopConvOp, scales: Mapping[str, Reals], affine: Mapping[str, tuple[Reals, Reals]]) -> None:
        weights = self._weights(op)
        into = scales.get(layer_name(op.input), np.ones(shape_of(op.input)[1]))
        group = int(op["group"])  # pyright: ignore[reportArgumentType]
        oc, ic = weights.shape[:2]
        columns = np.repeat(into.reshape(group, ic), oc // group, axis=0)
        out, centre = affine.get(op.layer_name, (scales[op.layer_name], np.zeros(oc)))
        if np.all(columns == 1) and np.all(out == 1) and np.all(centre == 0):
            return
        bias = np.zeros(oc) if is_none(op.bias) else self.module.weight(op.bias).astype(np.float64).reshape(-1)
        scaled = (weights * columns[:, :, None, None] / out[:, None, None, None]).astype(np.float32)
        drop_for_int8(self.module, op)
        arrays = {"filter": scaled, "bias": ((bias - centre) / out).astype(np.float32)}
        new = [self.module.new_weight(f"{op.layer_name}_equalized_{name}", array, DType.F32, op) for name, array in arrays.items()]
        op.operands = [op.input, *new]

    def _rewrite_activation(self, op: LayerOp, out: Reals, argument: tuple[Reals, Reals]) -> None:
        half, centre = argument
        numbers = {"scale_in": half, "shift_in": centre, "scale_out": 1 / out}
        weights = [
            self.module.new_weight(f"{op.layer_name}_{name}", values.astype(np.float32).reshape(1, -1, 1, 1), DType.F32, op)
            for name, values in numbers.items()
        ]
        result = op.results[0]
        mode = {"mode": ACTIVATIONS[type(op)]}
        scaled = insert_before(op, TopScaledActiveOp.make(op.layer_name, [op.operands[0], *weights], result.type, mode))
        replace(op, scaled.results[0])
