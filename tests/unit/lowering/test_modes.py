"""Which type a layer gets and why, the casts between types, the network's ends, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bmflow import target
from bmflow.dialects.top.elementwise import TopAddOp, TopMulOp, TopReluOp, TopSigmoidOp, TopSiLUOp, TopSoftmaxOp
from bmflow.dialects.top.pool import TopAvgPoolOp, TopMaxPoolOp
from bmflow.dialects.top.shape import TopConcatOp, TopReshapeOp, TopSliceOp
from bmflow.errors import BmflowError, CompileError, InputError
from bmflow.ir.layer import layer_name
from bmflow.ir.module import Module
from bmflow.ir.types import DType, dtype_of, range_of
from bmflow.passes.lowering import LoweringOptions, explain_modes, lower
from bmflow.tables.calibration import CalibrationTable, Range
from bmflow.tables.precision import PrecisionTable
from lowering_net import Lowered, Net, options_of

SHAPE = (1, 2, 4, 4)
ONES = np.ones((2, 2, 1, 1), np.float32)
POOL = {"kernel_shape": [4, 4], "strides": [1, 1], "pads": [0, 0, 0, 0]}


def conv_silu_conv(**options: Any) -> Lowered:
    net = Net()
    x = net.conv("a_Conv", net.input("x", SHAPE, (0.0, 1.0)), ONES, [0.1, 0.2], 4.0)
    x = net.op(TopSiLUOp, "b_Mul", [x], SHAPE, 4.0)
    return net.lower(net.conv("c_Conv", x, ONES, [0.1, 0.2], 8.0), **options)


def test_f16_keeps_what_activations_read_and_give_in_f16() -> None:
    lowered = conv_silu_conv(mode="F16")
    assert lowered.layers() == [
        "Cast xa_Conv_f16:f16", "Conv2D a_Conv:f16", "Active b_Mul:f16", "Conv2D c_Conv:f16", "Cast c_Conv_f32:f32",
    ]  # fmt: skip
    assert [layer_name(value) for value in lowered.op("a_Conv").operands] == ["xa_Conv_f16", "a_Conv_w_f16", "a_Conv_b"]
    assert lowered.constant("a_Conv", 1).dtype == np.float16
    assert lowered.reasons["b_Mul"] == "F16: mode of the module"


def test_bf16_weights_are_stored_as_bits() -> None:
    lowered = conv_silu_conv(mode="BF16")
    assert lowered.layers()[1:3] == ["Conv2D a_Conv:bf16", "Active b_Mul:bf16"]
    assert (lowered.constant("a_Conv", 1) == 0x3F80).all()
    assert lowered.constant("a_Conv", 1).dtype == np.uint16


def test_f32_has_no_casts_and_keeps_its_weights() -> None:
    lowered = conv_silu_conv(mode="F32")
    assert lowered.layers() == ["Conv2D a_Conv:f32", "Active b_Mul:f32", "Conv2D c_Conv:f32"]
    assert lowered.module.output_names == ["c_Conv"]


def test_int8_casts_at_the_ends_only() -> None:
    lowered = conv_silu_conv()
    assert lowered.layers() == ["Cast xa_Conv_ui8:ui8", "Conv2D a_Conv:si8", "Lut b_Mul:si8", "Conv2D c_Conv:si8", "Cast c_Conv_f32:f32"]
    assert set(lowered.reasons.values()) == {"INT8: mode of the module"}


def test_a_lowered_module_says_what_it_is() -> None:
    module = conv_silu_conv().module
    wanted = {"state": "TPU_LOWERED", "chip": "bm1684x", "mode": "INT8", "asymmetric": False}
    assert {key: module.get(f"module.{key}") for key in wanted} == wanted
    assert module.get("module.weight_file") is None
    assert set(module.weights) == {"a_Conv_filter_i8", "a_Conv_bias_int32", "b_Mul_table", "c_Conv_filter_i8", "c_Conv_bias_int32"}


def test_a_quantize_table_changes_single_layers() -> None:
    lowered = conv_silu_conv(qtable="b_Mul:F16,c_Conv:F16")
    assert lowered.layers()[1:] == [
        "Conv2D a_Conv:si8", "Cast a_Convb_Mul_f32:f32", "Active b_Mul:f32", "Cast b_Mulc_Conv_f16:f16", "Conv2D c_Conv:f16",
        "Cast c_Conv_f32:f32",
    ]  # fmt: skip
    assert lowered.reasons["c_Conv"] == "F16: quantize table"
    assert range_of(lowered.op("c_Conv").results[0]) == (-8.0, 8.0)


def test_an_integer_layer_among_floats_reads_its_input_at_the_inputs_own_scale() -> None:
    lowered = conv_silu_conv(mode="F16", qtable="c_Conv:INT8")
    assert lowered.layers()[-3:] == ["Cast b_Mulc_Conv_si8:si8", "Conv2D c_Conv:si8", "Cast c_Conv_f32:f32"]
    assert lowered.quantization("b_Mulc_Conv_si8").scale == 4 / 127


def test_a_cast_from_f16_says_so_in_its_type() -> None:
    lowered = conv_silu_conv(qtable="a_Conv:F16")
    assert "!quant.uniform<i8:f16, " in str(lowered.op("a_Convb_Mul_si8").results[0].type)
    assert "!quant.uniform<i8:f32, " in str(lowered.op("b_Mul").results[0].type)


def test_later_readers_share_the_cast_of_the_first() -> None:
    net = Net()
    x = net.input("x", SHAPE)
    net.op(TopSiLUOp, "unused", [x], SHAPE)
    a, b = (net.conv(name, x, ONES, None) for name in ("a", "b"))
    lowered = net.lower(a, b, mode="F16")
    assert [layer for layer in lowered.layers() if "Cast x" in layer] == ["Cast xa_f16:f16"]


def test_a_weight_that_several_ops_read_is_copied_for_each() -> None:
    net = Net()
    x, w = net.input("x", SHAPE), net.weight("w", np.ones((1, 2, 1, 1)))
    y = net.op(TopMulOp, "b", [net.op(TopMulOp, "a", [x, w], SHAPE), w], SHAPE)
    assert sorted(net.lower(y, mode="F16").module.weights) == ["aw_f16", "bw_f16"]


def test_a_weight_beyond_f16_is_refused() -> None:
    net = Net()
    y = net.op(TopMulOp, "y", [net.input("x", SHAPE), net.weight("w", [70000.0])], SHAPE)
    with pytest.raises(CompileError, match="y: its constant w reaches 70000, more than F16 holds"):
        net.lower(y, mode="F16")


def test_an_output_that_is_read_inside_too_has_a_cast_of_its_own() -> None:
    net = Net()
    a = net.conv("a", net.input("x", SHAPE), ONES, None)
    lowered = net.lower(net.op(TopSigmoidOp, "s", [a], SHAPE), a, mode="F16")
    assert lowered.module.output_names == ["s", "a_f32"]
    assert "Cast as_f32:f32" in lowered.layers()


def add(high: float, **options: Any) -> Lowered:
    net = Net()
    return net.lower(net.op(TopAddOp, "y", [net.input("a", SHAPE, 1.0), net.input("b", SHAPE, high)], SHAPE, 10.0), **options)


@pytest.mark.parametrize(("high", "kind"), [(64.0, "si8"), (64.1, "f16"), (1 / 64.1, "f16"), (1e-9, "si8")])
def test_a_sum_of_very_different_inputs_is_a_float(high: float, kind: str) -> None:
    lowered = add(high)
    assert f"Add y:{kind}" in lowered.layers()
    assert ("more than 64 times apart" in lowered.reasons["y"]) == (kind == "f16")


def test_a_quantize_table_overrides_the_rule_of_sums() -> None:
    assert "Add y:si8" in add(100.0, qtable="y:INT8").layers()


def test_a_sum_whose_result_is_far_smaller_than_its_inputs_is_a_float() -> None:
    net = Net()
    lowered = net.lower(net.op(TopAddOp, "y", [net.input("a", SHAPE, 1.0), net.input("b", SHAPE, 1.0)], SHAPE, 0.001))
    assert "Add y:f16" in lowered.layers()
    assert "more than an 8-bit multiplier holds" in lowered.reasons["y"]


def pool(mode: str = "INT8", **options: Any) -> Lowered:
    net = Net()
    return net.lower(net.op(TopAvgPoolOp, "y", [net.input("x", SHAPE, 1.0)], (1, 2, 1, 1), 1.0, **POOL), mode=mode, **options)


@pytest.mark.parametrize(("mode", "kind"), [("F32", "f32"), ("F16", "f32"), ("BF16", "bf16"), ("INT8", "si8")])
def test_averages_of_f16_are_computed_in_f32(mode: str, kind: str) -> None:
    assert f"Pool2D y:{kind}" in pool(mode).layers()


def test_high_precision_computes_averages_in_f32_unless_the_quantize_table_says_otherwise() -> None:
    assert "Pool2D y:f32" in pool(high_precision=True).layers()
    assert "Pool2D y:si8" in pool(high_precision=True, qtable="y:INT8").layers()


@pytest.mark.parametrize(
    ("size", "settings", "asymmetric", "reason"),
    [
        (4, {"pads": [1, 1, 1, 1]}, False, "count fewer values"),
        (4, {"is_adaptive": True}, False, "adaptive"),
        (5, {"kernel_shape": [2, 2], "strides": [2, 2]}, True, "do not cover"),
    ],
)
def test_averages_without_an_integer_form_are_computed_in_f32(size: int, settings: dict, asymmetric: bool, reason: str) -> None:
    net = Net()
    y = net.op(TopAvgPoolOp, "y", [net.input("x", (1, 2, size, size), 1.0)], (1, 2, 2, 2), (-0.5, 1.0), **(POOL | settings))
    lowered = net.lower(y, asymmetric=asymmetric)
    assert "Pool2D y:f32" in lowered.layers()
    assert reason in lowered.reasons["y"]


def test_a_reshape_takes_the_type_of_its_input() -> None:
    net = Net()
    x = net.op(TopSiLUOp, "x", [net.input("in", SHAPE, 1.0)], SHAPE, 1.0)
    y = net.op(TopReshapeOp, "y", [x], (1, 32), 1.0, shape=[1, 32])
    lowered = net.lower(y, qtable="y:F16")
    assert "Reshape y:si8" in lowered.layers()
    assert lowered.reasons["y"] == "type of its input: quantize table; a Reshape changes no value"


def test_a_relu_by_itself_is_a_float_where_there_are_zero_points() -> None:
    net = Net()
    x = net.op(TopSiLUOp, "x", [net.input("in", SHAPE, 1.0)], SHAPE, (-0.3, 1.0))
    lowered = net.lower(net.op(TopReluOp, "y", [x], SHAPE, (0.0, 1.0)), x, asymmetric=True)
    assert "Relu y:f32" in lowered.layers()
    assert "zero points" in lowered.reasons["y"]


def test_a_concat_with_a_constant_is_a_float() -> None:
    net = Net()
    c = net.op(TopConcatOp, "c", [net.input("x", SHAPE, 1.0), net.weight("w", np.ones(SHAPE))], (1, 4, 4, 4), 1.0)
    lowered = net.lower(c)
    assert "Concat c:f16" in lowered.layers()
    assert list(lowered.module.weights) == ["w_f16"]


def test_a_clamp_above_is_left_to_saturation_in_integers_and_kept_in_floats() -> None:
    for mode, limit in (("INT8", -1.0), ("F16", 6.0)):
        net = Net()
        y = net.conv("y", net.input("x", SHAPE, 1.0), ONES, None, (0.0, 6.0), do_relu=True, relu_limit=6.0)
        assert net.lower(y, mode=mode).op("y")["relu_limit"] == limit


def test_quant_input_feeds_integers() -> None:
    lowered = conv_silu_conv(quant_input=True)
    (source,) = lowered.module.inputs
    assert lowered.layers()[0] == "Conv2D a_Conv:si8"
    assert (source.layer_name, dtype_of(source.output), dtype_of(source.input)) == ("x", DType.U8, DType.U8)
    assert dtype_of(lowered.module.function.args[0]) is DType.U8


def test_quant_input_keeps_the_order_of_inputs() -> None:
    net = Net()
    a, b = (net.input(name, SHAPE) for name in "ab")
    lowered = net.lower(net.op(TopAddOp, "y", [b, a], SHAPE), mode="F16", quant_input=True)
    assert [op.layer_name for op in lowered.module.inputs] == ["a", "b"]
    assert [layer_name(value) for value in lowered.op("y").operands] == ["b", "a"]
    assert [op.input.index for op in lowered.module.inputs] == [0, 1]  # pyright: ignore[reportAttributeAccessIssue]


def test_quant_input_needs_a_single_type() -> None:
    net = Net()
    x = net.input("x", SHAPE)
    outputs = [net.conv("a", x, ONES, None), net.op(TopSigmoidOp, "b", [x], SHAPE)]
    with pytest.raises(InputError, match=r"--quant_input: the layers behind the input x read it as f16 and f32"):
        net.lower(*outputs, mode="F16", quant_input=True)


def test_quant_output_returns_integers() -> None:
    lowered = conv_silu_conv(quant_output=True)
    assert lowered.module.output_names == ["c_Conv"]
    assert dtype_of(lowered.module.outputs[0]) is DType.I8


def test_an_input_returned_as_it_is_needs_no_cast() -> None:
    net = Net()
    x = net.input("x", SHAPE, 1.0)
    assert net.lower(x, net.op(TopSiLUOp, "y", [x], SHAPE, 1.0)).module.output_names == ["x", "y_f32"]


def silu_module() -> Module:
    net = Net()
    return net.finish(net.op(TopSiLUOp, "first_Mul", [net.input("x", SHAPE)], SHAPE))


def table(**ranges: float) -> CalibrationTable:
    return CalibrationTable({name: Range(t, -t, t) for name, t in ranges.items()})


REFUSED: list[tuple[str, Callable[[], LoweringOptions], str]] = [
    ("no table", lambda: options_of("INT8", None), "INT8 needs a calibration table"),
    ("no table for one layer", lambda: options_of("F16", None, "first_Mul:INT8"), "first_Mul: is to run in INT8, which needs"),
    ("a layer without range", lambda: options_of("INT8", table(x=1.0)), "no range above 0 for first_Mul, which INT8 needs"),
    ("an empty range", lambda: options_of("INT8", table(x=1.0, first_Mul=0.0)), "no range above 0 for first_Mul"),
    ("an unknown layer", lambda: options_of("INT8", table(x=1.0, frist_Mul=1.0)), r"frist_Mul \(did you mean first_Mul\?\); calibrate net"),
    ("an unknown layer in the quantize table", lambda: options_of("F16", None, "first_Mull:F32"), r"first_Mull \(did you mean first_Mul\?\)"),
    ("a type the processor lacks", lambda: options_of("F16", None, "first_Mul:INT4"), "INT4, which bm1684x lacks; it has F32, F16, BF16, INT8"),
    ("a mode the processor lacks", lambda: options_of("INT4", None), "bm1684x: has no INT4; choose --quantize from F32"),
    ("zero points", lambda: LoweringOptions(target.load("cv181x"), "INT8", asymmetric=True, table=table(x=1.0)), "cv181x: lowering is not"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_does_not_fit_is_refused(options: Callable[[], LoweringOptions], message: str) -> None:
    for verb in (lower, explain_modes):
        with pytest.raises(BmflowError, match=message):
            verb(silu_module(), options())


def test_bad_input_ends_with_exit_code_2() -> None:
    with pytest.raises(InputError) as error:
        lower(silu_module(), options_of("INT8", None))
    assert error.value.exit_code == 2


def test_a_lowered_module_is_not_lowered_again() -> None:
    lowered = lower(silu_module(), options_of("F16", None))
    with pytest.raises(InputError, match="expected a top module to lower, found the state TPU_LOWERED"):
        lower(lowered, options_of("F16", None))


def test_all_layers_without_a_lowering_are_named_at_once() -> None:
    net = Net()
    x = net.input("x", (1, 2, 4))
    pooled = net.op(TopMaxPoolOp, "p", [x], (1, 2, 4), kernel_shape=[1], strides=[1], pads=[0, 0])
    none = net.builder.none
    cut = net.op(TopSliceOp, "s", [x, net.weight("w", [1.0]), none, none], (1, 2, 4), offset=[0, 0, 0], steps=[1, 1, 1], ends=[1, 2, 4])
    with pytest.raises(
        CompileError, match=r"net: this version cannot lower 2 of its layers: p \(top.MaxPool\): .*; s \(top.Slice\): its bounds"
    ):
        net.lower(pooled, cut, mode="F16")


def test_reasons_of_a_quantize_table_are_passed_on() -> None:
    options = LoweringOptions(
        target.load("bm1684x"), "F16", precision=PrecisionTable({"first_Mul": "F32"}, {"first_Mul": "pattern layers"})
    )
    assert explain_modes(silu_module(), options) == {"first_Mul": "F32: quantize table (pattern layers)"}


def test_softmax_in_high_precision_is_f32() -> None:
    net = Net()
    lowered = net.lower(net.op(TopSoftmaxOp, "y", [net.input("x", SHAPE, 1.0)], SHAPE, axis=1), mode="F16", high_precision=True)
    assert lowered.layers() == ["Softmax y:f32"]
    assert lowered.reasons == {"y": "F32: high precision"}
    assert lowered.module.get("module.high_precision") is True
