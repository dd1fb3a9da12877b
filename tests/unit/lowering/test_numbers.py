"""Lowered networks compute nearly what the float network computes: random small ones, and the four first real ones.

Expected noise: a uniform rounding error of one step has variance step^2 / 12. For Gaussian values whose peak is about four standard
deviations that is 41 dB below the signal in 8 bits; a layer adds the errors of its input, weights and result (36 dB), four
layers those of each other (30 dB). The bounds leave a factor of two in amplitude. The fraction of F16 has 11 bits, of BF16 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from bmflow.dialects.top.elementwise import TopAddOp, TopReluOp, TopSigmoidOp, TopSiLUOp
from bmflow.dialects.top.pool import TopAvgPoolOp, TopMaxPoolOp
from bmflow.dialects.top.shape import TopConcatOp, TopUpsampleOp
from bmflow.frontend.onnx import import_onnx
from bmflow.ir.layer import layer_name
from bmflow.ir.module import Module
from bmflow.ir.types import shape_of
from bmflow.ir.values import SSAValue
from bmflow.kernels import Executable, to_real
from bmflow.passes import optimize_top
from bmflow.passes.lowering import lower
from bmflow.tables.calibration import CalibrationTable, Range
from hypothesis import given, settings
from hypothesis import strategies as st
from lowering_net import Net, options_of

MODES = {"INT8": 24.0, "INT8 asymmetric": 24.0, "F16": 54.0, "BF16": 34.0, "F32": 100.0}
"""Least signal to noise in dB for networks of up to four layers."""


def layer(net: Net, rng: np.random.Generator, kind: str, x: SSAValue) -> SSAValue:
    """Append a block that keeps the signal's size."""
    name = f"{kind}{sum(1 for _ in net.builder.block.ops)}"
    n, c, h, w = shape_of(x)
    if kind in ("relu", "silu", "sigmoid"):
        y = net.conv(f"{name}_conv", x, rng.normal(size=(6, c, 3, 3)) / (3 * c**0.5), rng.normal(size=6) / 8, do_relu=kind == "relu")
        return y if kind == "relu" else net.op({"silu": TopSiLUOp, "sigmoid": TopSigmoidOp}[kind], name, [y], (n, 6, h, w))
    if kind == "residual":
        y = net.conv(f"{name}_conv", x, rng.normal(size=(c, c, 1, 1)) / c**0.5, rng.normal(size=c) / 8)
        return net.op(TopAddOp, name, [x, y], (n, c, h, w), do_relu=bool(rng.integers(2)))
    if kind == "concat":
        y = net.conv(f"{name}_conv", x, rng.normal(size=(3, c, 1, 1)) / c**0.5, None)
        return net.op(TopConcatOp, name, [net.op(TopReluOp, f"{name}_relu", [y], (n, 3, h, w)), x], (n, c + 3, h, w), axis=1)
    window = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 0, 0]}
    y = net.op(TopAvgPoolOp if kind == "average" else TopMaxPoolOp, name, [x], (n, c, h // 2, w // 2), **window)
    return net.op(TopUpsampleOp, f"{name}_up", [y], (n, c, h, w), scale_h=2, scale_w=2)


def table_from(values: Mapping[str, np.ndarray]) -> CalibrationTable:
    """Extremes of each layer."""
    extremes = {name: (float(array.min()), float(array.max())) for name, array in values.items()}
    return CalibrationTable({name: Range(max(-low, high, 1e-5), low, high) for name, (low, high) in extremes.items()})


def signal_to_noise(values: np.ndarray, reference: np.ndarray) -> float:
    """In dB."""
    signal, noise = (float(np.sum(np.square(array, dtype=np.float64))) for array in (reference, values - reference))
    return 10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30))


