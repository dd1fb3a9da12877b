"""Networks with one known fault: it is named at the layer that has it, and nowhere else."""

from __future__ import annotations

import re

import numpy as np
import pytest
from bmflow.correction.channel_statistics import channel_statistics
from bmflow.correction.equalize import equalize
from bmflow.dialects.top.elementwise import TopSiLUOp
from bmflow.explain.diagnose import Remedy, filter_noise, matrix_noise
from bmflow.explain.tally import Error
from bmflow.ir.module import Module
from bmflow.kernels import Executable
from patients import Net, examine, mixing, ranges, samples
from token_networks import CHANNELS, outliers
from token_networks import Net as Tokens


def silu_between_convolutions(rng: np.random.Generator, gains: np.ndarray, bias: np.ndarray | None = None) -> Module:
    """x -> Conv first (rows times gains) -> SiLU act -> Conv last (columns over gains)."""
    net = Net()
    first = net.conv("first", net.x, mixing(rng, len(gains)) * gains[:, None].astype(np.float32), bias)
    act = net.op(TopSiLUOp, "act", first)
    return net.finish(net.conv("last", act, mixing(rng, 4, len(gains)) / gains[None, :].astype(np.float32)))


def test_a_sound_network_has_no_fault(rng: np.random.Generator) -> None:
    net, inputs = Net(), samples(rng)
    first = net.conv("first", net.x, mixing(rng, 6))
    module = net.finish(net.conv("last", first, mixing(rng, 4, 6)))
    assert examine(module, inputs, ranges(module, inputs)).faults == {}


def test_one_channel_far_out_is_named_with_its_number_and_equalization(rng: np.random.Generator) -> None:
    net, inputs = Net(), samples(rng)
    gains = np.ones((8, 1), np.float32)
    gains[5] = 60
    first = net.conv("first", net.x, mixing(rng, 8) * gains)
    module = net.finish(net.conv("last", first, mixing(rng, 4, 8) / gains.T))
    found = examine(module, inputs, ranges(module, inputs))
    diagnosis = found.layer("first").diagnosis
    assert {name: fault for name, fault in found.faults.items() if fault != "OPERAND"} == {"first": "SPREAD"}
    assert diagnosis is not None
    assert diagnosis.text.startswith("7 of 8 output channels use at most ")
    assert "which channel 5 stretches; equalization (--we) helps" in diagnosis.text
    assert diagnosis.remedy is Remedy.EQUALIZE
    peaks = np.max([np.abs(found.bench.floats.run(one)["first"]).max((0, 2, 3)) for one in inputs], 0)
    assert found.layer("first").tally.spread == pytest.approx(peaks.max() / peaks.min(), rel=1e-6)


def test_what_reads_a_bad_layer_points_to_it(rng: np.random.Generator) -> None:
    net, inputs = Net(), samples(rng)
    gains = np.ones((8, 1), np.float32)
    gains[5] = 60
    first = net.conv("first", net.x, mixing(rng, 8) * gains)
    module = net.finish(net.conv("last", first, mixing(rng, 4, 8) * (np.arange(8) != 5)))
    last = examine(module, inputs, ranges(module, inputs)).layer("last").diagnosis
    assert last is not None
    assert last.operand == "first"
    assert last.text.startswith("what it reads is to blame: first keeps ")


def test_spread_at_an_output_cannot_be_equalized(rng: np.random.Generator) -> None:
    net, inputs = Net(), samples(rng)
    gains = np.geomspace(1, 100, 8, dtype=np.float32)[:, None]
    module = net.finish(net.conv("last", net.x, mixing(rng, 8) * gains))
    diagnosis = examine(module, inputs, ranges(module, inputs)).layer("last").diagnosis
    assert diagnosis is not None
    assert diagnosis.remedy is Remedy.FLOAT
    assert "their scale is tied here, a float type keeps them" in diagnosis.text


def test_a_clipped_range_is_named_with_its_share(rng: np.random.Generator) -> None:
    net, inputs = Net(), samples(rng)
    first = net.conv("first", net.x, mixing(rng, 6))
    module = net.finish(net.conv("last", first, mixing(rng, 4, 6)))
    found = examine(module, inputs, ranges(module, inputs, first=0.5))
    values = np.stack([found.bench.floats.run(one)["first"] for one in inputs])
    scale = 0.5 / 127
    share = np.mean((np.rint(values / scale) > 127) | (np.rint(values / scale) < -128))
    assert {name: fault for name, fault in found.faults.items() if fault != "OPERAND"} == {"first": "CLIPPED"}
    assert found.layer("first").tally.clipped_share == pytest.approx(share, abs=2 / values.size)
    assert found.layer("first").diagnosis.text.startswith(f"the threshold 0.5 clips {100 * share:.1f} %")  # pyright: ignore[reportOptionalMemberAccess]
    assert found.layer("first").diagnosis.text.endswith("method max keeps them")  # pyright: ignore[reportOptionalMemberAccess]


