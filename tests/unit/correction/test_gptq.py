"""--gptq: filters on the 8-bit grid, whose errors cancel on inputs that vary together."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
import top_numpy
from bmflow import target
from bmflow.correction.for_int8 import constants_for_int8, drop_for_int8
from bmflow.correction.gptq import PLACES, _Windows, round_filters, round_rows
from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.matmul import TopMatMulOp
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.types import tensor_type
from bmflow.kernels import Executable
from bmflow.passes.lowering import LoweringOptions, lower
from bmflow.passes.lowering.conv import quantize_filter
from bmflow.passes.lowering.matmul import quantize_matrix
from bmflow.tables.calibration import CalibrationTable, Range
from token_networks import CHANNELS, Net, noise

Samples = list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Case:
    """One convolution of an input of 4 channels, 7 x 8."""

    id: str
    oc: int = 3
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1
    batch: int = 1

    @property
    def places(self) -> list[tuple[int, int]]:
        """Upper left corner, in the padded input, of every output place."""
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        sizes = [size + self.pads[i] + self.pads[i + 2] for i, size in enumerate((7, 8))]
        rows, columns = (range(0, size - span + 1, stride) for size, span, stride in zip(sizes, spans, self.strides, strict=True))
        return list(product(rows, columns))

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the output."""
        return len({row for row, _ in self.places}), len({column for _, column in self.places})


CASES = (
    Case("pointwise", kernel=(1, 1)),
    Case("no pads"),
    Case("a batch of two", pads=(1, 1, 1, 1), batch=2),
    Case("strides and uneven pads", strides=(2, 3), pads=(0, 1, 2, 3)),
    Case("dilations", pads=(2, 1, 2, 1), dilations=(2, 1)),
    Case("wide", kernel=(1, 3), pads=(0, 1, 0, 1)),
    Case("two groups", oc=6, pads=(1, 1, 1, 1), group=2),
    Case("depthwise", oc=4, pads=(1, 1, 1, 1), group=4),
    Case("depthwise, two filters a channel", oc=8, strides=(2, 2), group=4),
)


def network(case: Case, weights: np.ndarray, bias: np.ndarray | None) -> Module:
    """x -> Conv y."""
    builder = ModuleBuilder("net", "ONNX")
    x = builder.input("x", (case.batch, 4, 7, 8))
    operands = [x, builder.weight("w", weights), builder.none if bias is None else builder.weight("b", bias)]
    attributes = {
        "kernel_shape": list(case.kernel), "strides": list(case.strides), "pads": list(case.pads), "dilations": list(case.dilations),
        "group": case.group, "do_relu": False,
    }  # fmt: skip
    result = tensor_type((case.batch, case.oc, *case.size))
    return builder.finish([builder.append(TopConvOp.make("y", operands, result, attributes)).results[0]])


