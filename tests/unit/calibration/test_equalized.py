"""Ranges that follow from the weights of an equalized module."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from bmflow.calibration.equalized import ranges_of_weights
from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.elementwise import TopScaledActiveOp, TopSiLUOp
from bmflow.dialects.top.pool import TopMaxPoolOp
from bmflow.dialects.top.shape import TopConcatOp, TopUpsampleOp
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.types import shape_of, tensor_type
from bmflow.ir.values import SSAValue
from bmflow.tables.calibration import Range

FOUND = Range(9.0, -7.0, 8.0)
"""What the samples said of every layer."""
HALF, CENTRE, FACTOR = np.array([0.01, 3.0, 4.0, 20.0]), np.array([-6.0, -1.0, 2.0, 12.0]), np.array([30.0, 2.0, 0.5, 0.04])


class Net:
    """Convolutions, each followed by an activation, under construction."""

    def __init__(self) -> None:
        self.builder = ModuleBuilder("net", "ONNX")
        self.x = self.builder.input("x", (1, 4, 6, 6))

    def op(self, kind: type[LayerOp], name: str, operands: list[SSAValue], shape: tuple[int, ...], **attributes: object) -> SSAValue:
        return self.builder.append(kind.make(name, operands, tensor_type(shape), attributes)).results[0]  # pyright: ignore[reportArgumentType]

    def conv(self, name: str, x: SSAValue) -> SSAValue:
        weights = self.builder.weight(f"{name}_w", np.ones((4, shape_of(x)[1], 1, 1)))
        attributes = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "do_relu": False}
        return self.op(TopConvOp, name, [x, weights, self.builder.none], (1, 4, 6, 6), **attributes)

    def active(self, name: str, x: SSAValue, mode: str, factor: np.ndarray = FACTOR) -> SSAValue:
        numbers = {"half": HALF, "centre": CENTRE, "factor": factor}
        weights = [self.builder.weight(f"{name}_{key}", value.reshape(1, 4, 1, 1)) for key, value in numbers.items()]
        return self.op(TopScaledActiveOp, name, [self.conv(f"{name}_conv", x), *weights], shape_of(x), mode=mode)


def ranges(module: Module) -> dict[str, Range]:
    return ranges_of_weights(module, {op.layer_name: FOUND for op in module.layers()})


def sampled(function: Callable[[np.ndarray], np.ndarray], factor: np.ndarray = FACTOR) -> tuple[float, float]:
    """Least and largest result over every argument from -1 to 1, in steps of 1 / 100000, in all channels."""
    arguments = np.linspace(-1, 1, 200001)[:, None] * np.float32(HALF) + np.float32(CENTRE)
    values = function(arguments) * np.float32(factor)
    return float(values.min()), float(values.max())


def silu(x: np.ndarray) -> np.ndarray:
    return x * sigmoid(x)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))


def test_arguments_reach_from_minus_one_to_one() -> None:
    net = Net()
    assert ranges(net.builder.finish([net.active("a", net.x, "SILU")]))["a_conv"] == Range(1.0, -1.0, 1.0)


@pytest.mark.parametrize(("mode", "function"), [("SILU", silu), ("SIGMOID", sigmoid)], ids=["SiLU", "Sigmoid"])
@pytest.mark.parametrize("channel", [None, 0, 1, 2, 3], ids=["all", "below the turn", "across it", "across it too", "far up"])
def test_results_reach_as_far_as_the_function_carries_the_arguments(
    mode: str, function: Callable[[np.ndarray], np.ndarray], channel: int | None
) -> None:
    factor = FACTOR if channel is None else np.where(np.arange(4) == channel, FACTOR, 1e-9)
    net = Net()
    found = ranges(net.builder.finish([net.active("a", net.x, mode, factor)]))["a"]
    low, high = sampled(function, factor)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-5, abs=1e-8)
    assert found.threshold == max(abs(found.low), abs(found.high))


def test_pools_and_upsampling_hand_a_range_on_and_a_concat_takes_the_widest() -> None:
    net = Net()
    a, b = net.active("a", net.x, "SILU"), net.active("b", net.x, "SIGMOID", 40 * FACTOR)
    pool = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0] * 4}
    p = net.op(TopMaxPoolOp, "p", [a], (1, 4, 3, 3), **pool)
    u = net.op(TopUpsampleOp, "u", [p], (1, 4, 6, 6), scale_h=2, scale_w=2)
    found = ranges(net.builder.finish([net.op(TopConcatOp, "c", [u, b], (1, 8, 6, 6), axis=1)]))
    assert found["p"] == found["u"] == found["a"]
    (a_low, a_high), (b_low, b_high) = sampled(silu), sampled(sigmoid, 40 * FACTOR)
    low, high = min(a_low, b_low), max(a_high, b_high)
    assert (found["c"].low, found["c"].high) == pytest.approx((low, high), rel=1e-5)
    assert found["c"].threshold == pytest.approx(max(-low, high), rel=1e-5)


def test_a_concat_with_something_else_keeps_what_the_samples_said() -> None:
    net = Net()
    a, y = net.active("a", net.x, "SILU"), net.conv("y", net.x)
    constant = net.builder.weight("constant", np.full((1, 4, 6, 6), 1000.0))
    module = net.builder.finish([
        net.op(TopConcatOp, "c", [a, y], (1, 8, 6, 6), axis=1), net.op(TopConcatOp, "d", [a, constant], (1, 8, 6, 6), axis=1)
    ])  # fmt: skip
    found = ranges(module)
    assert {name: found[name] for name in ("x", "y", "c", "d")} == dict.fromkeys(("x", "y", "c", "d"), FOUND)


def test_layers_without_a_range_get_none() -> None:
    net = Net()
    module = net.builder.finish([net.active("a", net.x, "SILU")])
    assert ranges_of_weights(module, {"x": FOUND}) == {"x": FOUND}


def test_a_module_that_was_not_equalized_keeps_its_table() -> None:
    net = Net()
    silus = [net.op(TopSiLUOp, name, [net.conv(f"{name}_conv", net.x)], (1, 4, 6, 6)) for name in ("a", "b")]
    module = net.builder.finish([net.op(TopConcatOp, "c", silus, (1, 8, 6, 6), axis=1)])
    assert ranges(module) == {op.layer_name: FOUND for op in module.layers()}
