"""Small networks in which one layer is known to suffer from 8 bits, and what a search needs of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from bmflow import target
from bmflow.calibration.collect import Statistics
from bmflow.calibration.methods import Method
from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.elementwise import TopAddOp, TopSiLUOp
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.types import shape_of, tensor_type
from bmflow.ir.values import SSAValue
from bmflow.kernels import Executable
from bmflow.passes.lowering import LoweringOptions
from bmflow.search.cost import Cost
from bmflow.search.evaluator import Evaluator
from bmflow.search.journal import Journal, Scorer
from bmflow.tables.calibration import CalibrationTable

BAD = "bad"
OPTIONS = LoweringOptions(target.load("bm1684x"), "INT8")


def network(rng: np.random.Generator) -> Module:
    """x -> first -> act -> bad -> sum(bad, act) -> last.

    Channel 0 of `act` is always 0, yet the filters of `bad` have weights for it that are thousands of times larger than the others, so
    that 8 bits leave nothing of these. Every other layer is harmless.
    """
    builder = ModuleBuilder("net", "ONNX")
    x = builder.input("x", (1, 4, 8, 8))
    silent = rng.normal(size=(8, 4, 3, 3)).astype(np.float32)
    silent[0] = 0
    act = _append(builder, TopSiLUOp, "act", _conv(builder, rng, "first", x, 8, silent))
    spoilt = rng.normal(size=(8, 8, 3, 3)).astype(np.float32)
    spoilt[:, 0] = 3000
    bad = _conv(builder, rng, BAD, act, 8, spoilt)
    total = _append(builder, TopAddOp, "sum", bad, act)
    return builder.finish([_conv(builder, rng, "last", total, 4)])


def _conv(
    builder: ModuleBuilder, rng: np.random.Generator, name: str, x: SSAValue, channels: int, weights: np.ndarray | None = None
) -> SSAValue:
    shape = shape_of(x)
    weights = rng.normal(size=(channels, shape[1], 3, 3)).astype(np.float32) / 4 if weights is None else weights
    operands = [x, builder.weight(f"{name}_w", weights), builder.none]
    window = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}
    return builder.append(TopConvOp.make(name, operands, tensor_type((shape[0], channels, *shape[2:])), window)).results[0]


def _append(builder: ModuleBuilder, kind, name: str, *operands: SSAValue) -> SSAValue:
    return builder.append(kind.make(name, operands, tensor_type(shape_of(operands[0])))).results[0]


def samples(rng: np.random.Generator, count: int = 3) -> list[dict[str, np.ndarray]]:
    """Network inputs."""
    return [{"x": rng.uniform(-1, 1, (1, 4, 8, 8)).astype(np.float32)} for _ in range(count)]


def table(module: Module, inputs: list[dict[str, np.ndarray]], method: Method = Method.MAX) -> CalibrationTable:
    """Ranges of these inputs."""
    statistics, every = Statistics(module, method, len(inputs)), Executable(module, "all", 1)
    for one in inputs:
        statistics.add(every.run(one))
    return CalibrationTable(statistics.ranges(), method.value)


def scorer(module: Module, inputs: list[dict[str, np.ndarray]], path: str = "", digest: str = "") -> Scorer:
    """A scorer of the network outputs."""
    return Scorer(Evaluator(module, OPTIONS, inputs), Journal(path, digest))


def flat_cost(module: Module) -> Cost:
    """A made-up price list: 100 cycles for a layer in 8 bits, 250 in float, 20 for a cast; 10 bytes a layer."""
    from bmflow.ir.types import dtype_of

    def cycles(op) -> int:
        return 20 if op.name == "tpu.Cast" else 250 if dtype_of(op.results[0]).is_float else 100

    layers: Mapping[str, int] = {op.layer_name: cycles(op) for op in module.layers() if op.name != "top.Input"}
    return Cost(sum(layers.values()), 10 * len(layers), layers)


@dataclass(frozen=True)
class Case:
    """Everything a search is given."""

    module: Module
    inputs: list[dict[str, np.ndarray]]
    table: CalibrationTable

    def scorer(self, path: str = "", digest: str = "") -> Scorer:
        """A fresh scorer."""
        return scorer(self.module, self.inputs, path, digest)
