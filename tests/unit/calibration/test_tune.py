"""Tuning against the slow walk of the reference, on a network small enough to write down."""

from __future__ import annotations

import numpy as np
import pytest
from bmflow.calibration.tune import TuneSettings, fake_quantize, tune
from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.elementwise import TopAddOp, TopSiLUOp
from bmflow.dialects.top.shape import TopConcatOp, TopPermuteOp, TopUpsampleOp
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.types import tensor_type
from calibration_reference import Op, tuned

SMALL, JOINED, LARGE = (1, 4, 6, 6), (1, 8, 6, 6), (1, 8, 12, 12)
TURNED = (1, 6, 8, 6)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


@pytest.fixture
def network(rng: np.random.Generator) -> tuple[Module, list[Op]]:
    """A residual block, a concat of its branches, a relu convolution, an upsample and a permute; and the same as formulas."""
    w1, w2 = rng.normal(size=(4, 4)).astype(np.float32), rng.normal(size=(8, 8)).astype(np.float32)
    b = ModuleBuilder("net", "ONNX")
    window = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0, 0, 0, 0]}
    x = b.input("x", SMALL)
    conv = b.append(TopConvOp.make("conv", [x, b.weight("w1", w1[:, :, None, None]), b.none], tensor_type(SMALL), window)).results[0]
    act = b.append(TopSiLUOp.make("act", [conv], tensor_type(SMALL))).results[0]
    add = b.append(TopAddOp.make("add", [act, x], tensor_type(SMALL))).results[0]
    both = b.append(TopConcatOp.make("both", [add, conv], tensor_type(JOINED), {"axis": 1})).results[0]
    head = TopConvOp.make("head", [both, b.weight("w2", w2[:, :, None, None]), b.none], tensor_type(JOINED), window | {"do_relu": True})
    up = b.append(TopUpsampleOp.make("up", [b.append(head).results[0]], tensor_type(LARGE), {"scale_h": 2, "scale_w": 2})).results[0]
    turned_op = TopPermuteOp.make("turned", [up], tensor_type((1, 12, 8, 12)), {"order": [0, 2, 1, 3]})
    module = b.finish([b.append(turned_op).results[0]])
    ops: list[Op] = [
        ("conv", ["x"], lambda x: np.einsum("oi,nihw->nohw", w1, x)),
        ("act", ["conv"], silu),
        ("add", ["act", "x"], lambda a, b: a + b),
        ("both", ["add", "conv"], lambda a, b: np.concatenate((a, b), 1)),
        ("head", ["both"], lambda x: np.maximum(np.einsum("oi,nihw->nohw", w2, x), 0)),
        ("up", ["head"], lambda x: x.repeat(2, 2).repeat(2, 3)),
        ("turned", ["up"], lambda x: x.transpose(0, 2, 1, 3)),
    ]
    return module, ops


def all_values(ops: list[Op], x: np.ndarray) -> dict[str, np.ndarray]:
    values = {"x": x}
    for name, inputs, formula in ops:
        values[name] = formula(*(values[i] for i in inputs))
    return values


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_thresholds_follow_the_published_walk(network: tuple[Module, list[Op]], rng: np.random.Generator, share: float) -> None:
    module, ops = network
    batches = [{"x": (rng.standard_t(4, size=SMALL)).astype(np.float32)} for _ in range(4)]
    values = [all_values(ops, batch["x"]) for batch in batches]
    largest = {name: max(float(np.abs(sample[name]).max()) for sample in values) for name in values[0]}
    table = {name: share * bound for name, bound in largest.items()}
    found = tune(module, batches, table, largest)
    expected = tuned(ops, values, table)
    assert found == pytest.approx(expected, rel=1e-6)
    assert any(expected[name] > table[name] for name in table)


def test_tensors_close_to_their_largest_value_are_left_alone(network: tuple[Module, list[Op]], rng: np.random.Generator) -> None:
    module, ops = network
    batches = [{"x": rng.normal(size=SMALL).astype(np.float32)}]
    largest = {name: float(np.abs(v).max()) for name, v in all_values(ops, batches[0]["x"]).items()}
    table = {name: bound - 0.0099 for name, bound in largest.items()}
    assert tune(module, batches, table, largest) == table
    assert tune(module, batches, table, largest, TuneSettings(least=0.001)) != table


def test_an_output_of_zeros_changes_nothing(network: tuple[Module, list[Op]]) -> None:
    module, _ = network
    names = ("x", "conv", "act", "add", "both", "head", "up", "turned")
    table = dict.fromkeys(names, 1.0)
    assert tune(module, [{"x": np.zeros(SMALL, np.float32)}], table, dict.fromkeys(names, 2.0)) == table


def test_fake_quantization_rounds_ties_to_even_and_clips_unevenly() -> None:
    x = np.float32([-3.0, -1.5, -0.5, 0.5, 1.5, 2.5, 126.5, 500.0, -500.0])
    np.testing.assert_array_equal(fake_quantize(x, 127.0), [-3, -2, 0, 0, 2, 2, 126, 127, -128])