def random_network(case: Case, rng: np.random.Generator) -> Module:
    return network(case, rng.normal(size=(case.oc, 4 // case.group, *case.kernel)), rng.normal(size=case.oc))


def correlated(rng: np.random.Generator, batch: int = 1, count: int = 3) -> Samples:
    """Inputs whose channels follow two common ones, and whose means are not zero."""
    mix = rng.normal(size=(4, 2))
    common = (np.einsum("ck,nkhw->nchw", mix, rng.normal(size=(batch, 2, 7, 8))) for _ in range(count))
    return [{"x": (x + 0.1 * rng.normal(size=x.shape) + np.arange(1, 5)[:, None, None]).astype(np.float32)} for x in common]


def conv(module: Module) -> TopConvOp:
    (op,) = (op for op in module.layers() if isinstance(op, TopConvOp))
    return op


def in_8_bits(module: Module) -> Module:
    """The network that forms in 8 bits compute, before they round activations."""
    other = module.clone()
    for op in other.layers():
        if isinstance(op, TopConvOp | TopMatMulOp):
            op.operands = [op.operands[0], *constants_for_int8(op)]
    return other


def patches(case: Case, samples: Samples) -> np.ndarray:
    """(places, group, k): what the filter sees at every place of every sample, element by element, 0 outside of the input."""
    found: list[list[float]] = []
    for x in (picture for sample in samples for picture in sample["x"]):
        for row, column in case.places:
            seen: list[float] = []
            for c, i, j in product(range(4), range(case.kernel[0]), range(case.kernel[1])):
                y, z = row + i * case.dilations[0] - case.pads[0], column + j * case.dilations[1] - case.pads[1]
                seen.append(float(x[c, y, z]) if 0 <= y < 7 and 0 <= z < 8 else 0.0)
            found.append(seen)
    return np.reshape(found, (len(found), case.group, -1))


def covariance(rng: np.random.Generator, size: int, common: int) -> np.ndarray:
    mix = rng.normal(size=(size, common))
    return mix @ mix.T + 0.05 * np.eye(size)


def nearest(weights: np.ndarray) -> np.ndarray:
    """Each weight to its nearest of 255 steps, row by row."""
    step = np.abs(weights).max(1, keepdims=True) / 127
    return np.rint(weights / step) * step


@pytest.mark.parametrize("size", [5, 64, 150])
def test_rounded_rows_are_integers_times_the_largest_weight_which_stays(size: int, rng: np.random.Generator) -> None:
    weights = rng.normal(size=(6, size))
    rounded = round_rows(weights, covariance(rng, size, 4))
    at = np.abs(weights).argmax(1)[:, None]
    np.testing.assert_array_equal(np.take_along_axis(rounded, at, 1), np.take_along_axis(weights, at, 1))
    integers = rounded / (np.abs(weights).max(1, keepdims=True) / 127)
    np.testing.assert_allclose(integers, np.rint(integers), atol=1e-9)
    assert np.abs(integers).max() < 127 + 1e-9


@pytest.mark.parametrize("size", [32, 150])
def test_errors_cancel_on_inputs_that_vary_together(size: int, rng: np.random.Generator) -> None:
    """E |(W - Q) x|^2 = trace((W - Q) cov(x) (W - Q)')."""
    weights, shared = rng.normal(size=(16, size)), covariance(rng, size, 6)

    def error(rounded: np.ndarray) -> float:
        return float(np.trace((weights - rounded) @ shared @ (weights - rounded).T))

    assert error(round_rows(weights, shared)) < error(nearest(weights)) / 2


def test_inputs_that_do_not_vary_together_give_the_nearest_steps(rng: np.random.Generator) -> None:
    weights = rng.normal(size=(8, 100))
    np.testing.assert_allclose(round_rows(weights, np.diag(rng.uniform(0.1, 9, 100))), nearest(weights), rtol=1e-12)


def test_a_row_of_zeros_stays(rng: np.random.Generator) -> None:
    weights = rng.normal(size=(3, 9))
    weights[1] = 0
    assert not round_rows(weights, covariance(rng, 9, 2))[1].any()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_moments_over_all_places_are_those_of_the_patches(case: Case, rng: np.random.Generator) -> None:
    samples = correlated(rng, case.batch)
    assert len(case.places) * case.batch <= PLACES, "all places are to be looked at"
    inputs = _Windows(conv(random_network(case, rng)))
    for sample in samples:
        inputs.add(sample["x"], rng)
    mean, found = inputs.moments()
    seen = patches(case, samples)
    np.testing.assert_allclose(mean, seen.mean(0), rtol=1e-5, atol=1e-6)
    for g in range(case.group):
        np.testing.assert_allclose(found[g], np.cov(seen[:, g], rowvar=False, bias=True), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_lowering_finds_the_integers_of_a_rounded_filter(case: Case, rng: np.random.Generator) -> None:
    module = random_network(case, rng)
    rounded = in_8_bits(round_filters(module, correlated(rng, case.batch)))
    before, after = (net.weight(conv(net).filter).reshape(case.oc, -1).astype(np.float64) for net in (module, rounded))
    largest = np.abs(before).max(1, keepdims=True)
    integers = np.rint(after / (largest / 127))
    np.testing.assert_allclose(integers * largest / 127, after, rtol=1e-6)
    found = quantize_filter(rounded.weight(conv(rounded).filter), True)
    np.testing.assert_array_equal(found.integers.reshape(case.oc, -1), integers)
    np.testing.assert_allclose(found.scales, largest[:, 0] / 127, rtol=1e-12)


@pytest.mark.parametrize("with_bias", [True, False], ids=["a bias", "no bias before"])
@pytest.mark.parametrize("case", [CASES[0], CASES[3], CASES[6], CASES[7]], ids=lambda case: case.id)
def test_the_bias_takes_what_a_rounded_filter_adds_on_average(case: Case, with_bias: bool, rng: np.random.Generator) -> None:
    """b' = b + (W - Q) mean(x), group by group."""
    samples, weights = correlated(rng, case.batch), rng.normal(size=(case.oc, 4 // case.group, *case.kernel)).astype(np.float32)
    bias = rng.normal(size=case.oc).astype(np.float32) if with_bias else None
    rounded = in_8_bits(round_filters(network(case, weights, bias), samples))
    op = conv(rounded)
    change = (weights.astype(np.float64) - rounded.weight(op.filter)).reshape(case.group, case.oc // case.group, -1)
    means = patches(case, samples).mean(0)
    expected = np.concatenate([change[g] @ means[g] for g in range(case.group)]) + (0 if bias is None else bias)
    np.testing.assert_allclose(rounded.weight(op.bias).reshape(-1), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", [CASES[2], CASES[6], CASES[7]], ids=lambda case: case.id)
def test_outputs_on_average_stay_and_vary_less_than_with_nearest_weights(case: Case, rng: np.random.Generator) -> None:
    module, samples = random_network(case, rng), correlated(rng, case.batch, 8)
    weights = module.weight(conv(module).filter)
    plain = network(case, nearest(weights.reshape(case.oc, -1)).reshape(weights.shape), module.weight(conv(module).bias))

    def errors(other: Module) -> np.ndarray:
        return np.stack([top_numpy.run(other, sample)["y"] - top_numpy.run(module, sample)["y"] for sample in samples])

    rounded = errors(in_8_bits(round_filters(module, samples)))
    axes = (0, 1, 3, 4)
    np.testing.assert_allclose(rounded.mean(axes), 0, atol=1e-5)
    assert rounded.var(axes).sum() < errors(plain).var(axes).sum()


@pytest.mark.parametrize(
    "steps",
    [np.float64(0.731) / 127, np.array([0.1, 2.0, 31.7]).reshape(3, 1, 1, 1) / 127, 1.0, 1 / 64],
    ids=["one scale", "a scale for each channel", "integers", "sixty-fourths"],
)
@pytest.mark.parametrize("with_bias", [True, False], ids=["a bias", "no bias"])
def test_a_filter_on_the_grid_stays_byte_for_byte(steps: np.ndarray, with_bias: bool, rng: np.random.Generator) -> None:
    integers = rng.integers(-60, 61, (3, 4, 3, 3))
    integers[:, 0, 0, 0] = 127 if np.max(steps) < 1 / 64 or np.ndim(steps) else 60
    module = network(Case("grid"), integers * steps, rng.normal(size=3) if with_bias else None)
    rounded = round_filters(module, correlated(rng))
    assert str(rounded) == str(module)
    assert rounded.weights_digest() == module.weights_digest()


def test_rounding_twice_changes_nothing_more(rng: np.random.Generator) -> None:
    samples = correlated(rng, 2)
    once = round_filters(random_network(CASES[2], rng), samples)
    twice = round_filters(once, samples)
    assert (str(twice), twice.weights_digest()) == (str(once), once.weights_digest())


def test_the_same_seed_gives_the_same_module(rng: np.random.Generator) -> None:
    """With more places than are looked at, so that the seed decides which."""
    case = Case("many places", pads=(1, 1, 1, 1), batch=10)
    assert len(case.places) * case.batch > PLACES
    module, samples = random_network(case, rng), correlated(rng, case.batch)
    first, second, other = (round_filters(module, samples, seed=seed) for seed in (3, 3, 4))
    assert (str(first), first.weights_digest()) == (str(second), second.weights_digest())
    assert first.weights_digest() != other.weights_digest()


@pytest.mark.parametrize("spread", [0.0, 1e-4], ids=["never", "hardly ever"])
def test_inputs_that_do_not_change_are_no_trouble(spread: float, rng: np.random.Generator) -> None:
    """Their covariance is nothing but rounding errors, if computed from large sums."""
    module = random_network(CASES[0], rng)
    x = np.array([0.3, 7.7, 113.7, -31.1]).reshape(1, 4, 1, 1) * (1 + spread * rng.normal(size=(1, 4, 7, 8)))
    rounded = in_8_bits(round_filters(module, [{"x": x.astype(np.float32)}] * 3))
    exact, found = (top_numpy.run(net, {"x": x})["y"] for net in (module, rounded))
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-3 * np.abs(exact).max())


def test_the_module_given_is_left_alone(rng: np.random.Generator) -> None:
    module = random_network(CASES[1], rng)
    text, digest = str(module), module.weights_digest()
    round_filters(module, correlated(rng))
    assert (str(module), module.weights_digest()) == (text, digest)


def correlated_tokens(rng: np.random.Generator, count: int = 4) -> Samples:
    """Tokens whose channels follow two common ones, and whose means are not zero."""
    mix = rng.normal(size=(2, CHANNELS))
    tokens = (rng.normal(size=(1, 64, 2)) @ mix + 0.1 * rng.normal(size=(1, 64, CHANNELS)) + 1 for _ in range(count))
    return [{"x": x.astype(np.float32)} for x in tokens]


@pytest.mark.parametrize("transposed", [False, True], ids=["k x n", "n x k"])
def test_a_matrix_is_rounded_in_steps_of_its_largest_weight(transposed: bool, rng: np.random.Generator) -> None:
    net = Net(rng, 64)
    module = net.finish(net.product("y", net.x, 24, transposed=transposed))
    samples = correlated_tokens(rng)
    rounded = round_filters(module, samples)
    exactly = in_8_bits(rounded)
    (op,) = (op for op in exactly.layers() if op.layer_name == "y")
    assert isinstance(op, TopMatMulOp)
    step = np.abs(module.weights["y_w"]).max() / 127
    integers = np.rint(rounded.weight(op.right) / step)
    np.testing.assert_allclose(rounded.weight(op.right), integers * step, rtol=0, atol=1e-6 * step * 127)
    np.testing.assert_array_equal(quantize_matrix(rounded.weight(op.right))[0], integers)
    assert noise(module, rounded, samples) < noise(module, module, samples)
    exact, after, before = (outputs(each, samples) for each in (module, exactly, nearest_matrix(module)))
    assert np.square(after - exact).mean() < np.square(before - exact).mean() / 4
    np.testing.assert_allclose((after - exact).mean((0, 1, 2)), 0, atol=1e-5)


def outputs(module: Module, samples: Samples) -> np.ndarray:
    """The float output."""
    return np.stack([Executable(module, ["y"], 1).run(sample)["y"] for sample in samples])


def nearest_matrix(module: Module) -> Module:
    """The same with every weight at the nearest step."""
    other = module.clone()
    step = np.abs(module.weights["y_w"]).max() / 127
    other.weights["y_w"] = (np.rint(module.weights["y_w"] / step) * step).astype(np.float32)
    return other


def test_a_matrix_that_reads_fewer_tokens_than_it_has_rows_stays(rng: np.random.Generator) -> None:
    net = Net(rng, 2)
    module, samples = net.finish(net.product("y", net.x, 4)), net.samples(3)
    rounded = round_filters(module, samples)
    assert (str(rounded), rounded.weights_digest()) == (str(module), module.weights_digest())


@pytest.mark.parametrize("case", [CASES[2], CASES[6]], ids=lambda case: case.id)
def test_layers_in_float_keep_their_exact_filters(case: Case, rng: np.random.Generator) -> None:
    module, samples = random_network(case, rng), correlated(rng, case.batch)
    rounded = round_filters(module, samples)
    table = CalibrationTable({"x": Range(8.0, -8.0, 8.0), "y": Range(32.0, -32.0, 32.0)})
    filters: dict[str, list[np.ndarray]] = {}
    for mode in ("F32", "INT8"):
        options = LoweringOptions(target.load("bm1684x"), mode, table=table)
        lowered = [lower(net, options) for net in (module, rounded)]
        filters[mode] = [net.weight(op.operands[1]) for net in lowered for op in net.layers() if op.layer_name == "y"]
    np.testing.assert_array_equal(*filters["F32"])
    expected = quantize_filter(rounded.weight(conv(rounded).for_int8[0]), True).integers
    np.testing.assert_array_equal(filters["INT8"][1], expected)
    assert (filters["INT8"][0] != filters["INT8"][1]).any()
    for sample in samples:
        np.testing.assert_array_equal(*(Executable(net, ["y"], 1).run(sample)["y"] for net in (module, rounded)))


def test_what_changes_the_exact_filter_drops_the_rounded_one(rng: np.random.Generator) -> None:
    module = random_network(CASES[1], rng)
    rounded = round_filters(module, correlated(rng))
    assert len(conv(rounded).for_int8) == 2
    drop_for_int8(rounded, conv(rounded))
    assert (str(rounded), rounded.weights_digest()) == (str(module), module.weights_digest())
