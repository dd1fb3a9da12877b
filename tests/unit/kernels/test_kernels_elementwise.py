"""Sums, products, look-ups, relu and smooth activations."""

from __future__ import annotations

from dataclasses import dataclass

import meaning
import numpy as np
import pytest
from bmflow.dialects.top.elementwise import TopAddOp, TopMulOp, TopReluOp, TopSigmoidOp, TopSiLUOp
from bmflow.dialects.tpu.compute import TpuActiveOp, TpuAddOp, TpuLutOp, TpuMulOp, TpuReluOp, TpuScaledActiveOp
from bmflow.dialects.tpu.convert import TpuCastOp
from bmflow.errors import CompileError
from bmflow.ir.attributes import ActiveMode, enum_attribute
from bmflow.ir.types import DType
from one_op import FLOATS, Kind, OneOp, draw, exact

I8, U8 = Kind(DType.I8), Kind(DType.U8)
SHAPE = (2, 3, 4, 5)


@dataclass(frozen=True)
class Sum:
    """Operands with (multiplier, rshift) each, and the result."""

    id: str
    inputs: tuple[Kind, ...]
    forms: tuple[tuple[int, int], ...]
    y: Kind = I8
    relu: bool = False
    shapes: tuple[tuple[int, ...], ...] = (SHAPE, SHAPE, SHAPE)


SUMS = [
    Sum("signed", (I8, I8), ((85, 7), (63, 6))),
    Sum("mixed", (I8, U8), ((85, 7), (1, 2)), U8),
    Sum("relu", (I8, I8), ((1, 0), (3, 2)), U8, relu=True),
    Sum("zero points", (Kind(DType.I8, -7), Kind(DType.U8, 31)), ((85, 7), (111, 8)), Kind(DType.I8, 12), relu=True),
    Sum("ties", (I8, I8), ((1, 1), (1, 2))),
    Sum("three", (I8, U8, I8), ((51, 7), (13, 5), (-85, 8)), Kind(DType.U8, 100)),
    Sum("one", (I8,), ((85, 8),)),
    Sum("left shift", (I8, I8), ((1, -3), (-1, -2))),
    Sum("broadcast", (I8, U8), ((85, 7), (63, 6)), shapes=(SHAPE, (1, 3, 1, 1))),
]


@pytest.mark.parametrize("case", SUMS, ids=lambda case: case.id)
def test_integer_sums_round_each_term_alone(case: Sum, rng: np.random.Generator) -> None:
    net, arrays = OneOp(), [draw(rng, shape, kind.dtype) for kind, shape in zip(case.inputs, case.shapes, strict=False)]
    operands = [net.given(a, kind) for a, kind in zip(arrays, case.inputs, strict=True)]
    y = net.run(net.op(
        TpuAddOp, "y", operands, SHAPE, case.y, multipliers=[m for m, _ in case.forms], rshifts=[r for _, r in case.forms], do_relu=case.relu,
    ))  # fmt: skip
    terms = [meaning.half_up((a - k.zero) * m, r) for a, k, (m, r) in zip(arrays, case.inputs, case.forms, strict=True)]
    np.testing.assert_array_equal(y, meaning.saturate(sum(terms), case.y.dtype, case.y.zero, case.relu))


def test_the_published_sum() -> None:
    net = OneOp()
    pairs = np.array([(100, 200), (-100, 7), (-128, 0), (127, 255), (-3, 1)])
    operands = [net.given(pairs[:, 0], I8), net.given(pairs[:, 1], U8)]
    y = net.run(net.op(TpuAddOp, "y", operands, (5,), I8, multipliers=[85, 1], rshifts=[7, 2]))
    assert y.tolist() == [116, -64, -85, 127, -2]


@pytest.mark.parametrize("dtype", [DType.I8, DType.U8], ids=lambda dtype: dtype.value)
def test_a_constant_term_has_zero_point_zero(dtype: DType, rng: np.random.Generator) -> None:
    net, x, c = OneOp(), draw(rng, SHAPE, DType.I8), draw(rng, (1, 3, 1, 1), dtype)
    operands = [net.given(x, Kind(DType.I8, 9)), net.weight("c", c, dtype)]
    y = net.run(net.op(TpuAddOp, "y", operands, SHAPE, Kind(DType.I8, 9), multipliers=[85, 33], rshifts=[7, 5]))
    terms = meaning.half_up((x - 9) * 85, 7) + meaning.half_up(c * 33, 5)
    np.testing.assert_array_equal(y, meaning.saturate(terms, DType.I8, 9))


PRODUCTS = [
    Sum("signed", (I8, I8), ((85, 13),)),
    Sum("unsigned", (U8, U8), ((101, 15),), U8),
    Sum("relu, zero points", (Kind(DType.I8, -7), Kind(DType.U8, 31)), ((85, 13),), Kind(DType.I8, 12), relu=True),
    Sum("three", (I8, U8, Kind(DType.I8, 100)), ((126, 24),)),
    Sum("32-bit multiplier", (I8, I8), ((1518500249, 38),)),
    Sum("five of 8 bits and a 32-bit multiplier", (I8, U8, I8, U8, I8), ((1518500249, 62),), shapes=(SHAPE,) * 5),
    Sum("ties", (I8, I8), ((1, 7),)),
    Sum("broadcast", (I8, I8), ((85, 13),), shapes=(SHAPE, (4, 1))),
]


