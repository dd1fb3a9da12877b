"""--we: channels are scaled one by one and the float network stays what it was."""

from __future__ import annotations

import numpy as np
import pytest
import top_numpy
from bmflow.correction.channel_graph import ChannelGraph
from bmflow.correction.channel_statistics import ChannelStatistics
from bmflow.correction.equalize import Equalized, equalize
from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.elementwise import TopAddOp, TopSigmoidOp, TopSiLUOp
from bmflow.dialects.top.pool import TopMaxPoolOp
from bmflow.dialects.top.shape import TopConcatOp, TopReshapeOp, TopUpsampleOp
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.types import shape_of, tensor_type
from bmflow.ir.values import SSAValue

WIDE = np.geomspace(0.05, 20.0, 8)
"""Gains that make the channels of a feature map 400 times apart."""


class Net:
    """A small detector-like network under construction."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.builder = rng, ModuleBuilder("net", "ONNX")

    def conv(
        self, name: str, x: SSAValue, oc: int, kernel: int = 1, gains: np.ndarray | None = None, group: int = 1, **more: object
    ) -> SSAValue:
        n, ic, h, w = shape_of(x)
        gain = np.ones(oc) if gains is None else np.resize(gains, oc)
        weights = self.rng.normal(size=(oc, ic // group, kernel, kernel)) * gain[:, None, None, None]
        operands = [x, self.builder.weight(f"{name}_w", weights), self.builder.weight(f"{name}_b", self.rng.normal(size=oc) * gain)]
        attributes = {"kernel_shape": [kernel] * 2, "strides": [1, 1], "pads": [kernel // 2] * 4, "group": group, "do_relu": False, **more}
        return self.op(TopConvOp, name, operands, (n, oc, h, w), **attributes)

    def op(self, kind: type[LayerOp], name: str, operands: list[SSAValue], shape: tuple[int, ...], **attributes: object) -> SSAValue:
        return self.builder.append(kind.make(name, operands, tensor_type(shape), attributes)).results[0]  # pyright: ignore[reportArgumentType]

    def silu(self, name: str, x: SSAValue) -> SSAValue:
        return self.op(TopSiLUOp, name, [x], shape_of(x))


@pytest.fixture
def module(rng: np.random.Generator) -> Module:
    """Convolutions with SiLU, a depthwise one, Add, MaxPool, Upsample, Concat, a Sigmoid head, a Reshape at the end."""
    net = Net(rng)
    x = net.builder.input("x", (1, 3, 6, 6))
    a = net.silu("a", net.conv("a_conv", x, 8, 3, WIDE))
    d = net.silu("d", net.conv("d_conv", a, 8, 3, WIDE[::-1], group=8))
    s = net.op(TopAddOp, "s", [d, net.silu("e", net.conv("e_conv", d, 8, 1, WIDE))], (1, 8, 6, 6))
    pool = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}
    c = net.op(TopConcatOp, "c", [s, net.op(TopMaxPoolOp, "p", [s], (1, 8, 6, 6), **pool)], (1, 16, 6, 6), axis=1)
    u = net.op(TopUpsampleOp, "u", [net.conv("r_conv", c, 8, 1, WIDE, do_relu=True)], (1, 8, 12, 12), scale_h=2, scale_w=2)
    head = net.conv("head", u, 4, 1)
    scores = net.op(TopSigmoidOp, "scores", [net.conv("scores_conv", u, 4, 1)], (1, 4, 12, 12))
    flat = [net.op(TopReshapeOp, f"flat{i}", [value], (1, 576)) for i, value in enumerate((head, scores))]
    return net.builder.finish(flat)


@pytest.fixture
def sample(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.normal(size=(1, 3, 6, 6)).astype(np.float32)}


def statistics(values: dict[str, np.ndarray]) -> dict[str, ChannelStatistics]:
    maps = {name: v for name, v in values.items() if v.ndim == 4}
    return {n: ChannelStatistics(v.min((0, 2, 3)), v.max((0, 2, 3)), (v**2).mean((0, 2, 3))) for n, v in maps.items()}


@pytest.fixture
def equalized(module: Module, sample: dict[str, np.ndarray]) -> Equalized:
    return equalize(module, statistics(top_numpy.run(module, sample)))


def test_outputs_stay_the_same(module: Module, equalized: Equalized, sample: dict[str, np.ndarray]) -> None:
    before, after = top_numpy.run(module, sample), top_numpy.run(equalized.module, sample)
    for name in module.output_names:
        np.testing.assert_allclose(after[name], before[name], rtol=2e-4, atol=2e-4 * np.abs(before[name]).max())


def test_the_module_given_is_left_alone(module: Module, sample: dict[str, np.ndarray]) -> None:
    text = str(module)
    equalize(module, statistics(top_numpy.run(module, sample)))
    assert str(module) == text


def test_arguments_of_activations_fill_their_range_channel_by_channel(equalized: Equalized, sample: dict[str, np.ndarray]) -> None:
    after = top_numpy.run(equalized.module, sample)
    for name in ("a_conv", "d_conv", "e_conv", "scores_conv"):
        assert np.abs(after[name].max((0, 2, 3)) - 1).max() < 1e-3


def test_maps_read_by_depthwise_filters_alone_get_equal_peaks(equalized: Equalized, sample: dict[str, np.ndarray]) -> None:
    peaks = np.abs(top_numpy.run(equalized.module, sample)["a"]).max((0, 2, 3))
    assert peaks.max() / peaks.min() < 1.001


def quantized(values: np.ndarray, peak: np.ndarray | float) -> np.ndarray:
    """Signed 8 bits over -peak..peak."""
    step = np.maximum(peak, 1e-12) / 127
    return np.clip(np.rint(values / step), -127, 127) * step


def noise_to_signal(module: Module, values: dict[str, np.ndarray], name: str) -> float:
    """Mean over output channels of error power over power, when a convolution's input and filter have 8 bits."""
    (op,) = (op for op in module.layers() if op.layer_name == name)
    assert isinstance(op, TopConvOp)
    x, w = values[op.input.owner.location.desc.data], module.weight(op.filter).astype(np.float64)  # pyright: ignore
    exact = top_numpy.OPS["top.Conv"](op, x, w, None)
    rounded = top_numpy.OPS["top.Conv"](op, quantized(x, np.abs(x).max()), quantized(w, np.abs(w).max((1, 2, 3), keepdims=True)), None)
    return float(np.mean(((rounded - exact) ** 2).mean((0, 2, 3)) / (exact**2).mean((0, 2, 3))))


