"""Small networks with one known fault each, and what is said about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from bmflow import target
from bmflow.calibration.methods import Method
from bmflow.dialects.top.conv import TopConvOp
from bmflow.explain.bench import Bench
from bmflow.explain.exchange import Exchanger
from bmflow.explain.report import LayerReport, describe
from bmflow.explain.tally import Tally
from bmflow.explain.trials import Trial, try_remedies
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.types import tensor_type
from bmflow.ir.values import SSAValue
from bmflow.kernels import Executable
from bmflow.passes.lowering import LoweringOptions
from bmflow.search.scores import Score
from bmflow.tables.calibration import CalibrationTable, Range
from bmflow.tables.precision import PrecisionTable

Arrays = dict[str, np.ndarray]
SIZE = 12


class Net:
    """A top module under construction; maps are (1, channels, 12, 12)."""

    def __init__(self) -> None:
        self.builder = ModuleBuilder("net", "ONNX")
        self.x = self.builder.input("x", (1, 3, SIZE, SIZE))

    def conv(self, name: str, x: SSAValue, weights: np.ndarray, bias: np.ndarray | None = None) -> SSAValue:
        """A 1x1 convolution with weights (oc, ic)."""
        filters = self.builder.weight(f"{name}_w", weights.reshape(*weights.shape, 1, 1))
        offset = self.builder.none if bias is None else self.builder.weight(f"{name}_b", bias)
        settings = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0, 0, 0, 0]}
        kind = tensor_type((1, len(weights), SIZE, SIZE))
        return self.builder.append(TopConvOp.make(name, [x, filters, offset], kind, settings)).results[0]

    def op(self, kind: type[LayerOp], name: str, *operands: SSAValue) -> SSAValue:
        """An op that keeps the shape of its first operand."""
        return self.builder.append(kind.make(name, operands, operands[0].type)).results[0]

    def finish(self, *outputs: SSAValue) -> Module:
        """The module."""
        return self.builder.finish(outputs)


def mixing(rng: np.random.Generator, oc: int, ic: int = 3) -> np.ndarray:
    """Weights (oc, ic) whose rows have length 1, so that channels come out alike."""
    weights = rng.normal(size=(oc, ic))
    return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)


def samples(rng: np.random.Generator, count: int = 2) -> list[Arrays]:
    """Network inputs between -1 and 1."""
    return [{"x": rng.uniform(-1, 1, (1, 3, SIZE, SIZE)).astype(np.float32)} for _ in range(count)]


def ranges(module: Module, inputs: Sequence[Arrays], **thresholds: float) -> CalibrationTable:
    """The extremes of every layer; thresholds are the largest magnitudes but for those given."""
    network = Executable(module, "all", 1)
    values = [network.run(one) for one in inputs]
    found: dict[str, Range] = {}
    for name in values[0]:
        low, high = min(float(v[name].min()) for v in values), max(float(v[name].max()) for v in values)
        found[name] = Range(thresholds.get(name, max(-low, high)), low, high)
    return CalibrationTable(found)


@dataclass(frozen=True)
class Examined:
    """What was found of one network."""

    bench: Bench
    tallies: dict[str, Tally]
    network: Score
    layers: list[LayerReport]
    inputs: Sequence[Arrays]

    def trials(self) -> list[Trial]:
        """Every remedy tried, ranges of equalized networks by the largest values."""
        return try_remedies(self.bench, self.tallies, self.layers, Method.MAX, lambda what: self.inputs, len(self.inputs))

    def layer(self, name: str) -> LayerReport:
        """The report of a layer."""
        return next(layer for layer in self.layers if layer.name == name)

    @property
    def faults(self) -> dict[str, str]:
        """Names of faults by layer."""
        return {layer.name: layer.diagnosis.fault.name for layer in self.layers if layer.diagnosis}


def examine(module: Module, inputs: Sequence[Arrays], table: CalibrationTable, asymmetric: bool = False, qtable: str = "") -> Examined:
    """Measure everything, every effect included."""
    precision = PrecisionTable.load(qtable) if qtable else None
    bench = Bench(module, LoweringOptions(target.load("bm1684x"), "INT8", asymmetric, table, precision))
    tallies: dict[str, Tally] = {}
    for one in inputs:
        for name, tally in bench.profile(one).items():
            tallies[name] = tallies[name] + tally if name in tallies else tally
    exchanger = Exchanger(bench, bench.int8_forms)
    network, effects = exchanger.scores([exchanger.outputs_of(one) for one in inputs])
    return Examined(bench, tallies, network, describe(bench, tallies, effects), inputs)