def worst(module: Module, inputs: Mapping[str, np.ndarray], mode: str) -> float:
    """Least signal to noise over the outputs of a module that is calibrated on the inputs it is judged by."""
    reference = Executable(module, expose="all", threads=1).run(inputs)
    kind, _, asymmetric = mode.partition(" ")
    lowered = lower(module, options_of(kind, table_from(reference) if kind == "INT8" else None, asymmetric=bool(asymmetric)))
    result = Executable(lowered, threads=1).run(inputs)
    pairs = zip(module.output_names, lowered.outputs, strict=True)
    return min(signal_to_noise(to_real(value, result[layer_name(value)]), reference[name]) for name, value in pairs)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=12, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["relu", "silu", "sigmoid", "residual", "concat", "max", "average"]), min_size=1, max_size=4),
    seed=st.integers(0, 1 << 16),
)
def test_a_random_network_stays_close_to_its_float_form(mode: str, kinds: list[str], seed: int) -> None:
    rng, net = np.random.default_rng(seed), Net()
    x = net.input("x", (1, 4, 8, 8))
    inputs = {"x": rng.normal(size=(1, 4, 8, 8)).astype(np.float32)}
    for kind in kinds:
        x = layer(net, rng, kind, x)
    assert worst(net.finish(x), inputs, mode) > MODES[mode]


@dataclass(frozen=True)
class Network:
    """A real network, how its picture is made, and the bound in dB for INT8.

    squeezenet ends in a sharp softmax; yolox_nano has depthwise convolutions whose channels differ by orders of magnitude, which one
    scale per tensor does not serve: it needs more than ranges (bias correction, scales per channel, mixed types).
    """

    name: str
    size: tuple[int, int]
    scale: float
    int8: float
    floats: tuple[str, ...] = ()


NETWORKS = (
    Network("yolov5n", (640, 640), 1 / 255, 20.0),
    Network("yolox_nano", (416, 416), 1.0, 4.0),
    Network("ultraface_rfb320", (240, 320), 1 / 128, 15.0, ("459_Concatscores_Softmax_f16", "scores_Softmax", "scores_Softmax_f32")),
    Network("squeezenet_v1.1", (227, 227), 1.0, 8.0),
)


def picture(network: Network, folder: Path) -> np.ndarray:
    """dog.jpg, stretched."""
    pixels = cv2.imread(str(folder / "images" / "dog.jpg"))
    assert pixels is not None
    resized = cv2.resize(pixels, network.size[::-1]).astype(np.float32) * network.scale
    return np.ascontiguousarray(resized.transpose(2, 0, 1)[None])


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda network: network.name)
def case(request: pytest.FixtureRequest, test_data: Path) -> tuple[Network, Module, dict[str, np.ndarray]]:
    """A network, its top module and an input."""
    network = request.param
    module = import_onnx(test_data / "models" / f"{network.name}.onnx", network.name).module
    optimize_top(module)
    return network, module, {module.inputs[0].layer_name: picture(network, test_data)}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_real_network_stays_close_to_its_float_form(case: tuple[Network, Module, dict[str, np.ndarray]], mode: str) -> None:
    network, module, inputs = case
    bound = {"INT8": network.int8, "INT8 asymmetric": network.int8, "F16": 40.0, "BF16": 25.0, "F32": 100.0}[mode]
    assert worst(module, inputs, mode) > bound


@pytest.mark.slow
@pytest.mark.parametrize("asymmetric", [False, True])
def test_only_the_published_layers_of_a_real_network_stay_float_in_int8(
    case: tuple[Network, Module, dict[str, np.ndarray]], asymmetric: bool
) -> None:
    network, module, inputs = case
    table = table_from(Executable(module, expose="all", threads=1).run(inputs))
    lowered = lower(module, options_of("INT8", table, asymmetric=asymmetric))
    outputs = {f"{name}_f32" for name in module.output_names}
    inner = [op.layer_name for op in lowered.layers() if "!quant.uniform" not in str(op.results[0].type) and op.name != "top.Input"]
    assert [name for name in inner if name not in outputs or name in network.floats] == list(network.floats)
    assert lowered.output_names == [f"{name}_f32" for name in module.output_names]