@pytest.mark.parametrize("case", PRODUCTS[:5] + PRODUCTS[6:], ids=lambda case: case.id)
def test_integer_products_are_requantized_once(case: Sum, rng: np.random.Generator) -> None:
    net, arrays = OneOp(), [draw(rng, shape, kind.dtype) for kind, shape in zip(case.inputs, case.shapes, strict=False)]
    operands = [net.given(a, kind) for a, kind in zip(arrays, case.inputs, strict=True)]
    ((multiplier, rshift),) = case.forms
    y = net.run(net.op(TpuMulOp, "y", operands, SHAPE, case.y, multiplier=multiplier, rshift=rshift, do_relu=case.relu))
    product = 1
    for a, kind in zip(arrays, case.inputs, strict=True):
        product = product * (a - kind.zero).astype(object)
    np.testing.assert_array_equal(y, meaning.saturate(meaning.half_up(product * multiplier, rshift), case.y.dtype, case.y.zero, case.relu))


def test_a_product_that_needs_too_many_bits_is_refused(rng: np.random.Generator) -> None:
    net, case = OneOp(), PRODUCTS[5]
    operands = [net.given(draw(rng, SHAPE, kind.dtype), kind) for kind in case.inputs]
    y = net.op(TpuMulOp, "y", operands, SHAPE, I8, multiplier=case.forms[0][0], rshift=case.forms[0][1])
    with pytest.raises(CompileError, match=r"y: tpu.Mul with a right shift of 62 has no kernel"):
        net.run(y)


def test_a_product_with_a_constant(rng: np.random.Generator) -> None:
    net, x, c = OneOp(), draw(rng, SHAPE, DType.U8), draw(rng, (5,), DType.I8)
    operands = [net.given(x, U8), net.weight("c", c, DType.I8)]
    y = net.run(net.op(TpuMulOp, "y", operands, SHAPE, I8, multiplier=99, rshift=14))
    np.testing.assert_array_equal(y, meaning.saturate(meaning.half_up(x * c * 99, 14), DType.I8))


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.value)
def test_float_sums_and_products_round_once(dtype: DType, rng: np.random.Generator) -> None:
    a, b = draw(rng, SHAPE, dtype), draw(rng, (3, 1, 1), dtype)
    for kind, value, settings in (
        (TpuAddOp, 0.5 * a.astype(np.float64) - 2.0 * b, {"coeff": [0.5, -2.0], "do_relu": True}),
        (TpuMulOp, a.astype(np.float64) * b, {"do_relu": True, "relu_limit": 1.25}),
    ):
        net = OneOp()
        y = net.run(net.op(kind, "y", [net.given(a, Kind(dtype)), net.weight("b", b, dtype)], SHAPE, Kind(dtype), **settings))
        expected = np.clip(value, 0, settings.get("relu_limit"))
        np.testing.assert_allclose(y, exact(expected, dtype), rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(y, exact(y, dtype))


@pytest.mark.parametrize("x", [I8, U8, Kind(DType.I8, 5)], ids=str)
@pytest.mark.parametrize("y", [I8, U8, Kind(DType.U8, 9)], ids=str)
def test_a_look_up_is_indexed_by_the_raw_byte(x: Kind, y: Kind, rng: np.random.Generator) -> None:
    net, table = OneOp(), draw(rng, (1, 1, 1, 256), y.dtype)
    array = np.concatenate([np.arange(*x.dtype.limits), [x.dtype.limits[1]], draw(rng, (45,), x.dtype)]).reshape(1, 7, 43)
    found = net.run(net.op(TpuLutOp, "y", [net.given(array, x), net.weight("t", table, y.dtype)], array.shape, y))
    np.testing.assert_array_equal(found, table.ravel().astype(y.dtype.numpy)[array.astype(np.int8).view(np.uint8)])


def test_chained_look_ups_are_the_composition_of_their_tables(rng: np.random.Generator) -> None:
    net, tables = OneOp(), [draw(rng, (1, 1, 1, 256), DType.I8) for _ in range(2)]
    x = draw(rng, SHAPE, DType.I8)
    first = net.op(TpuLutOp, "first", [net.given(x, I8), net.weight("t0", tables[0], DType.I8)], SHAPE, I8)
    y = net.run(net.op(TpuLutOp, "y", [first, net.weight("t1", tables[1], DType.I8)], SHAPE, I8))
    np.testing.assert_array_equal(y, tables[1].ravel()[tables[0].ravel()[x & 255] & 255])


@pytest.mark.parametrize("y", [I8, U8], ids=str)
def test_integer_relu_keeps_what_is_not_negative(y: Kind) -> None:
    net, x = OneOp(), np.arange(-128, 128)
    found = net.run(net.op(TpuReluOp, "y", [net.given(x, I8)], (256,), y))
    np.testing.assert_array_equal(found, np.maximum(x, 0).astype(y.dtype.numpy))


def test_integer_relu_with_a_zero_point_is_refused() -> None:
    net = OneOp()
    y = net.op(TpuReluOp, "act", [net.given(np.zeros(3), Kind(DType.I8, 4))], (3,), Kind(DType.I8, 4))
    with pytest.raises(CompileError, match=r"act: tpu.Relu with a zero point has no kernel"):
        net.run(y)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.value)
