"""What is said of a remedy is what the network with it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from bmflow.calibration.equalized import ranges_of_weights
from bmflow.correction.channel_statistics import channel_statistics
from bmflow.correction.equalize import equalize
from bmflow.dialects.top.elementwise import TopSiLUOp, TopSoftmaxOp
from bmflow.explain.advice import Situation, advise
from bmflow.explain.diagnose import Remedy
from bmflow.explain.trials import Trial
from bmflow.ir.module import Module
from bmflow.kernels import Executable, to_real
from bmflow.passes.lowering import LoweringOptions, lower
from bmflow.tables.calibration import CalibrationTable
from bmflow.tables.precision import PrecisionTable
from patients import Arrays, Examined, Net, examine, mixing, ranges, samples
from token_networks import CHANNELS, outliers
from token_networks import Net as Tokens


def noise(exact: Module, module: Module, options: LoweringOptions, inputs: Sequence[Arrays]) -> float:
    """Error over spread of the one output, mean over its channels, by its definition."""
    [output] = lower(module, options).outputs
    floats, lowered = Executable(exact, "outputs", 1), Executable(lower(module, options), "outputs", 1)
    y = np.concatenate([next(iter(floats.run(one).values())) for one in inputs]).astype(np.float64)
    q = np.concatenate([to_real(output, next(iter(lowered.run(one).values()))) for one in inputs]).astype(np.float64)
    return float((np.square(q - y).sum((0, 2, 3)) / np.square(y - y.mean((0, 2, 3), keepdims=True)).sum((0, 2, 3))).mean())


def by_remedy(found: Examined) -> dict[Remedy, Trial]:
    """Trials by what was tried."""
    return {trial.remedy: trial for trial in found.trials()}


def silu_network(rng: np.random.Generator, gains: np.ndarray | None = None) -> Module:
    """first -> SiLU -> last, whose channels matter alike whatever the gains are."""
    gains, net = np.ones(8) if gains is None else gains, Net()
    first = net.conv("first", net.x, mixing(rng, 8) * gains[:, None].astype(np.float32) * 4)
    last = net.conv("last", net.op(TopSiLUOp, "act", first), mixing(rng, 4, 8) / gains.astype(np.float32))
    return net.finish(last)


def test_other_tables_and_zero_points_are_measured_on_the_whole_network(rng: np.random.Generator) -> None:
    module, inputs = silu_network(rng), samples(rng)
    table = ranges(module, inputs, first=2.0)
    found = examine(module, inputs, table)
    trials, options = by_remedy(found), found.bench.options
    assert trials[Remedy.ASYMMETRIC].after.noise == pytest.approx(noise(module, module, replace(options, asymmetric=True), inputs))
    largest = replace(options, table=ranges(module, inputs))
    assert trials[Remedy.KEEP_LARGEST].after.noise == pytest.approx(noise(module, module, largest, inputs))
    some = replace(options, table=replace(table, asym_ops=("act", "last")))
    assert trials[Remedy.PART_ASYMMETRIC].after.noise == pytest.approx(noise(module, module, some, inputs))


def test_equalization_is_measured_on_the_equalized_network(rng: np.random.Generator) -> None:
    module, inputs = silu_network(rng, np.geomspace(0.02, 4, 8)), samples(rng)
    found = examine(module, inputs, ranges(module, inputs))
    after = by_remedy(found)[Remedy.EQUALIZE].after.noise
    equalized = equalize(module, channel_statistics(module, inputs)).module
    table = CalibrationTable(ranges_of_weights(equalized, ranges(equalized, inputs).ranges))
    assert after == pytest.approx(noise(module, equalized, replace(found.bench.options, table=table), inputs))
    assert after < found.network.noise / 2


def test_float_layers_are_measured_with_those_that_go_along(rng: np.random.Generator) -> None:
    module, inputs = silu_network(rng), samples(rng)
    found = examine(module, inputs, ranges(module, inputs, first=0.2))
    trial = by_remedy(found)[Remedy.FLOAT]
    assert 1 <= trial.layers <= 3
    assert trial.after.noise < found.network.noise / 2


def test_the_float_layers_known_for_the_shape_are_tried_unless_others_are_given(rng: np.random.Generator) -> None:
    net, inputs = Net(), samples(rng)
    logits = net.conv("logits", net.x, mixing(rng, 100) * 2)
    module = net.finish(net.builder.append(TopSoftmaxOp.make("soft", [logits], logits.type, {"axis": 1})).results[0])
    table = ranges(module, inputs)
    found = examine(module, inputs, table)
    after = by_remedy(found)[Remedy.PATTERN].after.noise
    options = replace(found.bench.options, precision=PrecisionTable({"soft": "F16"}))
    assert after == pytest.approx(noise(module, module, options, inputs))
    assert after < found.network.noise / 4
    assert Remedy.PATTERN not in by_remedy(examine(module, inputs, table, qtable="logits:F16"))
    advice = advise(found.network, found.trials(), Situation("n.mlir", "out/t", ("--dataset", "d"), 2, "max", "bm1684x", False, False))
    assert any(command.endswith("--quantize_table out/shape_pattern_qtable --processor bm1684x --model n_int8.bmodel")
               for step in advice.steps for command in step.commands)  # fmt: skip


def test_clipping_that_the_outputs_do_not_see_asks_for_nothing(rng: np.random.Generator) -> None:
    """Channel 5 is far out and clipped, which is most of the noise of `first`; yet `last` does not read it, and keeping it would cost all
    others their steps."""
    net, inputs = Net(), samples(rng)
    gains = np.where(np.arange(8) == 5, 50, 1).astype(np.float32)[:, None]
    first = net.conv("first", net.x, mixing(rng, 8) * gains)
    module = net.finish(net.conv("last", first, mixing(rng, 4, 8) * (np.arange(8) != 5).astype(np.float32)))
    found = examine(module, inputs, ranges(module, inputs, first=2.0))
    assert found.faults["first"] == "CLIPPED"
    assert by_remedy(found)[Remedy.KEEP_LARGEST].after.noise > 10 * found.network.noise


def test_remedies_taken_already_are_not_tried(rng: np.random.Generator) -> None:
    module, inputs = silu_network(rng), samples(rng)
    tried = by_remedy(examine(module, inputs, ranges(module, inputs), asymmetric=True)).keys()
    assert not tried & {Remedy.ASYMMETRIC, Remedy.PART_ASYMMETRIC, Remedy.KEEP_LARGEST}
    table = replace(ranges(module, inputs), asym_ops=("act", "last"))
    assert Remedy.PART_ASYMMETRIC not in by_remedy(examine(module, inputs, table))


def test_corrections_of_attention_are_tried_where_they_apply(rng: np.random.Generator) -> None:
    """Outliers behind a normalization, and probabilities of 1 % each: either remedy takes away its part, and the commands make the files named."""
    net, far = Tokens(rng, 96), outliers(40.0, 3, 11)
    q, k, v = (net.product(name, net.norm(f"{name}_norm", net.x, far), CHANNELS, far) for name in ("queries", "keys", "values"))
    for name in ("queries", "keys"):
        net.builder.module.weights[f"{name}_w"] *= np.float32(0.3)
    module, inputs = net.finish(net.attention(q, k, v)), net.samples(2)
    found = examine(module, inputs, ranges(module, inputs))
    trials = by_remedy(found)
    assert trials[Remedy.SMOOTH].after.noise < found.network.noise / 2
    assert trials[Remedy.SOFTMAX].after.noise < 0.95 * found.network.noise
    advice = advise(found.network, found.trials(), Situation("n.mlir", "t", ("--dataset", "d"), 2, "max", "bm1684x", False, False))
    lines = [command for step in advice.steps for command in step.commands]
    assert "run_calibration n.mlir --dataset d --input_num 2 --cali_method max --sq -o t_sq" in lines
    assert any(line.startswith("bmflow explain n_smc.mlir --calibration_table t_smc") for line in lines)


def test_corrections_that_change_nothing_are_not_tried(rng: np.random.Generator) -> None:
    module, inputs = silu_network(rng), samples(rng)
    assert not by_remedy(examine(module, inputs, ranges(module, inputs))).keys() & {Remedy.SMOOTH, Remedy.SOFTMAX}
