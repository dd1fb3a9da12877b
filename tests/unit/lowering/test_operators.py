"""Published vectors of single operators on the bm1684x (quantization notes, 13, "Operators"), through lowering.

The multipliers, shifts, weights and tables come from the lowered module; the arithmetic that the vectors were computed with is
spelled out here from its definition.
"""

from __future__ import annotations

import numpy as np
import pytest
from bmflow.dialects.top.conv import TopBatchNormOp
from bmflow.dialects.top.elementwise import TopAddOp, TopMulOp, TopScaledActiveOp, TopSigmoidOp, TopSiLUOp, TopSoftmaxOp
from bmflow.dialects.top.pool import TopAvgPoolOp, TopMaxPoolOp
from bmflow.dialects.top.shape import TopConcatOp
from bmflow.ir.layer import layer_name
from bmflow.ir.types import DType, Quantization
from bmflow.numerics.rounding import Rounding, rshift_round
from lowering_net import Bounds, Lowered, Net

SHAPE = (1, 2, 4, 4)


def requant(values: np.ndarray | list[int], multiplier: int, rshift: int, dtype: DType, rounding: Rounding = Rounding.HALF_UP) -> list[int]:
    """sat(rshift_round(v * m, r))."""
    return np.clip(rshift_round(np.asarray(values) * multiplier, rshift, rounding), *dtype.limits).tolist()


def table_of(kind: type, x: Bounds, y: Bounds, asymmetric: bool = False) -> np.ndarray:
    net = Net()
    y_value = net.op(kind, "y", [net.input("x", SHAPE, x)], SHAPE, y)
    return net.lower(y_value, asymmetric=asymmetric).constant("y", 1)


def entries(table: np.ndarray, inputs: list[int]) -> list[int]:
    return [int(table[0, 0, 0, i & 0xFF]) for i in inputs]


def test_silu_table() -> None:
    table = table_of(TopSiLUOp, 8.0, 6.0)
    assert table.shape == (1, 1, 1, 256)
    assert table.dtype == np.int8
    assert entries(table, [-128, -64, -16, 0, 16, 64, 96, 127]) == [0, -1, -6, 0, 16, 84, 127, 127]
    assert table.sum(dtype=int) == 9601


def test_silu_table_with_zero_points() -> None:
    table = table_of(TopSiLUOp, 8.0, (-0.28, 6.0), asymmetric=True)
    assert entries(table, [-128, -64, -16, 0, 16, 64, 96, 127]) == [-117, -120, -128, -116, -85, 46, 127, 127]
    assert table.sum(dtype=int) == -11324


def test_sigmoid_table_does_not_depend_on_the_calibrated_range() -> None:
    table = table_of(TopSigmoidOp, 8.0, (0.1, 0.7))
    assert table.dtype == np.uint8
    assert entries(table, [-128, -64, -16, 0, 16, 64, 127]) == [0, 4, 68, 128, 187, 251, 255]
    assert table.sum(dtype=int) == 32513


def test_sigmoid_of_an_unsigned_input_is_indexed_by_its_byte() -> None:
    table = table_of(TopSigmoidOp, (0.0, 8.0), None)
    expected = np.floor(255 / (1 + np.exp(-np.arange(256) * 8.0 / 255)) + 0.5)
    assert table.ravel().tolist() == expected.tolist()


def test_add_rounds_every_term_with_its_own_multiplier() -> None:
    net = Net()
    y = net.op(TopAddOp, "y", [net.input("a", SHAPE, 4.0), net.input("b", SHAPE, (0.0, 3.0))], SHAPE, 6.0)
    op = net.lower(y).op("y")
    assert list(zip(op.ints("multipliers"), op.ints("rshifts"), strict=True)) == [(85, 7), (1, 2)]
    a, b = np.array([100, -100, -128, 127, -3]), np.array([200, 7, 0, 255, 1])
    total = rshift_round(a * 85, 7) + rshift_round(b * 1, 2)
    assert np.clip(total, -128, 127).tolist() == [116, -64, -85, 127, -2]


