"""Matrix products, layer normalization and GELU through lowering: numbers from their formulas (quantization notes, 7.3, 7.4, 9)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import erf, floor, sqrt

import attention_network
import numpy as np
import onnx
import pytest
from bmflow.dialects.top.elementwise import TopAddOp, TopGELUOp, TopMulOp, TopSoftmaxOp
from bmflow.dialects.top.matmul import TopLayerNormOp, TopMatMulOp
from bmflow.dialects.top.shape import TopPermuteOp, TopReshapeOp, TopSliceOp
from bmflow.errors import InputError
from bmflow.frontend.onnx import import_onnx
from bmflow.ir.layer import layer_name
from bmflow.ir.module import Module
from bmflow.ir.values import SSAValue
from bmflow.kernels import Executable, to_real
from bmflow.passes import optimize_top
from bmflow.passes.lowering import explain_modes, lower
from bmflow.tables.calibration import CalibrationTable, Range
from lowering_net import Bounds, Lowered, Net, options_of

MODES = ("F32", "F16", "BF16")


def half_away(real: Fraction) -> int:
    """Round half away from zero."""
    return floor(real + Fraction(1, 2)) if real >= 0 else -floor(-real + Fraction(1, 2))


@dataclass(frozen=True)
class Product:
    """A product with a constant matrix."""

    id: str
    x: tuple[float, float]
    y: tuple[float, float]
    shape: tuple[int, ...] = (2, 3, 7)
    columns: int = 5
    bias: bool = True
    relu: bool = False
    transposed: bool = False
    asymmetric: bool = False
    factor: float = 1.0


PRODUCTS = [
    Product("signed", (-4.0, 4.0), (-9.0, 9.0)),
    Product("unsigned in and out", (0.0, 4.0), (0.0, 9.0), relu=True),
    Product("no bias", (-4.0, 3.0), (-5.0, 9.0), bias=False),
    Product("read transposed", (-4.0, 4.0), (-9.0, 9.0), transposed=True),
    Product("zero points", (-1.0, 4.0), (-9.0, 6.0), asymmetric=True),
    Product("zero points, transposed, no bias", (-1.0, 4.0), (-9.0, 6.0), asymmetric=True, transposed=True, bias=False),
    Product("zero points, unsigned", (1.0, 4.0), (0.0, 9.0), asymmetric=True, relu=True),
    Product("rank 2", (-4.0, 4.0), (-30.0, 30.0), shape=(6, 40)),
    Product("large matrix", (-4.0, 4.0), (-500.0, 500.0), factor=100.0),
]


@pytest.mark.parametrize("case", PRODUCTS, ids=lambda case: case.id)
def test_product_with_a_constant_is_the_formula_bit_for_bit(case: Product, rng: np.random.Generator) -> None:
    net, k, n = Net(), case.shape[-1], case.columns
    weights, bias = rng.normal(0, case.factor, (k, n)).astype(np.float32), rng.normal(0, case.factor, n).astype(np.float32)
    x = net.input("x", case.shape, case.x)
    operands = [x, net.weight("w", weights.T if case.transposed else weights), net.weight("b", bias) if case.bias else net.builder.none]
    y = net.op(TopMatMulOp, "y", operands, (*case.shape[:-1], n), case.y, right_transpose=case.transposed, do_relu=case.relu)
    lowered = net.lower(y, asymmetric=case.asymmetric, quant_output=True)

    to, op = lowered.quantization("y"), lowered.op("y")
    source_name = layer_name(op.operands[0])
    source, scale = lowered.quantization(source_name), float(np.abs(weights).max()) / 127
    integers = [[half_away(Fraction(float(w)) / Fraction(scale)) for w in row] for row in weights]
    assert lowered.constant("y", 1).dtype == np.int8
    np.testing.assert_array_equal(np.swapaxes(lowered.constant("y", 1), 0, 1) if case.transposed else lowered.constant("y", 1), integers)
    real = [float(b) / (scale * source.scale) if case.bias else 0.0 for b in bias]
    sums = np.array(integers).sum(0).tolist()
    addends = [half_away(Fraction(b - source.zero_point * s)) for b, s in zip(real, sums, strict=True)]
    if case.bias or source.zero_point:
        np.testing.assert_array_equal(lowered.constant("y", 2), addends)
        assert lowered.constant("y", 2).dtype == np.int32
    ratio = Fraction(float(np.float32(source.scale * scale / to.scale)))
    (multiplier,), (rshift,) = op.ints("multipliers"), op.ints("rshifts")
    assert abs(Fraction(multiplier) / 2**rshift / ratio - 1) <= Fraction(1, 2**21)

    samples = {"x": rng.uniform(*case.x, case.shape).astype(np.float32)}
    values = Executable(lowered.module, ["y", source_name], threads=1).run(samples)
    acc = values[source_name].astype(np.int64) @ np.array(integers, np.int64) + np.array(addends if case.bias or source.zero_point else 0)
    rounded = (acc * multiplier + (1 << rshift >> 1)) >> rshift
    low, high = to.dtype.limits
    np.testing.assert_array_equal(values["y"], np.clip(rounded + to.zero_point, to.zero_point if case.relu else low, high))
    exact = samples["x"].astype(np.float64) @ weights + (bias if case.bias else 0)
    span = [(limit - to.zero_point) * to.scale for limit in to.dtype.limits]
    expected = np.clip(np.maximum(exact, 0) if case.relu else exact, *span)
    np.testing.assert_allclose(to_real(op.results[0], values["y"]), expected, atol=0.03 * max(map(abs, case.y)))


def attention(net: Net, x: Bounds = 3.0, transposed: bool = False) -> SSAValue:
    """Two computed operands."""
    a, b = net.input("a", (2, 4, 6), x), net.input("b", (2, 5, 6) if transposed else (2, 6, 5), (0.0, 2.0))
    return net.op(TopMatMulOp, "y", [a, b, net.builder.none], (2, 4, 5), 20.0, right_transpose=transposed)


@pytest.mark.parametrize("transposed", [False, True])
def test_product_of_two_computed_operands(rng: np.random.Generator, transposed: bool) -> None:
    net = Net()
    lowered = net.lower(attention(net, transposed=transposed), quant_output=True)
    assert lowered.layers() == ["Cast ay_si8:si8", "Cast by_ui8:ui8", "MatMul y:si8"]
    assert layer_name(lowered.op("y").operands[2]) == ""
    (multiplier,), (rshift,) = lowered.op("y").ints("multipliers"), lowered.op("y").ints("rshifts")
    assert multiplier / 2**rshift == pytest.approx(np.float32(3 / 127 * 2 / 255 / (20 / 127)), rel=2**-21)
    feeds = {"a": rng.uniform(-3, 3, (2, 4, 6)), "b": rng.uniform(0, 2, (2, 5, 6) if transposed else (2, 6, 5))}
    values = Executable(lowered.module, "all", threads=1).run({name: array.astype(np.float32) for name, array in feeds.items()})
    right = values["by_ui8"].astype(np.int64)
    acc = values["ay_si8"].astype(np.int64) @ (right.swapaxes(1, 2) if transposed else right)
    np.testing.assert_array_equal(values["y"], np.clip((acc * multiplier + (1 << rshift >> 1)) >> rshift, -128, 127))


def test_product_of_two_computed_operands_with_zero_points_is_f32() -> None:
    net = Net()
    lowered = net.lower(attention(net), asymmetric=True)
    assert lowered.layers() == ["MatMul y:f32"]
    assert lowered.reasons["y"] == "F32: mode of the module; both operands computed, with zero points"


def test_product_with_a_constant_on_the_left_is_f16() -> None:
    net = Net()
    y = net.op(TopMatMulOp, "y", [net.weight("w", np.ones((3, 4))), net.input("x", (2, 4, 5), 1.0), net.builder.none], (2, 3, 5), 4.0)
    lowered = net.lower(y)
    assert lowered.layers() == ["Cast xy_f16:f16", "MatMul y:f16", "Cast y_f32:f32"]
    assert lowered.reasons["y"] == "F16: mode of the module; its left operand is constant"
    assert layer_name(lowered.op("y").operands[0]) == "w_f16"


def stack(asymmetric: bool) -> Lowered:
    net = Net()
    x, w = net.input("x", (2, 4, 6), (-1.0, 3.0)), net.weight("w", np.linspace(-1, 1, 60).reshape(2, 6, 5))
    return net.lower(net.op(TopMatMulOp, "y", [x, w, net.builder.none], (2, 4, 5), 9.0), asymmetric=asymmetric)


def test_stack_of_constant_matrices_is_an_integer_product_without_zero_points_only() -> None:
    assert "MatMul y:si8" in stack(asymmetric=False).layers()
    assert (
        stack(asymmetric=True).reasons["y"]
        == "F32: mode of the module; its constant right operand is a stack of matrices, with zero points"
    )


def test_matrix_of_zeros_has_a_scale() -> None:
    net = Net()
    y = net.op(
        TopMatMulOp, "y", [net.input("x", (3, 4), 1.0), net.weight("w", np.zeros((4, 2))), net.weight("b", [1.0, -1.0])], (3, 2), 2.0
    )
    lowered = net.lower(y, quant_output=True)
    assert not lowered.constant("y", 1).any()
    values = Executable(lowered.module, threads=1).run({"x": np.ones((3, 4), np.float32)})["y"]
    np.testing.assert_allclose(to_real(lowered.op("y").results[0], values), [[1.0, -1.0]] * 3, atol=0.03)


def test_bias_beyond_32_bits_saturates_the_result_instead_of_going_around() -> None:
    net = Net()
    operands = [net.input("x", (3, 4), 1.0), net.weight("w", np.ones((4, 2))), net.weight("b", [1e9, -1e9])]
    lowered = net.lower(net.op(TopMatMulOp, "y", operands, (3, 2), 5.0), quant_output=True)
    for sign in (1, -1):
        values = Executable(lowered.module, threads=1).run({"x": np.full((3, 4), sign, np.float32)})["y"]
        np.testing.assert_array_equal(values, [[127, -128]] * 3)


@pytest.mark.parametrize("mode", MODES)
def test_float_product_has_its_constants_in_its_own_type(mode: str) -> None:
    net, suffix = Net(), "" if mode == "F32" else f"_{mode.lower()}"
    y = net.op(TopMatMulOp, "y", [net.input("x", (3, 4)), net.weight("w", np.ones((4, 2))), net.weight("b", [1.0, 2.0])], (3, 2))
    lowered = net.lower(y, mode=mode)
    assert [layer_name(value) for value in lowered.op("y").operands[1:]] == [f"w{suffix}", f"b{suffix}"]
    assert f"MatMul y:{mode.lower()}" in lowered.layers()


@pytest.mark.parametrize(("mode", "result"), [("INT8", "f16"), ("F16", "f16"), ("BF16", "bf16"), ("F32", "f32")])
def test_layer_normalization_is_computed_in_floats(mode: str, result: str) -> None:
    net = Net()
    operands = [net.input("x", (2, 3, 4), 3.0), net.weight("g", np.ones(4)), net.builder.none]
    norm = net.op(TopLayerNormOp, "y", operands, (2, 3, 4), 2.0, axis=2, normalized_shape=[4], eps=1e-6)
    lowered = net.lower(norm, mode=mode)
    assert f"LayerNorm y:{result}" in lowered.layers()
    assert layer_name(lowered.op("y").operands[1]) == ("g" if mode == "F32" else f"g_{result}")
    assert lowered.op("y")["eps"] == 1e-6
    if mode == "INT8":
        assert lowered.reasons["y"] == "F16: mode of the module; normalizations are computed in floats"


@pytest.mark.parametrize(("x", "y", "asymmetric"), [(4.0, 4.0, False), ((0.0, 3.0), (0.0, 3.0), False), ((-2.0, 5.0), (-0.17, 5.0), True)])
def test_gelu_table(x: Bounds, y: Bounds, asymmetric: bool) -> None:
    net = Net()
    lowered = net.lower(net.op(TopGELUOp, "y", [net.input("x", (1, 3, 4), x)], (1, 3, 4), y), asymmetric=asymmetric, quant_output=True)
    source, to = lowered.quantization("xy_ui8" if source_is_unsigned(x) else "xy_si8"), lowered.quantization("y")
    low, high = source.dtype.limits
    for i in range(low, high + 1):
        v = (i - source.zero_point) * source.scale
        exact = half_away(Fraction(v / 2 * (1 + erf(v / sqrt(2))) / to.scale + to.zero_point))
        assert lowered.constant("y", 1)[0, 0, 0, i & 0xFF] == np.clip(exact, *to.dtype.limits)


def source_is_unsigned(bounds: Bounds) -> bool:
    return isinstance(bounds, tuple) and bounds[0] >= 0


@pytest.mark.parametrize("mode", MODES)
def test_float_gelu_is_computed_in_f32(mode: str) -> None:
    net = Net()
    lowered = net.lower(net.op(TopGELUOp, "y", [net.input("x", (1, 3, 4))], (1, 3, 4)), mode=mode)
    assert lowered.layers() == ["Active y:f32"]


def test_listed_gelu_has_a_zero_point_that_the_next_product_folds() -> None:
    net = Net()
    gelu = net.op(TopGELUOp, "g", [net.input("x", (3, 4), 4.0)], (3, 4), (-0.17, 4.0))
    y = net.op(TopMatMulOp, "y", [gelu, net.weight("w", np.ones((4, 2))), net.builder.none], (3, 2), 9.0)
    lowered = net.lower(y, table=CalibrationTable(net.ranges, asym_ops=("g", "y")))
    zero = lowered.quantization("g").zero_point
    assert zero == half_away(Fraction(-128 + 0.17 / (4.17 / 255)))
    assert lowered.constant("y", 2).tolist() == [-zero * 4 * 127] * 2


def test_difference_of_two_computed_values_is_a_float_sum() -> None:
    net = Net()
    a, b = net.input("a", (2, 3), 1.0), net.input("b", (2, 3), 1.0)
    lowered = net.lower(net.op(TopAddOp, "y", [a, b], (2, 3), 2.0, coeff=[1.0, -1.0]))
    assert lowered.reasons["y"] == "F16: mode of the module; it subtracts, which its integer form cannot"


@pytest.mark.parametrize("mode", [*MODES, "INT8", "INT8 asymmetric"])
def test_everything_else_around_attention_has_three_dimensions_too(mode: str, rng: np.random.Generator) -> None:
    net = Net()
    x, shape = net.input("x", (2, 3, 4), (-1.0, 2.0)), (2, 3, 4)
    add = net.op(TopAddOp, "add", [x, net.weight("c", np.linspace(-1, 1, 4))], shape, (-2.0, 3.0))
    mul = net.op(TopMulOp, "mul", [add, net.weight("s", [0.5])], shape, (-1.0, 1.5))
    soft = net.op(TopSoftmaxOp, "soft", [mul], shape, (0.0, 1.0), axis=2)
    moved = net.op(TopPermuteOp, "moved", [soft], (2, 4, 3), (0.0, 1.0), order=[0, 2, 1])
    cut: dict = {"offset": [0, 1, 0], "ends": [2, 4, 3], "steps": [1, 2, 1], "axes": []}
    part = net.op(TopSliceOp, "part", [moved, *[net.builder.none] * 3], (2, 2, 3), (0.0, 1.0), **cut)
    flat = net.op(TopReshapeOp, "flat", [part], (2, 6), (0.0, 1.0), shape=[2, 6])
    module = net.lower(flat, mode=mode.split()[0], asymmetric="asymmetric" in mode).module
    values = rng.uniform(-1, 2, shape).astype(np.float32)
    exponents = np.exp((values + np.linspace(-1, 1, 4)) / 2)
    expected = (exponents / exponents.sum(-1, keepdims=True)).transpose(0, 2, 1)[:, 1:4:2].reshape(2, 6)
    y = next(iter(Executable(module, threads=1).run({"x": values}).values()))
    np.testing.assert_allclose(y, expected, atol={"F32": 1e-6, "F16": 1e-3, "BF16": 5e-3}.get(mode, 0.02))


def test_scales_by_column_are_refused_where_there_is_a_product() -> None:
    net = Net()
    with pytest.raises(InputError, match="--matmul_perchannel: this version gives a matrix one scale"):
        net.lower(attention(net), matmul_perchannel=True)


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> tuple[Module, CalibrationTable, dict[str, np.ndarray]]:
    """The attention network, ranges over some samples, and the float values of another sample."""
    path = tmp_path_factory.mktemp("attention") / "m.onnx"
    onnx.save(attention_network.attention_model(), str(path))
    module = import_onnx(path, "net").module
    optimize_top(module)
    run = Executable(module, "all", threads=1)
    seen = [run.run({"x": x}) for x in attention_network.samples(8)]
    bounds = {name: (min(float(v[name].min()) for v in seen), max(float(v[name].max()) for v in seen)) for name in seen[0]}
    table = CalibrationTable({name: Range(max(-low, high), low, high) for name, (low, high) in bounds.items()})
    x = attention_network.samples(1, seed=3)[0]
    return module, table, run.run({"x": x}) | {"x": x}


@pytest.mark.parametrize(
    ("mode", "asymmetric", "sqnr"), [("F32", 0, 100), ("F16", 0, 55), ("BF16", 0, 36), ("INT8", 0, 24), ("INT8", 1, 24)]
)
def test_attention_network_survives_every_type(block: tuple, mode: str, asymmetric: int, sqnr: float) -> None:
    module, table, values = block
    options = options_of(mode, table, asymmetric=bool(asymmetric))
    lowered = lower(module, options)
    (y,) = Executable(lowered, threads=1).run({"x": values["x"]}).values()
    expected = values["logits_Gemm"].astype(np.float64)
    noise = max(float(((y - expected) ** 2).sum()), 1e-30)
    assert 10 * np.log10((expected**2).sum() / noise) > sqnr
    if mode == "INT8":
        kinds = {name: reason.split(":")[0] for name, reason in explain_modes(module, options).items()}
        floats = {"norm1_LayerNormalization", "norm2_LayerNormalization", "probabilities_Softmax"}
        if asymmetric:
            floats |= {"scores_MatMul", "mixed_MatMul"}
        assert {name for name, kind in kinds.items() if kind in MODES} == floats
