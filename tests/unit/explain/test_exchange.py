"""Layers by themselves and exchanged: the same figures as whole networks lowered and run for the purpose."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from bmflow import target
from bmflow.dialects.top.elementwise import TopAddOp, TopSiLUOp
from bmflow.explain.tally import Error
from bmflow.ir.module import Module
from bmflow.ir.types import quantization_of
from bmflow.kernels import Executable
from bmflow.passes.lowering import LoweringOptions, lower
from bmflow.tables.calibration import CalibrationTable
from bmflow.tables.precision import PrecisionTable
from patients import Arrays, Examined, Net, examine, mixing, ranges, samples

LAYERS = ("c1", "a1", "c2", "a2", "sum", "c3")


@pytest.fixture
def module(rng: np.random.Generator) -> Module:
    """c1 -> a1 (SiLU) -> c2 -> a2 (SiLU), sum = a1 + a2, c3 of the sum, which is the output."""
    net = Net()
    a1 = net.op(TopSiLUOp, "a1", net.conv("c1", net.x, mixing(rng, 6) * 4))
    a2 = net.op(TopSiLUOp, "a2", net.conv("c2", a1, mixing(rng, 6, 6) * 2))
    return net.finish(net.conv("c3", net.op(TopAddOp, "sum", a1, a2), mixing(rng, 5, 6)))


@pytest.fixture
def inputs(rng: np.random.Generator) -> list[Arrays]:
    """Two samples."""
    return samples(rng)


def noise(float_values: list[np.ndarray], found: list[np.ndarray]) -> float:
    """Mean over channels of error over spread, as the report defines it."""
    y, q = (
        np.stack(values).transpose(2, 0, 1, 3, 4).reshape(values[0].shape[1], -1).astype(np.float64) for values in (float_values, found)
    )
    return float(np.mean(((q - y) ** 2).sum(1) / ((y - y.mean(1, keepdims=True)) ** 2).sum(1)))


def whole(module: Module, table: CalibrationTable, inputs: list[Arrays], modes: Mapping[str, str]) -> list[np.ndarray]:
    """The output of the network lowered with these modes."""
    lowered = lower(module, LoweringOptions(target.load("bm1684x"), "INT8", table=table, precision=PrecisionTable(modes)))
    network = Executable(lowered, "outputs", 1)
    return [next(iter(network.run(one).values())) for one in inputs]


@pytest.fixture
def examined(module: Module, inputs: list[Arrays]) -> Examined:
    """Everything about it."""
    return examine(module, inputs, ranges(module, inputs))


def test_outputs_with_a_layer_exchanged_are_those_of_the_network_lowered_so(
    module: Module, inputs: list[Arrays], examined: Examined
) -> None:
    table = ranges(module, inputs)
    floats = [next(iter(Executable(module, "outputs", 1).run(one).values())) for one in inputs]
    readers = {"c1": ["a1"], "a1": ["c2", "sum"], "c2": ["a2"], "a2": ["sum"], "sum": ["c3"], "c3": []}
    for name in LAYERS:
        effect = examined.layer(name).effect
        assert effect is not None
        alone = dict.fromkeys(LAYERS, "F32") | {name: "INT8"}
        lifted = {name: "F16"}
        for score, modes in ((effect.alone, alone), (effect.lifted, lifted), (effect.freed, lifted | dict.fromkeys(readers[name], "F16"))):
            if score is None:
                assert name == "c3"
                assert modes == lifted
                continue
            assert score.noise == pytest.approx(noise(floats, whole(module, table, inputs, modes)), rel=1e-4), (name, modes)
    assert examined.network.noise == pytest.approx(noise(floats, whole(module, table, inputs, {})), rel=1e-4)


def test_a_layer_alone_is_that_of_the_network_with_nothing_else_in_int8(module: Module, inputs: list[Arrays], examined: Examined) -> None:
    table, floats = ranges(module, inputs), Executable(module, "all", 1)
    for name in LAYERS:
        modes = dict.fromkeys(LAYERS, "F32") | {name: "INT8"}
        lowered = lower(module, LoweringOptions(target.load("bm1684x"), "INT8", table=table, precision=PrecisionTable(modes)))
        op = next(op for op in lowered.layers() if op.layer_name == name)
        quantization = quantization_of(op.results[0])
        assert quantization is not None
        found = [Executable(lowered, [name], 1).run(one)[name] * np.float32(quantization.scale) for one in inputs]
        exact = [floats.run(one)[name] for one in inputs]
        if name in ("c1", "c2"):  # SiLU reads them: what lies below -8 is all the same to it
            found, exact = ([np.maximum(values, -8) for values in both] for both in (found, exact))
        assert examined.layer(name).noise(Error.ALONE) == pytest.approx(noise(exact, found), rel=1e-3), name


def test_worst_layers_come_first(examined: Examined) -> None:
    noises = [layer.output_noise for layer in examined.layers if layer.output_noise is not None]
    assert noises == sorted(noises, reverse=True)
    assert len(noises) == len(LAYERS)


def test_layers_of_a_quantize_table_are_float_with_its_reason(module: Module, inputs: list[Arrays]) -> None:
    found = examine(module, inputs, ranges(module, inputs), qtable="c2:F16")
    layer = found.layer("c2")
    assert (layer.mode, layer.why, layer.in_int8) == ("F16", "quantize table", False)
    assert layer.effect is not None
    assert layer.effect.alone is not None
    assert layer.effect.lifted is None