def test_add_of_a_constant_quantizes_it_by_its_largest_magnitude() -> None:
    net = Net()
    y = net.op(TopAddOp, "y", [net.input("a", SHAPE, 4.0), net.weight("c", [[[[1.5]], [[-0.3]]]])], SHAPE, 6.0, coeff=[1.0, 1.0])
    lowered = net.lower(y)
    assert layer_name(lowered.op("y").operands[1]) == "c_i8"
    assert lowered.constant("y", 1).ravel().tolist() == [127, -25]
    multiplier, rshift = lowered.op("y").ints("multipliers")[1], lowered.op("y").ints("rshifts")[1]
    assert multiplier / 2**rshift == pytest.approx((1.5 / 127) / (6 / 127), rel=1 / 126)


def test_mul_of_two_activations() -> None:
    net = Net()
    y = net.op(TopMulOp, "y", [net.input("a", SHAPE, 4.0), net.input("b", SHAPE, (0.0, 3.0))], SHAPE, 10.0)
    op = net.lower(y).op("y")
    scale = (4 / 127) * (3 / 255) / (10 / 127)
    assert op["multiplier"] / 2 ** op["rshift"] == pytest.approx(scale, rel=1 / 126)  # pyright: ignore[reportOperatorIssue]
    assert 63 < abs(op["multiplier"]) < 127  # pyright: ignore[reportArgumentType]


def test_mul_puts_the_operand_with_the_sign_of_the_result_first() -> None:
    net = Net()
    unsigned, signed = net.input("u", SHAPE, (0.0, 3.0)), net.input("s", SHAPE, 4.0)
    lowered = net.lower(net.op(TopMulOp, "y", [unsigned, signed], SHAPE, 10.0))
    assert [layer_name(value) for value in lowered.op("y").operands] == ["sy_si8", "uy_ui8"]


def concat_input(x: Bounds, y: Bounds, asymmetric: bool = False) -> Lowered:
    net = Net()
    a = net.op(TopMaxPoolOp, "a", [net.input("x", SHAPE, x)], SHAPE, x, kernel_shape=[1, 1], strides=[1, 1], pads=[0, 0, 0, 0])
    b = net.input("b", SHAPE, y)
    c = net.op(TopConcatOp, "c", [a, b], (1, 4, 4, 4), y, axis=1)
    return net.lower(c, a, asymmetric=asymmetric)


def test_concat_brings_its_inputs_to_one_scale() -> None:
    op = concat_input((0.0, 1.0), 5.0).op("a_to_c")
    assert (op.name, op["multiplier"], op["rshift"]) == ("tpu.MulShift", 51, 9)
    assert requant([0, 1, 5, 6, 128, 254, 255], 51, 9, DType.I8) == [0, 0, 0, 1, 13, 25, 25]


def test_concat_with_zero_points() -> None:
    lowered = concat_input((-1.0, 3.0), (-2.0, 5.0), asymmetric=True)
    op = lowered.op("a_to_c")
    assert (op.name, op["multiplier"], op["rshift"], op["quant_mode"]) == ("tpu.RequantInt", 73, 7, "MultiplierShift")
    assert (lowered.quantization("a").zero_point, lowered.quantization("a_to_c").zero_point) == (-64, -55)
    x = np.array([-128, -65, -64, -63, 0, 100, 127])
    y = rshift_round((x + 64) * 73, 7, Rounding.HALF_AWAY) - 55
    assert y.tolist() == [-92, -56, -55, -54, -18, 39, 54]


def avg_pool(x: Bounds, y: Bounds, **options) -> Lowered:
    net = Net()
    pool = {"kernel_shape": [16, 16], "strides": [1, 1], "pads": [0, 0, 0, 0]}
    return net.lower(net.op(TopAvgPoolOp, "y", [net.input("x", (1, 2, 16, 16), x)], (1, 2, 1, 1), y, **pool), **options)


def test_average_pool() -> None:
    op = avg_pool((0.0, 10.0), (0.0, 3.0)).op("y")
    assert (op["multiplier"], op["rshift"], op["pool_mode"]) == (107, 13, "Avg")
    assert requant([0, 100, 1000, 10000, 19584, 30000], 107, 13, DType.U8) == [0, 1, 13, 131, 255, 255]


def test_average_pool_with_zero_points_carries_real_scale_and_offset() -> None:
    lowered = avg_pool((-1.0, 3.0), (-0.5, 2.0), asymmetric=True)
    x, y = lowered.quantization("xy_si8"), lowered.quantization("y")
    assert lowered.op("y")["scale"] == pytest.approx(x.scale / (256 * y.scale))
    assert lowered.op("y")["offset"] == pytest.approx(y.zero_point - x.zero_point * x.scale / y.scale)


