"""What the samples show of every channel, and how much room they say that it needs."""

from __future__ import annotations

import numpy as np
import pytest
from bmflow.correction.channel_statistics import RARE, WIDE, ChannelStatistics, channel_statistics
from bmflow.dialects.top.elementwise import TopReluOp
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.types import tensor_type

SHAPE = (1, 3, 4, 5)


@pytest.fixture
def module() -> Module:
    builder = ModuleBuilder("net", "ONNX")
    y = builder.append(TopReluOp.make("y", [builder.input("x", SHAPE)], tensor_type(SHAPE), {"relu_limit": -1.0})).results[0]
    return builder.finish([y])


def halves(first: list[float], second: list[float]) -> ChannelStatistics:
    """Channels that reached so far in the two halves of the samples."""
    both = np.array([first, second])
    return ChannelStatistics(-np.ones(len(first)), both.max(0), np.ones(len(first)), both)


def test_every_sample_counts_and_every_second_one_makes_a_half(module: Module, rng: np.random.Generator) -> None:
    samples = rng.normal(size=(5, *SHAPE)).astype(np.float32)
    found = channel_statistics(module, [{"x": x} for x in samples])["x"]
    axes = (0, 1, 3, 4)
    np.testing.assert_array_equal(found.low, samples.min(axes))
    np.testing.assert_array_equal(found.high, samples.max(axes))
    np.testing.assert_allclose(found.square, (samples.astype(np.float64) ** 2).mean(axes), rtol=1e-5)
    assert found.halves is not None
    np.testing.assert_array_equal(np.sort(found.halves, 0), np.sort([samples[::2].max(axes), samples[1::2].max(axes)], 0))


def test_one_sample_gives_no_room(module: Module, rng: np.random.Generator) -> None:
    x = rng.uniform(1, 2, SHAPE).astype(np.float32)
    found = channel_statistics(module, [{"x": x}])["y"].with_room()
    np.testing.assert_array_equal(found.high, x.max((0, 2, 3)))


def test_channels_that_reach_as_far_in_both_halves_get_no_room() -> None:
    peaks = [0.1, 1.0, 3.0, 20.0]
    np.testing.assert_array_equal(halves(peaks, peaks).with_room().high, peaks)


def test_upper_ends_are_raised_by_what_the_halves_differ_by() -> None:
    """All but one of forty channels reached half as far again in either half: 1.5 x 1.5, whichever half it was."""
    first, second = [1.0, 1.5] * 20, [1.5, 1.0] * 20
    found = halves([*first[:-1], 10.0], [*second[:-1], 10.0]).with_room()
    np.testing.assert_allclose(found.high, [2.25] * 39 + [10.0], rtol=1e-12)


def test_no_channel_is_raised_beyond_a_share_of_the_widest() -> None:
    found = halves([4.0, 6.0, 9.0, 10.0, *[1.0] * 36], [2.0, 3.0, 4.5, 5.0, *[0.5] * 36]).with_room()
    np.testing.assert_allclose(found.high, [WIDE * 10, WIDE * 10, 9.0, 10.0, *[2.0] * 36], rtol=1e-12)


def test_what_few_channels_differ_by_does_not_count() -> None:
    few = round(100 * RARE) - 1
    found = halves([1.0] * 100, [9.0] * few + [1.0] * (100 - few)).with_room()
    np.testing.assert_array_equal(found.high, [9.0] * few + [1.0] * (100 - few))


def test_channels_that_never_rise_above_zero_stay_and_do_not_count() -> None:
    found = halves([-2.0, 0.0, 0.0, 1.0, 5.0], [-1.0, 0.0, 3.0, 2.0, 10.0]).with_room()
    np.testing.assert_allclose(found.high, [-1.0, 0.0, 6.0, 4.0, 10.0], rtol=1e-12)


def test_where_none_rises_there_is_nothing_to_raise() -> None:
    np.testing.assert_array_equal(halves([-2.0, 0.0], [-1.0, 0.0]).with_room().high, [-1.0, 0.0])


def test_lower_ends_and_powers_stay() -> None:
    before = halves([1.0, 5.0, 6.0], [2.0, 10.0, 12.0])
    after = before.with_room()
    np.testing.assert_array_equal(after.low, before.low)
    np.testing.assert_array_equal(after.square, before.square)
