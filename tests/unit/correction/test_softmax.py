"""--smc: small probabilities keep more of themselves in 8 bits, and the float network stays what it was."""

from __future__ import annotations

import numpy as np
import pytest
from bmflow.correction.softmax import can_be_corrected, correct_softmaxes
from bmflow.dialects.top.elementwise import TopMulOp, TopSoftmaxOp
from bmflow.dialects.top.matmul import TopMatMulOp
from bmflow.ir.layer import layer_name
from bmflow.ir.module import Module
from bmflow.kernels import Executable
from bmflow.passes.lowering import explain_modes
from token_networks import CHANNELS, Net, Samples, assert_same_in_float, calibrated, noise, without_table

TOKENS = 96


def attention(rng: np.random.Generator, sharpness: float) -> tuple[Module, Samples]:
    """Attention over 96 tokens: probabilities of about 1 % each, or, the sharper, one of them near 1."""
    net = Net(rng, TOKENS)
    q, k = (net.product(name, net.x, CHANNELS) for name in ("queries", "keys"))
    for name in ("queries", "keys"):
        net.builder.module.weights[f"{name}_w"] *= np.float32(sharpness)
    module = net.finish(net.attention(q, k, net.product("values", net.x, CHANNELS)))
    return module, net.samples(3)


def test_flat_attention_loses_a_tenth_of_what_it_lost(rng: np.random.Generator) -> None:
    module, samples = attention(rng, 0.3)
    found = correct_softmaxes(module, samples)
    assert list(found.gains) == ["p"]
    assert_same_in_float(module, found.module, samples)
    assert noise(module, found.module, samples) < noise(module, module, samples) / 10


def test_sharp_attention_is_left_alone_byte_for_byte(rng: np.random.Generator) -> None:
    module, samples = attention(rng, 3.0)
    found = correct_softmaxes(module, samples)
    assert (found.gains, found.left) == ({}, ["p"])
    assert (str(found.module), found.module.weights_digest()) == (str(module), module.weights_digest())


def test_the_first_factor_is_computed_in_float_and_only_that_makes_it_useful(rng: np.random.Generator) -> None:
    """In 8 bits it would scale what has been rounded to steps of 1/255 already."""
    module, samples = attention(rng, 0.3)
    corrected = correct_softmaxes(module, samples).module
    options = calibrated(corrected, samples)
    assert explain_modes(corrected, options)["p_scaled"] == "F16: scales the float result of p before it is rounded to 8 bits"
    assert options.table is not None
    row = options.table.ranges["p_scaled"]
    assert (row.threshold, row.low, row.high) == (1.0, 0.0, 1.0)
    in_integers = noise(module, corrected, samples, without_table(options, p_scaled="INT8"))
    assert in_integers > 0.9 * noise(module, module, samples)


def test_scales_are_those_of_the_notes_or_a_multiple(rng: np.random.Generator) -> None:
    """Mean over rows and samples of the largest probability of a row, by its definition."""
    module, samples = attention(rng, 0.3)
    found = correct_softmaxes(module, samples)
    network = Executable(module, ["p"], 1)
    largest = np.mean([network.run(one)["p"].max(-1).mean(-1)[0] for one in samples], 0)
    scales = np.array(found.gains["p"].scales)
    multiples = [scales / largest, scales / largest.mean()]
    assert any(np.ptp(ratio) < 1e-6 and 1 - 1e-6 < ratio[0] < 4 + 1e-6 for ratio in multiples) or np.ptp(scales) == 0


def test_the_product_keeps_its_name_and_what_read_it_reads_the_second_factor(rng: np.random.Generator) -> None:
    module, samples = attention(rng, 0.3)
    corrected = correct_softmaxes(module, samples).module
    layers = {op.layer_name: op for op in corrected.layers()}
    assert isinstance(layers["mixed"], TopMulOp)
    assert isinstance(layers["mixed_scaled"], TopMatMulOp)
    assert [layer_name(value) for value in layers["mixed_scaled"].operands[:2]] == ["p_scaled", "v"]
    assert layer_name(layers["turned"].operands[0]) == "mixed"
    values = [Executable(m, ["mixed"], 1).run(samples[0])["mixed"] for m in (module, corrected)]
    np.testing.assert_allclose(values[1], values[0], rtol=0, atol=1e-5 * np.abs(values[0]).max())


def test_rows_of_the_product_behind_the_heads_take_the_second_factor(rng: np.random.Generator) -> None:
    """Heads of different sharpness, so that each row gets the factor of its own; nothing is rounded on the way that was not before."""
    net = Net(rng, TOKENS)
    q, k = (net.product(name, net.x, CHANNELS) for name in ("queries", "keys"))
    sharpness = np.repeat([0.2, 0.5], CHANNELS // 2).astype(np.float32)
    for name in ("queries", "keys"):
        net.builder.module.weights[f"{name}_w"] *= sharpness
        net.builder.module.weights[f"{name}_c"] *= sharpness
    mixed = net.attention(q, k, net.product("values", net.x, CHANNELS))
    module, samples = net.finish(net.product("y", mixed, 8, transposed=True)), net.samples(3)
    found = correct_softmaxes(module, samples)
    assert [op.layer_name for op in found.module.layers() if isinstance(op, TopMulOp)] == ["p_scaled"]
    assert_same_in_float(module, found.module, samples)
    (op,) = (op for op in found.module.layers() if op.layer_name == "y")
    assert isinstance(op, TopMatMulOp)
    factors = found.module.weight(op.right) / module.weights["y_w"]
    np.testing.assert_allclose(factors, np.tile(np.repeat(found.gains["p"].scales, CHANNELS // 2), (8, 1)), rtol=1e-5)
    assert noise(module, found.module, samples) < noise(module, module, samples) / 5


def test_a_product_that_is_a_network_output_stays_one(rng: np.random.Generator) -> None:
    net = Net(rng, TOKENS, 24)
    scores = net.slice("scores", net.x, 0, 16)
    p = net.op(TopSoftmaxOp, "p", [scores], axis=2)
    right = net.builder.input("v", (1, 16, 5))
    module = net.finish(net.op(TopMatMulOp, "y", [p, right, net.builder.none], (1, TOKENS, 5)))
    assert can_be_corrected(module)
    samples = [{"x": rng.normal(0, 0.01, (1, TOKENS, 24)).astype(np.float32), "v": rng.normal(size=(1, 16, 5)).astype(np.float32)}]
    found = correct_softmaxes(module, samples)
    assert list(found.gains) == ["p"]
    assert_same_in_float(module, found.module, samples)


@pytest.mark.parametrize("what", ["over channels", "by a constant", "with a bias"])
def test_other_products_are_no_attention(what: str, rng: np.random.Generator) -> None:
    net = Net(rng, TOKENS)
    p = net.op(TopSoftmaxOp, "p", [net.x], axis=1 if what == "over channels" else 2)
    if what == "by a constant":
        y = net.product("y", p, 4)
    else:
        bias = net.builder.weight("c", np.ones(4)) if what == "with a bias" else net.builder.none
        y = net.op(TopMatMulOp, "y", [p, net.builder.input("v", (1, CHANNELS, 4)), bias], (1, TOKENS, 4))
    assert not can_be_corrected(net.finish(y))