def compensated(rng: np.random.Generator) -> Module:
    """Channels 400 times apart whose differences the next filter makes up for, so that each of them counts."""
    net = Net(rng)
    wide = net.silu("wide", net.conv("first", net.builder.input("x", (1, 3, 6, 6)), 8, 3, WIDE))
    net.conv("second", wide, 16, 1)
    net.builder.module.weights["second_w"] /= WIDE.astype(np.float32)[None, :, None, None]
    value = net.builder.block.last_op.results[0]  # pyright: ignore[reportOptionalMemberAccess]
    return net.builder.finish([net.op(TopReshapeOp, "flat", [value], (1, 576))])


def test_eight_bits_lose_less_where_every_channel_counts(rng: np.random.Generator, sample: dict[str, np.ndarray]) -> None:
    module = compensated(rng)
    values = top_numpy.run(module, sample)
    after = equalize(module, statistics(values)).module
    assert noise_to_signal(after, top_numpy.run(after, sample), "second") < noise_to_signal(module, values, "second") / 20


def test_depthwise_filters_lose_less(module: Module, equalized: Equalized, sample: dict[str, np.ndarray]) -> None:
    before = noise_to_signal(module, top_numpy.run(module, sample), "d_conv")
    assert noise_to_signal(equalized.module, top_numpy.run(equalized.module, sample), "d_conv") < before / 2


def test_the_spread_of_channels_is_reported(module: Module, equalized: Equalized, sample: dict[str, np.ndarray]) -> None:
    peaks = np.abs(top_numpy.run(module, sample)["a"]).max((0, 2, 3))
    assert equalized.scaled["a"] == pytest.approx(peaks.max() / peaks.min(), rel=1e-6)