def test_convolution() -> None:
    net = Net()
    weights = np.array([0.5, -1.27, 0.3], np.float32).reshape(1, 3, 1, 1)
    lowered = net.lower(net.conv("y", net.input("x", (1, 3, 1, 1), 2.0), weights, [0.1], (0.0, 3.0), do_relu=True))
    op = lowered.op("y")
    filters, bias = lowered.constant("y", 1), lowered.constant("y", 2)
    assert [layer_name(value) for value in op.operands] == ["xy_si8", "y_filter_i8", "y_bias_int32"]
    assert filters.ravel().tolist() == [50, -127, 30]
    assert (bias.tolist(), bias.dtype, bias.shape) == ([[[[635]]]], np.int32, (1, 1, 1, 1))
    assert (op["multiplier"], op["rshift"], op["with_bias"]) == ([7186461], [29], True)
    x = np.array([[127, -127, 127], [10, 20, 30], [-5, -90, 3], [100, 0, -100]])
    assert requant(x @ filters.ravel().astype(int) + 635, 7186461, 29, DType.U8) == [255, 0, 159, 35]


def test_convolution_with_zero_points_holds_them_in_its_bias() -> None:
    net = Net()
    weights = np.array([0.5, -1.27, 0.3], np.float32).reshape(1, 3, 1, 1)
    lowered = net.lower(net.conv("y", net.input("x", (1, 3, 1, 1), (-1.0, 2.0)), weights, None, 3.0), asymmetric=True)
    assert lowered.quantization("xy_si8") == Quantization(DType.I8, 3 / 255, -43)
    assert lowered.constant("y", 2).ravel().tolist() == [43 * (50 - 127 + 30)]


@pytest.mark.parametrize(
    ("weights", "bias", "integers", "name"),
    [
        ([0.5, 1.25, 0.0], None, [2, 5, 0], "y_filter_u8"),
        ([-2.0, 127.0, 1.0], [1.0], [-2, 127, 1], "y_filter_i8"),
        ([1 / 64, -1.0, 0.5], [1.0], [1, -64, 32], "y_filter_i8"),
        ([0.1, 0.2, 0.255], None, [100, 200, 255], "y_filter_u8"),
        ([0.1, 0.2, 0.254], [1.0], [50, 100, 127], "y_filter_i8"),
        ([1e-5, 2e-5, 0.0], [1.0], [1, 2, 0], "y_filter_i8"),
        ([0.0, 0.0, 0.0], None, [0, 0, 0], "y_filter_u8"),
    ],
    ids=["power of two, unsigned", "integers", "smallest power", "unsigned", "positive with bias", "floor of the scale", "zeros"],
)
def test_filters(weights: list[float], bias: list[float] | None, integers: list[int], name: str) -> None:
    net = Net()
    lowered = net.lower(net.conv("y", net.input("x", (1, 3, 2, 2), 2.0), np.float32(weights).reshape(1, 3, 1, 1), bias, 3.0))
    assert lowered.constant("y", 1).ravel().tolist() == integers
    assert layer_name(lowered.op("y").operands[1]) == name


def test_a_dead_input_does_not_blow_up_the_bias() -> None:
    net = Net()
    weights = np.full((1, 3, 1, 1), 0.3, np.float32)
    lowered = net.lower(net.conv("y", net.input("x", (1, 3, 2, 2), 1e-5), weights, [2.54], 3.0))
    assert lowered.constant("y", 2).item() == round(2.54 / ((np.float32(0.3) / 127) * (2.54 / 127)))


def softmax(shape: tuple[int, ...], axis: int, **options) -> Lowered:
    net = Net()
    return net.lower(net.op(TopSoftmaxOp, "y", [net.input("x", shape, 16.0)], shape, 1.0, axis=axis), **options)


def test_softmax() -> None:
    lowered = softmax((1, 4, 1, 1), 1)
    table = lowered.constant("y", 1).ravel()
    assert lowered.quantization("y") == Quantization(DType.U8, 1 / 255)
    assert (table.dtype, table.size, table[0]) == (np.float32, 256, 1.0)
    x = np.array([100, 90, 60, -128])
    parts = table[x.max() - x]
    assert np.trunc(parts / np.float32(parts.sum() / 255) + np.float32(0.5)).tolist() == [198, 56, 1, 0]


