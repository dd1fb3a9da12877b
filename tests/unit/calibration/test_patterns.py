"""Layers better left in float, found by the shape of the network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bmflow import target
from bmflow.calibration.patterns import pattern_table, yolo_tail
from bmflow.correction.softmax import correct_softmaxes
from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.elementwise import TopAddOp, TopMulOp, TopSigmoidOp, TopSiLUOp, TopSoftmaxOp
from bmflow.dialects.top.pool import TopMaxPoolOp
from bmflow.dialects.top.shape import TopConcatOp, TopPermuteOp, TopReshapeOp
from bmflow.errors import InputError
from bmflow.ir.layer import layer_name
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.types import tensor_type
from bmflow.ir.values import SSAValue
from bmflow.kernels import Executable, to_real
from bmflow.passes.lowering import LoweringOptions, lower
from bmflow.passes.lowering.heads import is_head
from bmflow.tables.calibration import CalibrationTable, Range
from bmflow.tables.precision import PrecisionTable
from token_networks import CHANNELS, Net, Samples, calibrated, noise, outliers

SHAPE = (1, 4, 8, 8)
WINDOW = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0, 0, 0, 0]}


def detector(pools: int = 3, head: str = "top.Reshape") -> Module:
    """x -> silu -> pools -> concat -> silu -> head convolution -> reshape or sigmoid -> permute."""
    b = ModuleBuilder("net", "ONNX")
    y = b.append(TopSiLUOp.make("stem", [b.input("x", SHAPE)], tensor_type(SHAPE))).results[0]
    branches = [y]
    for i in range(pools):
        pool = {"kernel_shape": [5, 5], "strides": [1, 1], "pads": [2, 2, 2, 2]}
        branches.append(b.append(TopMaxPoolOp.make(f"pool{i}", [branches[-1]], tensor_type(SHAPE), pool)).results[0])
    joined = (1, 4 * len(branches), 8, 8)
    y = b.append(TopConcatOp.make("spp", branches, tensor_type(joined), {"axis": 1})).results[0]
    y = b.append(TopSiLUOp.make("neck", [y], tensor_type(joined))).results[0]
    weight = b.weight("w", np.ones((4, joined[1], 1, 1)))
    y = b.append(TopConvOp.make("head", [y, weight, b.none], tensor_type(SHAPE), WINDOW)).results[0]
    if head == "top.Reshape":
        y = b.append(TopReshapeOp.make("split", [y], tensor_type((1, 4, 64)))).results[0]
    else:
        y = b.append(TopSigmoidOp.make("split", [y], tensor_type(SHAPE))).results[0]
        y = b.append(TopReshapeOp.make("flat", [y], tensor_type((1, 4, 64)))).results[0]
    return b.finish([b.append(TopPermuteOp.make("turned", [y], tensor_type((1, 64, 4)), {"order": [0, 2, 1]})).results[0]])


def attention() -> Module:
    """x -> convolution -> silu -> convolution -> times scale -> plus mask -> softmax -> convolution."""
    b = ModuleBuilder("net", "ONNX")
    x, scale, mask = b.input("x", SHAPE), b.input("scale", SHAPE), b.input("mask", SHAPE)
    y = b.append(TopSiLUOp.make("act", [_conv(b, "stem", x)], tensor_type(SHAPE))).results[0]
    y = b.append(TopMulOp.make("scaled", [_conv(b, "keys", y), scale], tensor_type(SHAPE))).results[0]
    y = b.append(TopAddOp.make("masked", [y, mask], tensor_type(SHAPE))).results[0]
    y = b.append(TopSoftmaxOp.make("weights", [y], tensor_type(SHAPE), {"axis": 1})).results[0]
    return b.finish([b.append(TopSigmoidOp.make("out", [_conv(b, "values", y)], tensor_type(SHAPE))).results[0]])


def _conv(b: ModuleBuilder, name: str, x: SSAValue) -> SSAValue:
    weight = b.weight(f"{name}_w", np.ones((4, 4, 1, 1)))
    return b.append(TopConvOp.make(name, [x, weight, b.none], tensor_type(SHAPE), WINDOW)).results[0]


def test_three_pools_and_a_concat_are_a_yolo_network() -> None:
    assert yolo_tail(detector()) == ["split", "turned"]
    assert yolo_tail(detector(pools=2)) == []


def test_a_softmax_stays_float_with_scale_and_mask_before_it() -> None:
    table = pattern_table(attention(), "bm1684x")
    assert table.modes == {"scaled": "F16", "masked": "F16", "weights": "F16"}
    assert all(reason.startswith("pattern layers, softmax: exp ") for reason in table.reasons.values())


def test_a_scale_that_others_read_is_not_the_softmaxs_own() -> None:
    module = detector()
    assert pattern_table(module, "bm1684x", ["softmax"]).modes == {}
    b = ModuleBuilder("net", "ONNX")
    total = b.append(TopAddOp.make("sum", [b.input("x", SHAPE), b.input("z", SHAPE)], tensor_type(SHAPE))).results[0]
    soft = b.append(TopSoftmaxOp.make("soft", [total], tensor_type(SHAPE), {"axis": 1})).results[0]
    assert pattern_table(b.finish([soft, total]), "bm1684x", ["softmax"]).modes == {"soft": "F16"}


def test_the_first_and_the_last_layers_are_named_when_asked_for() -> None:
    assert pattern_table(attention(), "bm1684x", ["first"]).modes == {"stem": "F16", "act": "F16"}
    assert pattern_table(attention(), "bm1684x", ["last"]).modes == {"values": "F16", "out": "F16"}
    both = pattern_table(detector(), "bm1684x", ["last", "yolo"])
    assert both.modes == {"head": "F16", "split": "F16", "turned": "F16"}
    assert both.reasons["head"].startswith("pattern layers, last: ")
    assert both.reasons["split"].startswith("pattern layers, yolo: "), "the first pattern that names a layer gives the reason"


def test_patterns_can_be_switched_off_and_unknown_ones_are_refused() -> None:
    assert pattern_table(detector(), "bm1684x", []).modes == {}
    with pytest.raises(InputError, match=r"--patterns sofmax: no such pattern; did you mean softmax"):
        pattern_table(detector(), "bm1684x", ["sofmax"])


def test_what_follows_a_head_convolution_becomes_float_and_the_convolution_does_not() -> None:
    table = pattern_table(detector(), "bm1684x")
    assert table.modes == {"split": "F16", "turned": "F16"}
    assert PrecisionTable.parse(table.text()) == table
    assert table.reasons["split"].startswith("pattern layers, yolo: behind the head convolutions ")
    assert table.text().endswith(f"# {table.reasons['split']}\nsplit F16\nturned F16\n")


@pytest.mark.parametrize(("chip", "mode"), [("bm1684", "F32"), ("bm1688", "F16"), ("cv181x", "BF16")])
def test_the_float_type_is_the_processors(chip: str, mode: str) -> None:
    assert set(pattern_table(detector(), chip).modes.values()) == {mode}


def test_a_convolution_read_by_an_activation_is_no_head() -> None:
    module = detector(head="top.Sigmoid")
    assert not any(is_head(op) for op in module.layers())
    assert pattern_table(module, "bm1684x").modes == {}


def test_another_family_has_no_pattern_layers_but_a_table() -> None:
    table = pattern_table(detector(pools=1), "bm1684x")
    assert table.modes == {}
    assert PrecisionTable.parse(table.text()) == table


def test_small_probabilities_survive_in_float_alone(rng: np.random.Generator) -> None:
    """Of a hundred probabilities of about 1 % each, which 8 bits hold in steps of 1/255, the pattern keeps ten times as much."""
    b, wide = ModuleBuilder("net", "ONNX"), (1, 100, 4, 4)
    x = b.input("x", (1, 3, 4, 4))
    logits = TopConvOp.make("logits", [x, b.weight("w", rng.normal(size=(100, 3, 1, 1)) / 4), b.none], tensor_type(wide), WINDOW)
    soft = TopSoftmaxOp.make("soft", [b.append(logits).results[0]], tensor_type(wide), {"axis": 1})
    module = b.finish([b.append(soft).results[0]])
    sample = {"x": rng.normal(size=(1, 3, 4, 4)).astype(np.float32)}
    exact = Executable(module, "all", 1).run(sample)
    found = {name: Range(float(np.abs(value).max()), float(value.min()), float(value.max())) for name, value in exact.items()}
    options = LoweringOptions(target.load("bm1684x"), "INT8", table=CalibrationTable(found))

    def error(table: PrecisionTable) -> float:
        lowered = lower(module, replace(options, precision=table))
        [output] = lowered.outputs
        got = to_real(output, Executable(lowered, "outputs", 1).run(sample)[layer_name(output)])
        return float(np.linalg.norm(got - exact["soft"]))

    assert error(pattern_table(module, "bm1684x")) < error(PrecisionTable({})) / 10


def block(rng: np.random.Generator, with_attention: bool = True) -> tuple[Module, Samples]:
    """A residual stream, one channel of which reaches 20 times as far as the others; normalizations make the others large again."""
    net, far = Net(rng), outliers(20.0, 5)
    first = net.norm("first_norm", net.x, 5 / far)
    v = net.product("values", first, CHANNELS)
    mixed = net.attention(*(net.product(name, first, CHANNELS) for name in ("queries", "keys")), v) if with_attention else v
    stream = net.op(TopAddOp, "stream", [net.x, net.product("out", mixed, CHANNELS)])
    moved = net.slice("moved", stream, 0, CHANNELS)
    y = net.product("y", net.norm("norm", moved, 5 / far), 8)
    module = net.finish(y, net.op(TopAddOp, "sum", [y, net.product("z", mixed, 8)]))
    for name in ("queries", "keys") if with_attention else ():  # flat attention has little noise of its own
        module.weights[f"{name}_w"] *= np.float32(0.1)
    return module, [{"x": one["x"] * far.astype(np.float32)} for one in net.samples()]


def test_sums_in_front_of_a_normalization_stay_float_in_networks_with_attention(rng: np.random.Generator) -> None:
    """And with them what only moves their values in between; the sum at the end is read by no normalization."""
    table = pattern_table(block(rng)[0], "bm1684x", ["attention"])
    assert table.modes == {"stream": "F16", "moved": "F16"}
    assert table.reasons["stream"].startswith("pattern layers, attention: ")
    corrected = correct_softmaxes(*block(rng))
    assert pattern_table(corrected.module, "bm1684x", ["attention"]).modes == table.modes
    assert corrected.gains, "attention with a factor behind its Softmax is attention, too"
    assert pattern_table(block(rng, with_attention=False)[0], "bm1684x", ["attention"]).modes == {}


def test_a_float_sum_keeps_what_the_normalization_makes_large(rng: np.random.Generator) -> None:
    module, inputs = block(rng)
    options = calibrated(module, inputs)
    with_pattern = replace(options, precision=pattern_table(module, "bm1684x", ["attention"]))
    assert noise(module, module, inputs, with_pattern) < noise(module, module, inputs, options) / 2