def test_clipping_that_silu_cannot_see_is_no_fault(rng: np.random.Generator) -> None:
    module, inputs = silu_between_convolutions(rng, np.full(6, 30.0), np.full(6, -20, np.float32)), samples(rng)
    table = ranges(module, inputs)
    clipped = ranges(module, inputs, first=max(table.ranges["first"].high, 12.0))
    assert table.ranges["first"].low < -30
    found = examine(module, inputs, clipped)
    assert found.bench.floats.run(inputs[0])["first"].min() < -2 * clipped.ranges["first"].threshold
    assert found.layer("first").tally.clipped_share == 0
    assert found.faults.get("first") != "CLIPPED"


def test_the_unused_half_behind_silu_is_named(rng: np.random.Generator) -> None:
    module, inputs = silu_between_convolutions(rng, np.full(6, 8.0)), samples(rng)
    found = examine(module, inputs, ranges(module, inputs))
    assert found.faults == {"act": "HALF_UNUSED"}
    diagnosis = found.layer("act").diagnosis
    assert diagnosis is not None
    assert diagnosis.text.startswith("one half of the signed range is unused behind SiLU")
    assert diagnosis.text.endswith("--part_asymmetric gains a bit")


def test_a_zero_point_cures_the_unused_half_by_nearly_a_bit(rng: np.random.Generator) -> None:
    module, inputs = silu_between_convolutions(rng, np.full(6, 8.0)), samples(rng)
    table = ranges(module, inputs)
    before, after = (examine(module, inputs, table, asymmetric).layer("act") for asymmetric in (False, True))
    gain = 10 * np.log10(before.tally.noise(_stored()) / after.tally.noise(_stored()))  # pyright: ignore[reportOperatorIssue, reportOptionalOperand]
    assert 4.5 < gain < 6.5
    assert after.diagnosis is None


def test_no_zero_point_is_advised_where_the_extremes_lie_far_beyond_the_threshold(rng: np.random.Generator) -> None:
    module, inputs = silu_between_convolutions(rng, np.full(6, 8.0)), samples(rng)
    rows = dict(ranges(module, inputs).ranges)
    rows["act"] = type(rows["act"])(rows["act"].threshold, rows["act"].low, 3 * rows["act"].high)
    table = type(ranges(module, inputs))(rows)
    assert "act" not in examine(module, inputs, table).faults


def test_dead_channels_are_counted(rng: np.random.Generator) -> None:
    net, inputs = Net(), samples(rng)
    weights = mixing(rng, 6)
    weights[[1, 4]] = 0
    bias = np.array([0, 0.3, 0, 0, 0, 0], np.float32)
    first = net.conv("first", net.x, weights, bias)
    module = net.finish(net.conv("last", first, mixing(rng, 4, 6)))
    found = examine(module, inputs, ranges(module, inputs))
    assert found.faults == {"first": "CONSTANT"}
    assert found.layer("first").diagnosis.text.startswith("2 of 6 output channels (1, 4) never change")  # pyright: ignore[reportOptionalMemberAccess]


def test_a_range_far_too_wide_is_named(rng: np.random.Generator) -> None:
    net, inputs = Net(), samples(rng)
    first = net.conv("first", net.x, mixing(rng, 6))
    module = net.finish(net.conv("last", first, mixing(rng, 4, 6)))
    rows = dict(ranges(module, inputs).ranges)
    rows["first"] = type(rows["first"])(60.0, -60.0, 60.0)
    found = examine(module, inputs, type(ranges(module, inputs))(rows))
    assert found.faults["first"] in ("LOOSE", "SPREAD")
    assert found.faults.get("last", "OPERAND") == "OPERAND"


def test_a_poor_layer_without_a_single_fault_says_what_helps_most(rng: np.random.Generator) -> None:
    net = Net()
    steps = [np.clip(np.rint(rng.normal(size=(1, 3, 12, 12)) * 2), -126, 126) for _ in range(2)]
    steps[0][0, :, 0, 0], steps[1][0, :, 0, 0] = (
        127,
        -127,
    )  # so that the input is exact in 8 bits, and its range much wider than most of its values
    inputs = [{"x": (one / 127).astype(np.float32)} for one in steps]
    first = net.conv("first", net.x, np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]] * np.linspace(0.55, 1, 6, dtype=np.float32)[:, None])
    module = net.finish(net.conv("last", first, mixing(rng, 4, 6)))
    layer = examine(module, inputs, ranges(module, inputs)).layer("first")
    assert layer.diagnosis is not None
    assert (layer.diagnosis.fault.name, layer.diagnosis.remedy) == ("COARSE", Remedy.EQUALIZE)
    estimated = float(layer.diagnosis.text.partition("run_calibration --we takes away an estimated ")[2].split()[0]) / 100
    equalized = equalize(module, channel_statistics(module, inputs)).module
    after = examine(equalized, inputs, ranges(equalized, inputs)).layer("first")
    before, left = layer.noise(Error.ALONE), after.noise(Error.ALONE)
    assert before is not None
    assert left is not None
    y = np.concatenate([Executable(module, ["first"], 1).run(one)["first"] for one in inputs]).astype(np.float64)
    step, peaks = np.abs(y).max() / 127, np.abs(y).max((0, 2, 3))
    noise = np.square(np.rint(y / step) * step - y).sum((0, 2, 3)) / np.square(y - y.mean((0, 2, 3), keepdims=True)).sum((0, 2, 3))
    assert estimated == pytest.approx((noise * (1 - (peaks / peaks.max()) ** 2)).mean() / before, abs=0.01), "steps of a scale of their own"
    assert 1 - left / before > estimated - 0.01, "more here: values fall on the finer grids"