def test_softmax_of_lower_rank_stands_between_reshapes_and_keeps_its_name() -> None:
    assert softmax((1, 10), 1).layers() == [
        "Cast xy_si8:si8", "Reshape x_reshape:si8", "Softmax y__softmax:ui8", "Reshape y:ui8", "Cast y_f32:f32",
    ]  # fmt: skip


def test_softmax_over_another_axis_is_a_float_between_casts() -> None:
    lowered = softmax((1, 7, 2), 2)
    assert lowered.layers() == ["Cast xy_f16:f16", "Softmax y:f16", "Cast y_f32:f32"]
    assert "axis 2" in lowered.reasons["y"]


def test_softmax_over_a_long_axis_is_computed_in_f32() -> None:
    lowered = softmax((1, 1, 8193), 2, mode="F16")
    assert lowered.layers() == ["Softmax y:f32"]
    assert "exceeds 8192" in lowered.reasons["y"]
    assert softmax((1, 1, 8192), 2, mode="F16").layers()[1] == "Softmax y:f16"


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads", "out", "expected"),
    [
        (113, 3, 2, 0, 56, [0, 0, 0, 0]),
        (112, 3, 2, 0, 56, [0, 0, 1, 1]),
        (10, 3, 2, 1, 6, [1, 1, 2, 2]),
    ],
)
def test_ceil_mode_becomes_pads(size: int, kernel: int, stride: int, pads: int, out: int, expected: list[int]) -> None:
    """The added pads are stride - rem with rem = (in + 2 * pad - k) mod stride, where that is not 0."""
    rem = (size + 2 * pads - kernel) % stride
    assert expected[2] == pads + (stride - rem if rem else 0)
    net = Net()
    settings = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pads] * 4, "ceil_mode": True}
    op = net.lower(net.op(TopMaxPoolOp, "y", [net.input("x", (1, 1, size, size), 1.0)], (1, 1, out, out), 1.0, **settings)).op("y")
    assert op.ints("pads") == expected
    assert op["ceil_mode"] is False


SCALED = {"scale_in": [2.0, 0.5], "shift_in": [0.0, 1.0], "scale_out": [0.25, 4.0]}


def scaled_active(mode: str) -> Lowered:
    net = Net()
    weights = [net.weight(name, np.reshape(numbers, (1, 2, 1, 1))) for name, numbers in SCALED.items()]
    return net.lower(net.op(TopScaledActiveOp, "y", [net.input("x", SHAPE, 1.0), *weights], SHAPE, 4.0, mode="SILU"), mode=mode)


def test_an_activation_with_scales_per_channel_has_a_table_per_channel() -> None:
    table = scaled_active("INT8").constant("y", 1)
    x = np.arange(-128, 128) / 127
    for channel in range(2):
        argument = x * SCALED["scale_in"][channel] + SCALED["shift_in"][channel]
        expected = np.rint(argument / (1 + np.exp(-argument)) * SCALED["scale_out"][channel] / (4 / 127))
        np.testing.assert_array_equal(table[0, channel, 0, np.arange(-128, 128) & 0xFF], np.clip(expected, -128, 127))


def test_an_activation_with_scales_per_channel_is_one_op_in_floats_that_fills_the_lanes() -> None:
    _, c, h, _ = SHAPE
    parts = max(d for d in range(1, 64 // c + 1) if h % d == 0)
    lowered = scaled_active("F32")
    assert [line.split(":")[0] for line in lowered.layers()] == ["Reshape x_reshape", "ScaledActive y__active", "Reshape y"]
    np.testing.assert_array_equal(lowered.constant("y__active", 1).reshape(c, parts), np.repeat([SCALED["scale_in"]], parts, 0).T)


def test_a_normalization_of_another_rank_is_a_product_and_a_sum() -> None:
    net = Net()
    mean, variance, gamma, beta = (
        net.weight(name, numbers) for name, numbers in zip("mvgb", ([1, 2], [3, 8], [4, 6], [5, 7]), strict=True)
    )
    y = net.op(TopBatchNormOp, "y", [net.input("x", (1, 2, 5)), mean, variance, gamma, beta], (1, 2, 5), epsilon=1.0)
    lowered = net.lower(y, mode="F32")
    assert lowered.layers() == ["Mul y_scaled:f32", "Add y:f32"]
    assert lowered.constant("y_scaled", 1).tolist() == [[[2.0], [2.0]]]
    assert lowered.constant("y", 1).tolist() == [[[3.0], [3.0]]]
