"""Ranges: from table to interval, along the network, to scale and zero point (quantization notes, 6.1 to 6.3 and the end of 7.6)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from bmflow.dialects.top.elementwise import TopAddOp, TopMulOp, TopReluOp, TopSigmoidOp, TopSiLUOp
from bmflow.dialects.top.pool import TopAvgPoolOp, TopMaxPoolOp
from bmflow.dialects.top.shape import TopConcatOp, TopDepth2SpaceOp, TopPermuteOp, TopReshapeOp, TopSliceOp, TopUpsampleOp
from bmflow.errors import InputError
from bmflow.ir.types import DType, Quantization
from bmflow.ir.values import SSAValue
from bmflow.passes.lowering.propagate import propagate
from bmflow.passes.lowering.ranges import Interval, import_ranges, quantize
from bmflow.tables.calibration import CalibrationTable
from hypothesis import given
from hypothesis import strategies as st
from lowering_net import Bounds, Net

SHAPE = (1, 2, 4, 4)
POOL = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}


@pytest.mark.parametrize(
    ("low", "high", "asymmetric", "expected"),
    [
        (-4.0, 4.0, False, Quantization(DType.I8, 4 / 127)),
        (-5.0, 4.0, False, Quantization(DType.I8, 5 / 127)),
        (0.0, 3.0, False, Quantization(DType.U8, 3 / 255)),
        (-8.0, 8.0, True, Quantization(DType.I8, 16 / 255, -1)),
        (-0.28, 6.0, True, Quantization(DType.I8, 6.28 / 255, -117)),
        (0.0, 2.0, True, Quantization(DType.U8, 2 / 255)),
        (1.0, 2.0, True, Quantization(DType.U8, 2 / 255)),
        (-5.0, -2.0, True, Quantization(DType.I8, 5 / 255, 127)),
        (-5.0, -5.0, True, Quantization(DType.I8, 5 / 255, 127)),
        (3.0, 3.0, True, Quantization(DType.U8, 3 / 255)),
    ],
)
def test_scale_and_zero_point(low: float, high: float, asymmetric: bool, expected: Quantization) -> None:
    found = quantize(Interval(low, high), asymmetric)
    assert (found.dtype, found.zero_point) == (expected.dtype, expected.zero_point)
    assert found.scale == pytest.approx(expected.scale, rel=1e-12)


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.booleans())
def test_every_range_can_be_stored_within_one_step_at_its_ends(a: float, b: float, asymmetric: bool) -> None:
    low, high = min(a, b), max(a, b)
    if max(abs(low), abs(high)) < 1e-5:
        return
    found = quantize(Interval(low, high), asymmetric)
    smallest, largest = found.dtype.limits
    assert found.scale > 0
    assert smallest <= found.zero_point <= largest
    assert (smallest - found.zero_point) * found.scale <= low + 1.001 * found.scale
    assert (largest - found.zero_point) * found.scale >= high - 1.001 * found.scale


def imported(kind: type, bounds: Bounds, asymmetric: bool = False, inputs: int = 1, **settings) -> Interval:
    net = Net()
    operands = [net.input(f"x{i}", SHAPE, 8.0) for i in range(inputs)]
    module = net.finish(net.op(kind, "y", operands, SHAPE, bounds, **settings))
    return import_ranges(module, CalibrationTable(net.ranges), asymmetric)["y"]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (imported(TopSiLUOp, (-0.3, 6.0)), Interval(-6.0, 6.0)),
        (imported(TopSiLUOp, (-0.3, 6.0), asymmetric=True), Interval(-0.3, 6.0)),
        (imported(TopReluOp, (0.0, 6.0)), Interval(0.0, 6.0)),
        (imported(TopSigmoidOp, (0.2, 0.4)), Interval(0.0, 1.0)),
        (imported(TopSigmoidOp, None), Interval(0.0, 1.0)),
        (imported(TopAddOp, 6.0, inputs=2, do_relu=True), Interval(0.0, 6.0)),
        (imported(TopAddOp, 6.0, inputs=2, do_relu=True, asymmetric=True), Interval(0.0, 6.0)),
        (imported(TopMulOp, (-1.0, 6.0), inputs=2, asymmetric=True), Interval(-6.0, 6.0)),
        (imported(TopMulOp, (0.0, 6.0), inputs=2, asymmetric=True), Interval(0.0, 6.0)),
    ],
)
def test_imported_range(found: Interval, expected: Interval) -> None:
    assert found == expected


def test_a_square_and_a_product_of_sigmoids_are_never_negative() -> None:
    net = Net()
    x = net.input("x", SHAPE, 4.0)
    a, b = (net.op(TopSigmoidOp, name, [x], SHAPE) for name in "ab")
    outputs = [net.op(TopMulOp, "square", [x, x], SHAPE, 16.0), net.op(TopMulOp, "gates", [a, b], SHAPE, (-1e-9, 0.5))]
    ranges = import_ranges(net.finish(*outputs), CalibrationTable(net.ranges), False)
    assert (ranges["square"], ranges["gates"]) == (Interval(0.0, 16.0), Interval(0.0, 0.5))


def test_a_layer_without_a_row_or_with_an_empty_range_is_uncalibrated() -> None:
    net = Net()
    x = net.input("x", SHAPE)
    y = net.op(TopSiLUOp, "y", [x], SHAPE, (0.0, 0.0))
    assert import_ranges(net.finish(y), CalibrationTable(net.ranges), False) == {}


def silu(net: Net, name: str, x: SSAValue, high: float, shape: Sequence[int] = SHAPE) -> SSAValue:
    return net.op(TopSiLUOp, name, [x], shape, high)


def run(net: Net, *outputs: SSAValue, asymmetric: bool = False) -> dict[str, Interval]:
    """Ranges after propagation; symmetric ones are listed by their upper end in `highs`."""
    module = net.finish(*outputs)
    return propagate(module, import_ranges(module, CalibrationTable(net.ranges), asymmetric))


def highs(ranges: dict[str, Interval], *names: str) -> list[float]:
    return [ranges[name].high for name in names]


def test_chained_pools_and_their_source_take_the_range_of_the_concat() -> None:
    net = Net()
    x = silu(net, "x", net.input("in", SHAPE, 1.0), 4.0)
    pools = [x]
    for i in range(3):
        pools.append(net.op(TopMaxPoolOp, f"p{i}", [pools[-1]], SHAPE, 4.0 + i, **POOL))
    ranges = run(net, net.op(TopConcatOp, "c", pools, (1, 8, 4, 4), 7.0))
    assert highs(ranges, "x", "p0", "p1", "p2", "c") == [7.0] * 5


def test_single_use_inputs_take_the_range_of_the_concat() -> None:
    net = Net()
    x = net.input("in", SHAPE, 1.0)
    parts = [silu(net, "a", x, 3.0), silu(net, "b", x, 5.0)]
    assert highs(run(net, net.op(TopConcatOp, "c", parts, (1, 4, 4, 4), 6.0)), "a", "b", "c") == [6.0] * 3


def test_a_concat_takes_the_range_its_inputs_agree_on() -> None:
    net = Net()
    x = net.input("in", SHAPE, 1.0)
    parts = [silu(net, "a", x, 3.0), silu(net, "b", x, 3.0)]
    assert highs(run(net, net.op(TopConcatOp, "c", parts, (1, 4, 4, 4), 6.0)), "a", "b", "c") == [3.0] * 3


def test_nothing_is_pushed_to_inputs_that_others_read() -> None:
    net = Net()
    x = net.input("in", SHAPE, 1.0)
    skip = silu(net, "skip", x, 3.0, (1, 2, 8, 8))
    up = net.op(TopUpsampleOp, "up", [silu(net, "a", x, 5.0)], (1, 2, 8, 8), 5.5, scale_h=2, scale_w=2)
    c = net.op(TopConcatOp, "c", [up, skip], (1, 4, 8, 8), 6.0)
    ranges = run(net, c, silu(net, "other", skip, 2.0, (1, 2, 8, 8)))
    assert highs(ranges, "a", "up", "skip", "c") == [5.0, 5.0, 3.0, 6.0]


def test_a_push_passes_one_reshape() -> None:
    net = Net()
    x = net.input("in", SHAPE, 1.0)
    parts = [net.op(TopReshapeOp, f"r{i}", [silu(net, f"x{i}", x, 3.0 + i)], (1, 32), 3.0 + i, shape=[1, 32]) for i in range(2)]
    ranges = run(net, net.op(TopConcatOp, "c", parts, (1, 64), 6.0))
    assert highs(ranges, "x0", "r0", "x1", "r1", "c") == [6.0] * 5


def test_a_push_stops_behind_a_permute_and_a_reshape() -> None:
    """The heads of ultraface: the forward pass restores the source's own range, so that the Concat's inputs are rescaled."""
    net = Net()
    x = net.input("in", SHAPE, 1.0)
    parts = []
    for i in range(2):
        permuted = net.op(TopPermuteOp, f"p{i}", [silu(net, f"x{i}", x, 3.0 + i)], (1, 4, 4, 2), 9.0, order=[0, 2, 3, 1])
        parts.append(net.op(TopReshapeOp, f"r{i}", [permuted], (1, 32), 9.0, shape=[1, 32]))
    lowered = net.lower(net.op(TopConcatOp, "c", parts, (1, 64), 6.0))
    assert [name for name in lowered.layers() if "MulShift" in name] == ["MulShift r0_to_c:si8", "MulShift r1_to_c:si8"]
    for i in range(2):
        assert {lowered.quantization(f"{kind}{i}").scale for kind in "xpr"} == {(3.0 + i) / 127}


def test_a_concat_pushes_its_old_range_before_it_takes_that_of_a_pool() -> None:
    """squeezenet: the inputs are rescaled where the thresholds of Concat and MaxPool differ."""
    net = Net()
    x = net.input("in", SHAPE, 1.0)
    c = net.op(TopConcatOp, "c", [silu(net, "a", x, 3.0), silu(net, "b", x, 5.0)], (1, 4, 4, 4), 6.0)
    ranges = run(net, net.op(TopMaxPoolOp, "p", [c], (1, 4, 4, 4), 5.5, **POOL))
    assert highs(ranges, "a", "b", "c", "p") == [6.0, 6.0, 5.5, 5.5]


def test_views_copy_the_range_of_their_input() -> None:
    net = Net()
    x = silu(net, "x", net.input("in", SHAPE, 1.0), 3.0)
    reshaped = net.op(TopReshapeOp, "r", [x], (1, 2, 16), 9.0, shape=[1, 2, 16])
    permuted = net.op(TopPermuteOp, "p", [reshaped], (1, 16, 2), 8.0, order=[0, 2, 1])
    cut = {"offset": [0, 0, 0], "steps": [1, 1, 1], "ends": [1, 4, 2]}
    part = net.op(TopSliceOp, "s", [permuted, *[net.builder.none] * 3], (1, 4, 2), **cut)
    assert highs(run(net, part), "x", "r", "p", "s") == [3.0] * 4


def test_different_signs_are_not_joined() -> None:
    """The heads of yolox: unsigned scores become signed at the scale of the boxes."""
    net = Net()
    x = net.input("in", SHAPE, 4.0)
    boxes, scores = silu(net, "boxes", x, 8.0), net.op(TopSigmoidOp, "scores", [x], SHAPE)
    lowered = net.lower(net.op(TopConcatOp, "c", [boxes, scores], (1, 4, 4, 4), 8.0))
    assert lowered.quantization("scores") == Quantization(DType.U8, 1 / 255)
    assert lowered.quantization("scores_to_c") == lowered.quantization("c") == Quantization(DType.I8, 8 / 127)


def test_a_relu_overrides_the_range_of_its_only_source() -> None:
    net = Net()
    x = silu(net, "x", net.input("in", SHAPE, 1.0), 3.0)
    lowered = net.lower(net.op(TopReluOp, "y", [x], SHAPE, (0.0, 2.0)))
    assert lowered.quantization("x") == lowered.quantization("y") == Quantization(DType.U8, 2 / 255)


def test_a_relu_keeps_the_range_of_a_source_that_others_read() -> None:
    net = Net()
    x = silu(net, "x", net.input("in", SHAPE, 1.0), 3.0)
    lowered = net.lower(net.op(TopReluOp, "y", [x], SHAPE, (0.0, 2.0)), x)
    assert lowered.quantization("x") == lowered.quantization("y") == Quantization(DType.I8, 3 / 127)


def test_depth_to_space_copies_the_range_of_a_source_that_others_read() -> None:
    net = Net()
    x = silu(net, "x", net.input("in", SHAPE, 1.0), 3.0)
    y = net.op(TopDepth2SpaceOp, "y", [x], (1, 8, 2, 2), 2.0, block_h=2, block_w=2, is_inversed=True)
    assert highs(run(net, y, x), "x", "y") == [3.0, 3.0]


@pytest.mark.parametrize(
    ("source", "pool", "expected"),
    [(4.0, (0.0, 2.0), Interval(-0.2, 2.0)), ((0.0, 4.0), 2.0, Interval(0.0, 2.0)), (4.0, 2.0, Interval(-2.0, 2.0))],
)
def test_an_average_has_the_sign_of_its_input(source: Bounds, pool: Bounds, expected: Interval) -> None:
    net = Net()
    y = net.op(TopAvgPoolOp, "y", [net.input("x", SHAPE, source)], SHAPE, pool, **POOL)
    assert run(net, y)["y"] == expected


def test_a_sum_of_what_is_never_negative_is_unsigned() -> None:
    net = Net()
    x, w = net.input("x", SHAPE, (0.0, 4.0)), net.weight("w", np.ones((1, 2, 1, 1)))
    sums = [net.op(TopAddOp, "plus", [x, w], SHAPE, 5.0), net.op(TopAddOp, "minus", [x, w], SHAPE, 5.0, coeff=[1.0, -1.0])]
    ranges = run(net, *sums)
    assert (ranges["plus"].low, ranges["minus"].low) == (0.0, -5.0)


def test_a_product_of_two_signed_values_is_signed() -> None:
    net = Net()
    a, b = (net.input(name, SHAPE, 4.0) for name in "ab")
    assert run(net, net.op(TopMulOp, "y", [a, b], SHAPE, (0.0, 5.0)))["y"] == Interval(-0.5, 5.0)


def test_a_sum_gives_its_range_to_products_that_nobody_else_reads() -> None:
    net = Net()
    a, b = (net.input(name, SHAPE, 4.0) for name in "ab")
    products = [net.op(TopMulOp, f"m{i}", [a, b], SHAPE, 3.0 + i) for i in range(2)]
    assert highs(run(net, net.op(TopAddOp, "y", products, SHAPE, 9.0)), "m0", "m1", "y") == [9.0] * 3


def test_layers_listed_as_asymmetric_get_a_zero_point_alone() -> None:
    net = Net()
    x = silu(net, "x", net.input("in", SHAPE, 1.0), 0.0)
    net.note("x", (-0.28, 6.0))
    pooled = net.op(TopMaxPoolOp, "p", [x], SHAPE, (-0.28, 6.0), **POOL)
    y = net.conv("y", pooled, np.ones((1, 2, 1, 1), np.float32), None, 3.0)
    lowered = net.lower(y, table=CalibrationTable(net.ranges, asym_ops=("x", "y")))
    assert lowered.quantization("x").zero_point == lowered.quantization("p").zero_point == -117
    assert lowered.quantization("y").zero_point == 0
    assert lowered.constant("y", 2).item() == 117 * 2


@pytest.mark.parametrize("change", [{"ranges": {"silu1": 3.0}}, {"asym_ops": ("silu1",)}, {"weight_scales": {"silu1_weight": (1.0,)}}])
def test_a_table_of_another_network_is_refused(change: dict) -> None:
    net = Net()
    y = silu(net, "silu0", net.input("in", SHAPE, 1.0), 3.0)
    net.finish(y)
    if "ranges" in change:
        net.note("silu1", 3.0)
        change = {}
    table = CalibrationTable(net.ranges, **change)
    with pytest.raises(InputError, match=r"silu1\w* \(did you mean silu0.*\?\)"):
        import_ranges(net.builder.module, table, False)


def test_scales_of_weights_from_training_replace_computed_ones() -> None:
    net = Net()
    y = net.conv("y", net.input("x", SHAPE, 4.0), np.full((2, 2, 1, 1), 0.3, np.float32), [0.0, 0.0], 3.0)
    lowered = net.lower(y, table=CalibrationTable(net.ranges, weight_scales={"y_weight": (0.01, 0.1)}))
    assert lowered.constant("y", 1).ravel().tolist() == [30, 30, 3, 3]


@pytest.mark.parametrize("scales", [(0.1,), (0.1, 0.0)])
def test_unusable_scales_of_weights_are_refused(scales: tuple[float, ...]) -> None:
    net = Net()
    y = net.conv("y", net.input("x", SHAPE, 4.0), np.full((2, 2, 1, 1), 0.3, np.float32), [0.0, 0.0], 3.0)
    with pytest.raises(InputError, match="y: expected 2 positive weight scales"):
        net.lower(y, table=CalibrationTable(net.ranges, weight_scales={"y_weight": scales}))