def test_layers_keep_their_names(module: Module, equalized: Equalized) -> None:
    names = {op.layer_name for op in equalized.module.layers()}
    assert {op.layer_name for op in module.layers()} <= names


def test_pools_sums_and_concats_tie_channels_together(module: Module) -> None:
    graph = ChannelGraph(module)
    values = {op.layer_name: op.results[0] for op in module.layers()}
    s, c = graph.classes(values["s"]), graph.classes(values["c"])
    np.testing.assert_array_equal(np.concatenate([s, s]), c)
    np.testing.assert_array_equal(graph.classes(values["d"]), s)
    assert not graph.fixed(values["c"]).any()


def test_inputs_and_what_feeds_a_reshape_keep_their_scale(module: Module) -> None:
    graph = ChannelGraph(module)
    values = {op.layer_name: op.results[0] for op in module.layers()}
    assert all(graph.fixed(values[name]).all() for name in ("x", "head", "scores"))


def alike(rng: np.random.Generator, gains: np.ndarray) -> tuple[Module, dict[str, np.ndarray]]:
    """Channels with the same values in other places, times `gains`; the filter behind weighs all of them alike."""
    net = Net(rng)
    values = rng.normal(size=36)
    x = np.stack([rng.permutation(values) for _ in gains]).reshape(1, len(gains), 6, 6)
    first = net.conv("first", net.builder.input("x", x.shape), len(gains), 1, do_relu=True)
    head = net.conv("head", first, 4, 1)
    weights = {"first_w": np.diag(gains), "first_b": np.zeros(len(gains)), "head_w": rng.choice([-1.0, 1.0], (4, len(gains))) / gains}
    for name, value in weights.items():
        net.builder.module.weights[name] = value.astype(np.float32).reshape(net.builder.module.weights[name].shape)
    return net.builder.finish([net.op(TopReshapeOp, "flat", [head], (1, 144))]), {"x": x.astype(np.float32)}


@pytest.mark.parametrize("spread", [1.0, 1.005])
def test_channels_that_are_alike_keep_their_weights_byte_for_byte(spread: float, rng: np.random.Generator) -> None:
    module, sample = alike(rng, np.geomspace(1, spread, 8))
    found = equalize(module, statistics(top_numpy.run(module, sample)))
    assert found.scaled == {}
    assert (str(found.module), found.module.weights_digest()) == (str(module), module.weights_digest())


def test_the_same_channels_further_apart_are_scaled(rng: np.random.Generator) -> None:
    module, sample = alike(rng, np.geomspace(1, 30, 8))
    found = equalize(module, statistics(top_numpy.run(module, sample)))
    assert found.scaled == {"first": pytest.approx(30, rel=1e-5)}


def test_a_channel_that_the_samples_keep_silent_is_not_stretched(rng: np.random.Generator) -> None:
    """Its Relu lets nothing through; scaled to full range, any error before the Relu would outgrow all other channels."""
    module, sample = alike(rng, np.geomspace(1, 30, 8))
    module.weights["first_b"][3] = -1000
    after = equalize(module, statistics(top_numpy.run(module, sample))).module
    (first,) = (op for op in after.layers() if op.layer_name == "first")
    assert isinstance(first, TopConvOp)
    assert np.abs(after.weight(first.filter)[3]).max() < 2 * np.abs(module.weights["first_w"][3]).max()


def test_a_concat_without_channels_stays_out_of_it(rng: np.random.Generator, sample: dict[str, np.ndarray]) -> None:
    """Boxes of two heads, reshaped to (1, boxes, 4) and put behind each other, as SSD detectors give them."""
    net = Net(rng)
    a = net.silu("a", net.conv("a_conv", net.builder.input("x", (1, 3, 6, 6)), 8, 3, WIDE))
    heads = [net.op(TopReshapeOp, f"flat{i}", [net.conv(f"head{i}", a, 8)], (1, 72, 4)) for i in range(2)]
    module = net.builder.finish([net.op(TopConcatOp, "boxes", heads, (1, 144, 4), axis=1)])
    after = equalize(module, statistics(top_numpy.run(module, sample))).module
    expected = top_numpy.run(module, sample)["boxes"]
    np.testing.assert_allclose(top_numpy.run(after, sample)["boxes"], expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())