def test_noise_of_a_filter_follows_its_definition(rng: np.random.Generator) -> None:
    weights = rng.normal(size=(5, 7, 3, 3)).astype(np.float32)
    scales = np.abs(weights).max((1, 2, 3), keepdims=True) / 127
    error = np.rint(weights / scales) * scales - weights
    expected = np.mean((error**2).sum((1, 2, 3)) / (weights**2).sum((1, 2, 3)))
    assert filter_noise(weights, has_bias=True) == pytest.approx(expected, rel=1e-4)


def _stored():
    from bmflow.explain.tally import Error

    return Error.STORED


def test_outliers_in_front_of_a_matrix_product_are_counted_and_smoothing_is_named(rng: np.random.Generator) -> None:
    """Fewer tokens than channels, so that their axis is known by the ops around and not by its length."""
    net, far = Tokens(rng, 12), outliers(40.0, 3, 11)
    module, inputs = net.finish(net.product("y", net.norm("norm", net.x, far), 8, far)), net.samples(2)
    found = examine(module, inputs, ranges(module, inputs))
    diagnosis = found.layer("norm").diagnosis
    assert diagnosis is not None
    assert (diagnosis.fault.name, diagnosis.remedy) == ("SPREAD", Remedy.SMOOTH)
    assert re.fullmatch(r"2 of 16 output channels reach \d\d\.\d x the median of all; SmoothQuant \(--sq\) evens them out", diagnosis.text)
    blamed = found.layer("y").diagnosis
    assert blamed is not None
    assert (blamed.fault.name, blamed.operand) == ("OPERAND", "norm")


def test_columns_of_a_matrix_share_their_steps(rng: np.random.Generator) -> None:
    net = Tokens(rng, 12)
    y = net.product("y", net.norm("norm", net.x), 8)
    net.builder.module.weights["y_w"] *= np.geomspace(0.005, 1, 8).astype(np.float32)
    module, inputs = net.finish(y), net.samples(2)
    diagnosis = examine(module, inputs, ranges(module, inputs)).layer("y").diagnosis
    assert diagnosis is not None
    assert (diagnosis.fault.name, diagnosis.remedy) in (("WEIGHTS", Remedy.FLOAT), ("SPREAD", Remedy.FLOAT))


def test_noise_of_a_matrix_follows_its_definition(rng: np.random.Generator) -> None:
    columns = rng.normal(size=(5, 7))
    step = np.abs(columns).max() / 127
    errors = np.round(columns / step) * step - columns
    assert matrix_noise(columns) == pytest.approx(np.mean((errors**2).sum(1) / (columns**2).sum(1)))


def test_small_probabilities_are_told_where_a_product_reads_them(rng: np.random.Generator) -> None:
    """Of 96 tokens none of which stands out each gets 1 %, between two and three steps of 1/255."""
    net = Tokens(rng, 96)
    q, k, v = (net.product(name, net.x, CHANNELS) for name in ("queries", "keys", "values"))
    for name in ("queries", "keys"):
        net.builder.module.weights[f"{name}_w"] *= np.float32(0.3)
    module, inputs = net.finish(net.attention(q, k, v)), net.samples(2)
    found = examine(module, inputs, ranges(module, inputs))
    diagnosis = found.layer("p").diagnosis
    assert diagnosis is not None
    assert diagnosis.remedy is Remedy.SOFTMAX
    values = np.stack([Executable(module, ["p"], 1).run(one)["p"] for one in inputs])
    told = re.match(r"([\d.]+) % of its probabilities vanish in steps of 1/255", diagnosis.text)
    assert told is not None
    assert float(told[1]) == pytest.approx(100 * np.mean(values < 0.5 / 255), abs=0.051)
    assert found.layer("mixed").diagnosis is not None
    assert found.layer("mixed").diagnosis.operand == "p"  # pyright: ignore[reportOptionalMemberAccess]
