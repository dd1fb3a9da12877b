"""Statistics of whole networks turned into ranges."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bmflow.calibration.collect import Statistics
from bmflow.calibration.histograms import coarse, report
from bmflow.calibration.methods import Method
from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.elementwise import TopSigmoidOp, TopSiLUOp
from bmflow.dialects.top.shape import TopPermuteOp, TopReshapeOp
from bmflow.errors import InputError
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.types import tensor_type
from calibration_reference import percentile

SHAPE = (1, 4, 8, 8)


@pytest.fixture
def module() -> Module:
    """x -> conv -> silu -> reshape -> permute -> sigmoid."""
    b = ModuleBuilder("net", "ONNX")
    x = b.input("x", SHAPE)
    w = b.weight("w", np.ones((4, 4, 1, 1)))
    conv = TopConvOp.make("conv", [x, w, b.none], tensor_type(SHAPE), {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0, 0, 0, 0]})
    y = b.append(conv).results[0]
    y = b.append(TopSiLUOp.make("silu", [y], tensor_type(SHAPE))).results[0]
    y = b.append(TopReshapeOp.make("flat", [y], tensor_type((1, 4, 64)))).results[0]
    y = b.append(TopPermuteOp.make("turned", [y], tensor_type((1, 64, 4)), {"order": [0, 2, 1]})).results[0]
    return b.finish([b.append(TopSigmoidOp.make("sigmoid", [y], tensor_type((1, 64, 4)))).results[0]])


def batch(rng: np.random.Generator, scale: float = 1.0) -> dict[str, np.ndarray]:
    values = {name: (rng.normal(size=SHAPE) * scale).astype(np.float32) for name in ("x", "conv", "silu")}
    return values | {"sigmoid": rng.random((1, 64, 4)).astype(np.float32)}


def test_ops_that_only_move_values_share_statistics(module: Module, rng: np.random.Generator) -> None:
    statistics = Statistics(module, Method.KL, 1)
    assert statistics.exposed == ["x", "conv", "silu", "sigmoid"]
    statistics.add(batch(rng))
    ranges = statistics.ranges()
    assert list(ranges) == ["x", "conv", "silu", "flat", "turned", "sigmoid"]
    assert ranges["flat"] == ranges["turned"] == ranges["silu"]


@pytest.mark.parametrize("method", Method)
def test_columns_are_extremes_and_no_threshold_exceeds_the_largest_value(module: Module, rng: np.random.Generator, method: Method) -> None:
    samples = [batch(rng, scale) for scale in (1.0, 2.0, 0.5)]
    statistics = Statistics(module, method, len(samples))
    for sample in samples:
        statistics.add(sample)
    for name in statistics.exposed:
        together = np.stack([sample[name] for sample in samples])
        found = statistics.ranges()[name]
        assert 0 < found.threshold <= np.abs(together).max()
        if method is not Method.PERCENTILE:
            assert (found.low, found.high) == (together.min(), together.max())


def test_max_takes_the_largest_magnitude(module: Module, rng: np.random.Generator) -> None:
    statistics = Statistics(module, Method.MAX, 1)
    sample = batch(rng)
    statistics.add(sample)
    assert statistics.ranges()["conv"].threshold == np.abs(sample["conv"]).max()


def test_percentiles_become_all_three_columns(module: Module, rng: np.random.Generator) -> None:
    samples = [batch(rng) for _ in range(60)]
    statistics = Statistics(module, Method.PERCENTILE, len(samples))
    for sample in samples:
        statistics.add(sample)
    found = statistics.ranges()
    for index, name in ((1, "conv"), (2, "silu"), (4, "turned")):
        together = np.stack([sample["silu" if name == "turned" else name] for sample in samples])
        low, high = percentile(together, 99.99 + index * (99.999999 - 99.99) / 6)
        assert (found[name].low, found[name].high) == (pytest.approx(low), pytest.approx(high))
        assert found[name].threshold == pytest.approx(max(-low, high))


@pytest.mark.parametrize("method", [Method.MSE, Method.ACIQ_GAUSS, Method.ACIQ_LAPLACE])
def test_inputs_and_a_saturated_tail_keep_their_largest_value(module: Module, rng: np.random.Generator, method: Method) -> None:
    statistics = Statistics(module, method, 1)  # few values: the percentile of a tensor is its largest one
    sample = batch(rng)
    statistics.add(sample)
    ranges = statistics.ranges()
    for name in ("x", "conv", "silu", "flat", "turned", "sigmoid"):  # the tail of five reaches back to conv and stops there
        values = sample["silu" if name in ("flat", "turned") else name]
        assert ranges[name].threshold == np.abs(values).max()


def test_the_tail_ends_at_the_first_tensor_that_does_not_saturate(module: Module, rng: np.random.Generator) -> None:
    samples = [batch(rng) for _ in range(400)]  # 102400 values: the percentile of silu lies below its largest value
    for sample in samples:
        sample["sigmoid"].flat[:30] = 1.0
    statistics = Statistics(module, Method.ACIQ_GAUSS, len(samples))
    for sample in samples:
        statistics.add(sample)
    ranges = statistics.ranges()
    assert ranges["sigmoid"].threshold == 1.0
    assert ranges["turned"].threshold < max(np.abs(sample["silu"]).max() for sample in samples)


@pytest.mark.parametrize(("value", "low"), [(0.0, 0.0), (-1e-7, -1e-5)])
def test_a_dead_tensor_gets_the_least_range(module: Module, rng: np.random.Generator, value: float, low: float) -> None:
    statistics = Statistics(module, Method.KL, 1)
    statistics.add(batch(rng) | {"conv": np.full(SHAPE, value, np.float32)})
    found = statistics.ranges()["conv"]
    assert (found.threshold, found.low, found.high) == (1e-5, low, 1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_no_range_can_bound_are_refused(module: Module, rng: np.random.Generator, value: float) -> None:
    sample = batch(rng)
    sample["silu"][0, 1, 2, 3] = value
    with pytest.raises(InputError, match="silu: holds NaN or infinity"):
        Statistics(module, Method.KL, 1).add(sample)


def test_methods_are_known_by_both_spellings() -> None:
    assert Method.named("use_mse") is Method.named("mse") is Method.MSE


@pytest.mark.parametrize("method", Method)
def test_histograms_hold_every_value_but_zeros_whatever_the_method(module: Module, rng: np.random.Generator, method: Method) -> None:
    """Counts against numpy's own, but for values within half a fine bin of a border, which may lie beside it."""
    statistics = Statistics(module, method, 2, with_histograms=True)
    samples = [batch(rng), batch(rng, 0.5)]
    for sample in samples:
        statistics.add(sample)
    found = statistics.histograms()
    assert list(found) == ["x", "conv", "silu", "flat", "turned", "sigmoid"]
    for name in ("conv", "turned"):
        values = np.abs(np.stack([sample["silu" if name == "turned" else name] for sample in samples]))
        width, counts = coarse(found[name], 16)
        expected, _ = np.histogram(values, 16, (0, 16 * width))
        assert 16 * width == pytest.approx(values.max(), rel=0.01)
        assert sum(counts) == values.size
        assert np.abs(np.cumsum(counts) - np.cumsum(expected)).max() <= 0.01 * values.size


def test_the_page_of_histograms_has_a_line_for_every_tensor_with_its_range(module: Module, rng: np.random.Generator) -> None:
    statistics = Statistics(module, Method.KL, 1)
    statistics.add(batch(rng) | {"conv": np.zeros(SHAPE, np.float32)})
    ranges = statistics.ranges()
    found = {tensor["name"]: tensor for tensor in json.loads(report(statistics.histograms(), ranges, statistics.kinds))["tensors"]}
    assert list(found) == list(ranges)
    assert (found["silu"]["op"], found["silu"]["threshold"], found["silu"]["high"]) == (
        "top.SiLU",
        ranges["silu"].threshold,
        ranges["silu"].high,
    )
    assert found["conv"]["counts"] == [0] * 64