def test_activations_are_rounded_at_their_result(dtype: DType, rng: np.random.Generator) -> None:
    x = draw(rng, SHAPE, dtype) * 4
    wide = x.astype(np.float64)
    for mode, value in (("SIGMOID", 1 / (1 + np.exp(-wide))), ("SILU", wide / (1 + np.exp(-wide)))):
        net = OneOp()
        y = net.run(net.op(TpuActiveOp, "y", [net.given(x, Kind(dtype))], SHAPE, Kind(dtype), mode=enum_attribute(ActiveMode, mode)))
        np.testing.assert_allclose(y, value, rtol={DType.F32: 1e-6, DType.F16: 6e-4, DType.BF16: 5e-3}[dtype], atol=1e-6)
        np.testing.assert_array_equal(y, exact(y, dtype))


@pytest.mark.parametrize("x", [Kind(DType.I8, -5), Kind(DType.U8), Kind(DType.F16)], ids=str)
def test_a_scaled_activation_takes_stored_numbers_and_gives_rounded_ones(x: Kind, rng: np.random.Generator) -> None:
    """y = sat(round_half_away(f(x * s + z) * t) + zp)."""
    raw = draw(rng, SHAPE, x.dtype)
    channels = (1, SHAPE[1], 1, 1)
    scale, shift, out = rng.uniform(0.01, 0.05, channels), rng.normal(size=channels), rng.uniform(10, 60, channels)
    net = OneOp()
    weights = [net.weight(name, array.astype(np.float32)) for name, array in (("s", scale), ("z", shift), ("t", out))]
    y = net.run(
        net.op(TpuScaledActiveOp, "y", [net.given(raw, x), *weights], SHAPE, Kind(DType.I8, 7), mode=enum_attribute(ActiveMode, "SILU"))
    )
    argument = raw.astype(np.float64) * scale + shift
    exact_result = argument / (1 + np.exp(-argument)) * out
    expected = np.clip(np.sign(exact_result) * np.floor(np.abs(exact_result) + 0.5) + 7, -128, 127)
    tie = np.abs(np.abs(exact_result) % 1 - 0.5) < 1e-4
    np.testing.assert_array_equal(y[~tie], expected[~tie])


@pytest.mark.parametrize("mode", ["SIGMOID", "SILU", "GELU"])
@pytest.mark.parametrize("half", [DType.F16, DType.BF16])
def test_an_activation_of_halves_gives_what_casts_around_one_in_f32_give(mode: str, half: DType, rng: np.random.Generator) -> None:
    """The form existing files have, in one pass."""
    values, function, kind = draw(rng, SHAPE, half), enum_attribute(ActiveMode, mode), Kind(half)
    net, longer = OneOp(), OneOp()
    direct = net.run(net.op(TpuActiveOp, "y", [net.given(values, kind)], SHAPE, kind, mode=function))
    wide = longer.op(TpuCastOp, "wide", [longer.given(values, kind)], SHAPE)
    exact = longer.op(TpuActiveOp, "exact", [wide], SHAPE, mode=function)
    np.testing.assert_array_equal(direct, longer.run(longer.op(TpuCastOp, "y", [exact], SHAPE, kind)))


def test_an_unknown_activation_is_refused() -> None:
    net = OneOp()
    y = net.op(TpuActiveOp, "act", [net.given(np.zeros(3))], (3,), mode=enum_attribute(ActiveMode, "MISH"))
    with pytest.raises(CompileError, match=r"act: tpu.Active of mode MISH has no kernel"):
        net.run(y)


def test_top_elementwise_ops_follow_their_formulas(rng: np.random.Generator) -> None:
    a, b = draw(rng, SHAPE, DType.F32), draw(rng, (3, 1, 5), DType.F32)
    sigmoid = 1 / (1 + np.exp(-a.astype(np.float64)))
    cases = [
        (TopAddOp, [a, b], a + b, {}),
        (TopAddOp, [a, b, a], np.clip(a - 2 * b + 0.25 * a, 0, 0.5), {"coeff": [1.0, -2.0, 0.25], "do_relu": True, "relu_limit": 0.5}),
        (TopMulOp, [a, b], np.maximum(a * b, 0), {"do_relu": True}),
        (TopReluOp, [a], np.maximum(a, 0), {}),
        (TopReluOp, [a], np.clip(a, 0, 0.75), {"relu_limit": 0.75}),
        (TopSigmoidOp, [a], sigmoid, {}),
        (TopSiLUOp, [a], a * sigmoid, {}),
    ]
    for kind, arrays, expected, settings in cases:
        net = OneOp()
        y = net.run(net.op(kind, "y", [net.given(x) for x in arrays], SHAPE, **settings))
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6, err_msg=kind.name)
