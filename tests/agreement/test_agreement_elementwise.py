"""Element-by-element ops: kernels and simulator agree; integers bit for bit, floats within the stated units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from bmflow.dialects.tpu.compute import TpuActiveOp, TpuAddOp, TpuLutOp, TpuMulOp, TpuReluOp, TpuScaledActiveOp, TpuSoftmaxOp
from bmflow.dialects.tpu.convert import TpuCastOp, TpuMulShiftOp, TpuRequantIntOp
from bmflow.ir.attributes import ActiveMode, enum_attribute
from bmflow.ir.types import DType
from harness import SCALE, Network, element

FLOATS = [DType.F32, DType.F16, DType.BF16]
SHAPES = [(1, 70, 5, 7), (2, 3, 9, 4), (1, 10), (1, 4420, 2), (3, 1, 1, 1)]
ZEROS = [(0, 0), (-13, 9), (5, -128)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("x", "y"), [(DType.I8, DType.I8), (DType.U8, DType.I8), (DType.I8, DType.U8)], ids=lambda d: d.value)
def test_lookups_are_identical(shape: tuple[int, ...], x: DType, y: DType, rng: np.random.Generator) -> None:
    net = Network(rng)
    table = rng.integers(*y.limits, (1, 1, 1, 256), endpoint=True)
    net.check(net.op(TpuLutOp, "y", [net.input("x", shape, x), net.weight("table", table, y)], shape, element(y)))


@pytest.mark.parametrize("shape", [(1, 70, 5, 7), (2, 200, 3, 3), (1, 16, 300, 320), (3, 2, 1, 1)], ids=str)
@pytest.mark.parametrize(("x", "y"), [(DType.I8, DType.I8), (DType.U8, DType.I8)], ids=lambda d: d.value)
def test_lookups_with_a_table_per_channel_are_identical(shape: tuple[int, ...], x: DType, y: DType, rng: np.random.Generator) -> None:
    net = Network(rng)
    tables = rng.integers(*y.limits, (1, shape[1], 1, 256), endpoint=True)
    net.check(net.op(TpuLutOp, "y", [net.input("x", shape, x), net.weight("tables", tables, y)], shape, element(y)))


@dataclass(frozen=True)
class Sum:
    """Operands' types and zero points, the result's, and relu."""

    id: str
    inputs: tuple[tuple[DType, int], ...]
    result: tuple[DType, int]
    relu: bool = False
    shapes: tuple[tuple[int, ...], ...] = ()


SUMS = [
    Sum("signed", ((DType.I8, 0), (DType.I8, 0)), (DType.I8, 0)),
    Sum("mixed signs", ((DType.I8, 0), (DType.U8, 0)), (DType.I8, 0)),
    Sum("unsigned result", ((DType.U8, 0), (DType.I8, 0)), (DType.U8, 0), relu=True),
    Sum("zero points", ((DType.I8, -13), (DType.I8, 7)), (DType.I8, 5)),
    Sum("zero points and relu", ((DType.I8, -128), (DType.U8, 100)), (DType.I8, -20), relu=True),
    Sum("three operands", ((DType.I8, 0), (DType.U8, 0), (DType.I8, 0)), (DType.I8, 0)),
    Sum("broadcast over the picture", ((DType.I8, 0), (DType.I8, 0)), (DType.I8, 0), shapes=((1, 70, 5, 7), (1, 70, 1, 1))),
    Sum("broadcast over channels", ((DType.I8, 0), (DType.I8, 0)), (DType.I8, 0), shapes=((2, 70, 5, 7), (1, 1, 5, 7))),
]


@pytest.mark.parametrize("case", SUMS, ids=lambda case: case.id)
def test_integer_sums_are_identical(case: Sum, rng: np.random.Generator) -> None:
    net = Network(rng)
    shapes = case.shapes or ((1, 70, 5, 7),) * len(case.inputs)
    inputs = [net.input(f"x{i}", shapes[i], dtype, zero) for i, (dtype, zero) in enumerate(case.inputs)]
    multipliers, rshifts = [int(m) for m in rng.integers(20, 127, len(inputs))], [int(r) for r in rng.integers(6, 9, len(inputs))]
    result = element(case.result[0], zero_point=case.result[1])
    net.check(net.op(TpuAddOp, "y", inputs, shapes[0], result, multipliers=multipliers, rshifts=rshifts, do_relu=case.relu))


PRODUCTS = [
    Sum("signed", ((DType.I8, 0), (DType.I8, 0)), (DType.I8, 0)),
    Sum("unsigned", ((DType.U8, 0), (DType.U8, 0)), (DType.U8, 0)),
    Sum("mixed", ((DType.U8, 0), (DType.I8, 0)), (DType.I8, 0)),
    Sum("zero points", ((DType.I8, -13), (DType.U8, 7)), (DType.I8, 5)),
    Sum("a number a channel", ((DType.I8, 0), (DType.I8, 0)), (DType.I8, 0), shapes=((1, 70, 5, 7), (1, 70, 1, 1))),
]


@pytest.mark.parametrize("case", PRODUCTS, ids=lambda case: case.id)
def test_integer_products_are_identical(case: Sum, rng: np.random.Generator) -> None:
    net = Network(rng)
    shapes = case.shapes or ((1, 70, 5, 7),) * len(case.inputs)
    inputs = [net.input(f"x{i}", shapes[i], dtype, zero) for i, (dtype, zero) in enumerate(case.inputs)]
    result = element(case.result[0], zero_point=case.result[1])
    net.check(net.op(TpuMulOp, "y", inputs, shapes[0], result, multiplier=101, rshift=13))


@pytest.mark.parametrize("kind", [TpuMulShiftOp, TpuRequantIntOp], ids=lambda kind: kind.name)
@pytest.mark.parametrize(("zero_x", "zero_y"), ZEROS, ids=str)
@pytest.mark.parametrize(("x", "y"), [(DType.I8, DType.I8), (DType.U8, DType.I8)], ids=lambda d: d.value)
def test_requantizations_are_identical(
    kind: type[TpuMulShiftOp | TpuRequantIntOp], zero_x: int, zero_y: int, x: DType, y: DType, rng: np.random.Generator
) -> None:
    net = Network(rng)
    source = net.input("x", (1, 70, 5, 7), x, abs(zero_x) if x is DType.U8 else zero_x)
    net.check(net.op(kind, "y", [source], (1, 70, 5, 7), element(y, zero_point=zero_y), multiplier=51, rshift=6))


@pytest.mark.parametrize("x", [DType.I8, DType.U8], ids=lambda d: d.value)
def test_integer_relu_is_identical(x: DType, rng: np.random.Generator) -> None:
    net = Network(rng)
    net.check(net.op(TpuReluOp, "y", [net.input("x", (1, 70, 5, 7), x)], (1, 70, 5, 7), element(DType.U8)))


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.value)
@pytest.mark.parametrize(("x", "zero"), [(DType.I8, 0), (DType.U8, 0), (DType.I8, -13), (DType.U8, 200)], ids=str)
@pytest.mark.parametrize("scale", [1 / 16, 0.02339], ids=str)
def test_casts_between_integers_and_floats_are_identical(dtype: DType, x: DType, zero: int, scale: float, rng: np.random.Generator) -> None:
    net = Network(rng)
    value = net.input("x", (1, 70, 5, 7), x, zero, scale)
    real = net.op(TpuCastOp, "real", [value], (1, 70, 5, 7), dtype)
    back = net.op(TpuCastOp, "back", [real], (1, 70, 5, 7), element(x, scale * 1.37, zero))
    net.check(real, back, units=0)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.value)
@pytest.mark.parametrize("scale", [1 / 1024, 0.0003797], ids=str)
def test_heads_of_16_bits_turn_to_floats_alike(dtype: DType, scale: float, rng: np.random.Generator) -> None:
    net = Network(rng)
    net.check(net.op(TpuCastOp, "y", [net.input("x", (1, 70, 5, 7), DType.I16, 0, scale)], (1, 70, 5, 7), dtype), units=0)


@pytest.mark.parametrize("to", FLOATS, ids=lambda d: d.value)
@pytest.mark.parametrize("source", FLOATS, ids=lambda d: d.value)
def test_casts_among_floats_are_identical(source: DType, to: DType, rng: np.random.Generator) -> None:
    net = Network(rng)
    net.check(net.op(TpuCastOp, "y", [net.input("x", (1, 70, 5, 7), source)], (1, 70, 5, 7), to), units=0)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.value)
def test_float_sums_and_products_agree(dtype: DType, rng: np.random.Generator) -> None:
    net = Network(rng)
    a, b, c = (net.input(name, (1, 70, 5, 7), dtype) for name in "abc")
    small = net.input("small", (1, 70, 1, 1), dtype)
    net.check(
        net.op(TpuAddOp, "two", [a, b], (1, 70, 5, 7), dtype, do_relu=True),
        net.op(TpuAddOp, "three", [a, b, c], (1, 70, 5, 7), dtype, coeff=[1.0, -2.0, 0.5]),
        net.op(TpuMulOp, "product", [a, b], (1, 70, 5, 7), dtype),
        net.op(TpuMulOp, "by channel", [a, small], (1, 70, 5, 7), dtype),
        units=1,
    )


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.value)
@pytest.mark.parametrize("mode", ["SIGMOID", "SILU"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float_activations_agree(dtype: DType, mode: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    net = Network(rng)
    x = net.input("x", shape, dtype)
    net.inputs["x"] *= 8
    net.check(net.op(TpuActiveOp, "y", [x], shape, dtype, mode=enum_attribute(ActiveMode, mode)), units=16 if dtype is DType.F32 else 1)


@pytest.mark.parametrize("shape", [(1, 70, 5, 7), (1, 16, 40, 20), (2, 3, 9, 4), (1, 200, 1, 1)], ids=str)
@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((DType.I16, 0), (DType.I8, -13)),
        ((DType.U8, 9), (DType.U8, 0)),
        ((DType.F16, 0), (DType.I8, 0)),
        ((DType.I16, 0), (DType.F16, 0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["SIGMOID", "SILU"])
def test_scaled_activations_agree_from_any_type_to_any(
    mode: str, x: tuple[DType, int], y: tuple[DType, int], shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    """Integers within one: the exponentials of kernels and processor differ in the last bit, which decides between two at a tie."""
    net, channels = Network(rng), (1, shape[1], 1, 1)
    reach = 4 if x[0].is_float else 4 / x[0].limits[1]
    steps = 1 if y[0].is_float else 25
    scales = {
        "scale_in": reach * rng.uniform(0.5, 2, channels),
        "shift_in": rng.normal(size=channels),
        "scale_out": steps * rng.uniform(0.5, 2, channels),
    }
    operands = [net.input("x", shape, *x), *(net.weight(name, array.astype(np.float32), DType.F32) for name, array in scales.items())]
    value = net.op(TpuScaledActiveOp, "y", operands, shape, element(y[0], zero_point=y[1]), mode=enum_attribute(ActiveMode, mode))
    found = net.check(value, units=1, allow_lsb=1)
    differing = found.simulation.outputs["y"] != found.expected["y"]
    assert y[0].is_float or differing.mean() < 0.002


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.value)
@pytest.mark.parametrize(("shape", "axis"), [((1, 1000), 1), ((1, 4420, 2), 2), ((2, 5, 4, 6), 1)], ids=str)
def test_float_softmax_agrees(dtype: DType, shape: tuple[int, ...], axis: int, rng: np.random.Generator) -> None:
    net = Network(rng)
    operands = [net.input("x", shape, dtype), *[net.none] * 5]
    net.check(net.op(TpuSoftmaxOp, "y", operands, shape, dtype, axis=axis), units=64 if dtype is DType.F32 else 1)


@pytest.mark.parametrize("shape", [(1, 21, 5, 7), (1, 1000, 1, 1)], ids=str)
def test_integer_softmax_agrees_but_for_ties(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    net = Network(rng)
    table = np.exp(-SCALE * np.arange(256)).astype(np.float32).reshape(1, 1, 1, 256)
    operands = [net.input("x", shape, DType.I8), net.weight("table", table, DType.F32), *[net.none] * 4]
    net.check(net.op(TpuSoftmaxOp, "y", operands, shape, element(DType.U8, 1 / 255), axis=1), allow_lsb=1)
