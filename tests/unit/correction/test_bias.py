"""--bc: biases make up for the mean error of 8 bits."""

from __future__ import annotations

import numpy as np
import pytest
from bmflow import target
from bmflow.correction.bias import bias_errors, correct_biases
from bmflow.dialects.top.conv import TopConvOp
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.types import tensor_type
from bmflow.kernels import Executable, to_real
from bmflow.passes.lowering import LoweringOptions, lower
from bmflow.tables.calibration import CalibrationTable, Range
from token_networks import CHANNELS, Net, calibrated

SHAPE = (1, 8, 12, 12)


@pytest.fixture
def module(rng: np.random.Generator) -> Module:
    """One 1x1 convolution of positive inputs, whose weights round to one side: mean errors that a bias can undo."""
    builder = ModuleBuilder("net", "ONNX")
    x = builder.input("x", SHAPE)
    steps = rng.integers(-126, 126, (4, 8, 1, 1)) + 0.4
    steps[:, 0] = 127
    operands = [x, builder.weight("w", steps / 127), builder.weight("b", np.zeros(4))]
    attributes = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "do_relu": False}
    y = builder.append(TopConvOp.make("y", operands, tensor_type((1, 4, 12, 12)), attributes)).results[0]
    return builder.finish([y])


@pytest.fixture
def samples(rng: np.random.Generator) -> list[dict[str, np.ndarray]]:
    return [{"x": rng.uniform(0, 1, SHAPE).astype(np.float32)} for _ in range(3)]


def lowered(module: Module) -> Module:
    table = CalibrationTable({"x": Range(1.0, 0.0, 1.0), "y": Range(6.0, -6.0, 6.0)})
    return lower(module, LoweringOptions(target.load("bm1684x"), "INT8", table=table))


def mean_error(module: Module, reference: Module, samples: list[dict[str, np.ndarray]]) -> np.ndarray:
    exact, rounded = Executable(reference), Executable(lowered(module), ["y"])
    value = next(op for op in lowered(module).layers() if op.layer_name == "y").results[0]
    errors = [to_real(value, rounded.run(sample)["y"]) - exact.run(sample)["y"] for sample in samples]
    return np.mean(errors, axis=(0, 1, 3, 4))


def test_the_mean_error_of_every_channel_is_found(module: Module, samples: list[dict[str, np.ndarray]]) -> None:
    found = bias_errors(module, lowered(module), samples)
    np.testing.assert_allclose(found["y"], mean_error(module, module, samples), atol=1e-6)


def test_corrected_biases_take_most_of_it_away(module: Module, samples: list[dict[str, np.ndarray]]) -> None:
    before = np.abs(mean_error(module, module, samples))
    corrected = correct_biases(module, bias_errors(module, lowered(module), samples))
    assert np.abs(mean_error(corrected, module, samples)).mean() < before.mean() / 5


def test_layers_that_reach_a_cosine_can_be_left_out(module: Module, samples: list[dict[str, np.ndarray]]) -> None:
    """The score is 0.5 + 0.5 * cosine over all samples."""
    value = next(op for op in lowered(module).layers() if op.layer_name == "y").results[0]
    exact = np.stack([Executable(module).run(sample)["y"] for sample in samples]).astype(np.float64).ravel()
    found = np.stack([to_real(value, Executable(lowered(module), ["y"]).run(sample)["y"]) for sample in samples]).astype(np.float64).ravel()
    score = 0.5 + 0.5 * float(exact @ found / np.sqrt((exact @ exact) * (found @ found)))
    assert score < 1
    assert list(bias_errors(module, lowered(module), samples, below=score + 1e-6)) == ["y"]
    assert not bias_errors(module, lowered(module), samples, below=score - 1e-6)


def test_a_convolution_that_rounds_evenly_is_hardly_touched(module: Module, samples: list[dict[str, np.ndarray]]) -> None:
    module.weights["w"] = np.rint(module.weights["w"] * 127).astype(np.float32) / 127
    assert np.abs(bias_errors(module, lowered(module), samples)["y"]).max() < 6 / 127 / 4


def test_a_network_that_8_bits_compute_exactly_keeps_its_biases(rng: np.random.Generator) -> None:
    """Integers everywhere, in steps of 1: at most 8 inputs up to 3, weights -1, 0 and 1, so that no sum leaves 8 bits."""
    builder = ModuleBuilder("net", "ONNX")
    x = builder.input("x", SHAPE)
    operands = [x, builder.weight("w", rng.integers(-1, 2, (4, 8, 1, 1))), builder.weight("b", rng.integers(-9, 10, 4))]
    attributes = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "do_relu": False}
    y = builder.append(TopConvOp.make("y", operands, tensor_type((1, 4, 12, 12)), attributes)).results[0]
    module = builder.finish([y])
    table = CalibrationTable({name: Range(127.0, -127.0, 127.0) for name in ("x", "y")})
    samples = [{"x": rng.integers(-3, 4, SHAPE).astype(np.float32)} for _ in range(3)]
    errors = bias_errors(module, lower(module, LoweringOptions(target.load("bm1684x"), "INT8", table=table)), samples)
    assert not errors["y"].any()
    corrected = correct_biases(module, errors)
    assert (str(corrected), corrected.weights_digest()) == (str(module), module.weights_digest())


def test_mean_errors_of_matrix_products_are_taken_out_of_their_biases(rng: np.random.Generator) -> None:
    """Positive tokens, and weights that round to one side."""
    net = Net(rng, 12)
    module = net.finish(net.product("y", net.x, 6))
    steps = rng.integers(-126, 126, (CHANNELS, 6)) + 0.4
    steps[0] = 127
    module.weights["y_w"] = (steps / 127).astype(np.float32)
    inputs = [{"x": rng.uniform(0, 1, (1, 12, CHANNELS)).astype(np.float32)} for _ in range(3)]
    options, exact = calibrated(module, inputs), Executable(module)

    def mean_errors(net: Module) -> np.ndarray:
        made = lower(net, options)
        value, executable = next(op for op in made.layers() if op.layer_name == "y").results[0], Executable(made, ["y"])
        return np.mean([to_real(value, executable.run(one)["y"]) - exact.run(one)["y"] for one in inputs], (0, 1, 2))

    before, found = mean_errors(module), bias_errors(module, lower(module, options), inputs)["y"]
    assert np.abs(found - before).max() < 0.1 * np.abs(before).max(), "values at the ends of the range are left out"
    assert np.abs(mean_errors(correct_biases(module, {"y": found}))).mean() < np.abs(before).mean() / 5
