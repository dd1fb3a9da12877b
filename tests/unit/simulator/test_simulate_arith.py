"""AR commands against Python integers and numpy's float32, one operation at a time."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from bmflow.isa.program import Command
from reference import LIMITS, rounded, saturated, shifted, wrapped
from simulator_bench import PREC, SIGN, Place, aligned, compact, picture, put, run_command, size_of, sizes, tiu

SHAPE = (2, 70, 3, 5)
MUL, ADD, SUB, MAX, MIN, DIV, CAST, ADDS, SUBS, COPY, MULS, ABS = 0, 2, 3, 4, 5, 12, 14, 15, 16, 19, 20, 26
WIDE = {MUL: lambda a, b: a * b, ADD: lambda a, b: a + b, SUB: lambda a, b: a - b}
WIDE |= {MULS: WIDE[MUL], ADDS: WIDE[ADD], SUBS: WIDE[SUB]}


TYPES = [
    ("i8", "i8", "i8"), ("u8", "u8", "u8"), ("i8", "u8", "i16"), ("i16", "i16", "i8"), ("i32", "i32", "i32"), ("u8", "i32", "i32"),
    ("u16", "u16", "u32"),
]  # fmt: skip
SHIFTS = [(("i8", "u8", "i16"), -8), (("i16", "i16", "i8"), -15), (("i32", "i32", "i32"), -20), (("i8", "i8", "i32"), 23)]


def operand(name: str, place: Place, free: bool = False) -> dict[str, int]:
    """Fields of an operand in local memory."""
    fields = {f"{name}_addr": place.register, f"{name}_prec": PREC[place.kind], f"{name}_str": 3 if free else 0}
    if name != "res0":
        fields[f"{name}_sign"] = SIGN[place.kind]
    return fields | ({f"{name}_{dim}_str": s for dim, s in zip("nchw", place.strides, strict=True)} if free else {})


def arith(op: int, y: Place, a: dict[str, int], b: dict[str, int] | None = None, count: int = 0, **more: int) -> Command:
    fields = {"tsk_opd_num": count or (1 if b is None else 2), **sizes("res0", y.shape), **a, **(b or {}), **more}
    return tiu("sAR", (3, op), {**operand("res0", y), **fields})


def integers(rng: np.random.Generator, kind: str, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Random numbers of the whole range, with its ends."""
    low, high = LIMITS[kind]
    values = rng.integers(low, high, shape, endpoint=True)
    values.flat[: min(3, values.size)] = (low, high, 0)[: values.size]
    return values


@pytest.mark.parametrize("kinds", TYPES)
@pytest.mark.parametrize("op", [MUL, ADD, SUB, ADDS, SUBS, MULS])
def test_integer_sums_and_products_saturate_or_wrap(op: int, kinds: tuple[str, str, str], rng: np.random.Generator) -> None:
    a, b, y = (aligned(k * 0x4000, SHAPE, kind) for k, kind in enumerate(kinds))
    memory, left, right = picture(), integers(rng, a.kind), integers(rng, b.kind)
    put(memory, a, left)
    put(memory, b, right)
    result = run_command(memory, arith(op, y, operand("opd0", a), operand("opd1", b)), y)
    narrow = saturated if op in (ADDS, SUBS, MULS) else wrapped
    exact = [narrow(WIDE[op](int(p), int(q)), y.kind) for p, q in zip(left.flat, right.flat, strict=True)]
    assert result.ravel().tolist() == exact


@pytest.mark.parametrize("mode", range(7))
@pytest.mark.parametrize(("kinds", "shift"), SHIFTS)
def test_the_third_operand_shifts_with_rounding(kinds: tuple[str, str, str], shift: int, mode: int, rng: np.random.Generator) -> None:
    a, b, y = (aligned(k * 0x4000, (1, 5, 3, 7), kind) for k, kind in enumerate(kinds))
    memory, left, right = picture(), integers(rng, a.kind, a.shape), integers(rng, b.kind, b.shape)
    put(memory, a, left)
    put(memory, b, right)
    shifts = {"opd2_const": 1, "opd2_addr": shift & 0xFF, "opd2_n_str": mode}
    result = run_command(memory, arith(MULS, y, operand("opd0", a), operand("opd1", b), 3, **shifts), y)
    exact = [saturated(shifted(int(p) * int(q), shift, mode), y.kind) for p, q in zip(left.flat, right.flat, strict=True)]
    assert result.ravel().tolist() == exact


@pytest.mark.parametrize("op", [MUL, ADD, SUB])
@pytest.mark.parametrize("shift", [-3, 0, 5, 23, 31])
def test_plain_integer_results_wrap_after_the_shift(op: int, shift: int, rng: np.random.Generator) -> None:
    a, b, y = (aligned(k * 0x4000, (1, 5, 3, 7), kind) for k, kind in enumerate(("i32", "i16", "i32")))
    memory, left, right = picture(), integers(rng, a.kind, a.shape), integers(rng, b.kind, b.shape)
    put(memory, a, left)
    put(memory, b, right)
    shifts = {"opd2_const": 1, "opd2_addr": shift & 0xFF, "opd2_n_str": 5}
    result = run_command(memory, arith(op, y, operand("opd0", a), operand("opd1", b), 3, **shifts), y)
    exact = [wrapped(shifted(WIDE[op](int(p), int(q)), shift, 5), "i32") for p, q in zip(left.flat, right.flat, strict=True)]
    assert result.ravel().tolist() == exact


def test_the_vendors_rescale_by_67_over_256_is_reproduced(rng: np.random.Generator) -> None:
    x, y = aligned(0, SHAPE, "i8"), aligned(0x4000, SHAPE, "i16")
    memory, values = picture(), integers(rng, "i8")
    put(memory, x, values)
    constant = {"opd1_const": 1, "opd1_addr": 67, "opd1_prec": 0, "opd2_const": 1, "opd2_addr": 248, "opd2_n_str": 5}
    result = run_command(memory, arith(MULS, y, operand("opd0", x), constant, 3), y)
    assert np.array_equal(result, (values * 67 + 128) >> 8)


def test_a_bias_is_added_in_place_with_one_value_per_channel(rng: np.random.Generator) -> None:
    shape = (2, 100, 3, 5)
    total = aligned(0x4000, shape, "i32")
    bias = compact(0x40C, (1, 100, 1, 1), "i32")
    memory, sums, biases = picture(), integers(rng, "i32", shape), integers(rng, "i32", bias.shape)
    put(memory, total, sums)
    put(memory, bias, biases)
    spread = replace(bias, shape=shape, strides=(0, 1, 0, 0))
    result = run_command(memory, arith(ADDS, total, operand("opd0", spread, free=True), operand("opd1", total)), total)
    assert np.array_equal(result, np.clip(sums + biases, *LIMITS["i32"]))


@pytest.mark.parametrize("kind", ["i8", "u8", "i16", "i32", "f32", "f16"])
@pytest.mark.parametrize("op", [MAX, MIN])
def test_extremes_compare_as_signed_or_unsigned(op: int, kind: str, rng: np.random.Generator) -> None:
    x, y = aligned(0, SHAPE, kind), aligned(0x4000, SHAPE, kind)
    values = integers(rng, kind) if kind in LIMITS else rng.normal(size=SHAPE).astype(kind.replace("f", "float"))
    memory = picture()
    put(memory, x, values)
    bits = {"i8": 0xFD, "u8": 0xFD, "i16": 0xFFFD, "i32": 0xFFFFFFFD, "f32": 0x3F000000, "f16": 0x3800}[kind]
    number = {"i8": -3, "u8": 253, "i16": -3, "i32": -3, "f32": 0.5, "f16": 0.5}[kind]
    constant = {"opd1_const": 1, "opd1_addr": bits, "opd1_prec": PREC[kind], "opd1_sign": SIGN[kind]}
    result = run_command(memory, arith(op, y, operand("opd0", x), constant), y)
    assert np.array_equal(result, np.maximum(values, number) if op == MAX else np.minimum(values, number))


@pytest.mark.parametrize("op", [MUL, ADD, SUB, DIV])
def test_f32_arithmetic_is_rounded_once(op: int, rng: np.random.Generator) -> None:
    a, b, y = (aligned(k * 0x4000, SHAPE, "f32", lane=11) for k in range(3))
    left, right = (rng.normal(size=SHAPE).astype(np.float32) for _ in range(2))
    memory = picture()
    put(memory, a, left)
    put(memory, b, right)
    result = run_command(memory, arith(op, y, operand("opd0", a), operand("opd1", b)), y)
    wide = {MUL: np.multiply, ADD: np.add, SUB: np.subtract, DIV: np.divide}[op](left.astype(np.float64), right.astype(np.float64))
    assert np.array_equal(result, wide.astype(np.float32))


def test_16_bit_floats_are_rounded_once_to_even(rng: np.random.Generator) -> None:
    a, b, y = (aligned(k * 0x4000, SHAPE, "f16") for k in range(3))
    left, right = (rng.normal(size=SHAPE).astype(np.float16) for _ in range(2))
    memory = picture()
    put(memory, a, left)
    put(memory, b, right)
    result = run_command(memory, arith(MUL, y, operand("opd0", a), operand("opd1", b)), y)
    assert np.array_equal(result, (left.astype(np.float64) * right.astype(np.float64)).astype(np.float16))


def test_bf16_keeps_the_upper_half_rounded_to_even(rng: np.random.Generator) -> None:
    x, y = aligned(0, SHAPE, "f32"), aligned(0x4000, SHAPE, "bf16")
    values = rng.normal(size=SHAPE).astype(np.float32)
    values.flat[:3] = (1.00390625, 1.01171875, -0.0)  # two ties and a signed zero
    memory = picture()
    put(memory, x, values)
    result = run_command(memory, arith(CAST, y, operand("opd0", x), opd2_sign=1), y)
    exact = [rounded_bits(int(bits)) for bits in values.ravel().view(np.uint32)]
    assert result.ravel().tolist() == exact


def rounded_bits(bits: int) -> int:
    """Upper 16 bits of an f32 number, ties to even."""
    upper, lower = bits >> 16, bits & 0xFFFF
    return upper + int(lower > 0x8000 or (lower == 0x8000 and upper % 2 == 1))


@pytest.mark.parametrize("mode", range(5))
@pytest.mark.parametrize("kind", ["i8", "u8", "i16", "i32"])
@pytest.mark.parametrize("source", ["f32", "f16"])
def test_floats_become_integers_in_five_rounding_modes(source: str, kind: str, mode: int, rng: np.random.Generator) -> None:
    x, y = aligned(0, SHAPE, source), aligned(0x4000, SHAPE, kind)
    values = (rng.integers(-600, 600, SHAPE) / 4).astype(np.float32 if source == "f32" else np.float16)
    values.flat[:6] = (0.49999997, -0.49999997, 0.5, -0.5, 60000.0, -60000.0)
    memory = picture()
    put(memory, x, values)
    result = run_command(memory, arith(CAST, y, operand("opd0", x), opd2_sign=SIGN[kind], opd2_n_str=mode), y)
    exact = [saturated(rounded(Fraction(float(value)), mode), kind) for value in values.ravel()]
    assert result.ravel().tolist() == exact


@pytest.mark.parametrize("source", ["i8", "u8", "i16", "i32"])
@pytest.mark.parametrize("kind", ["f32", "i8", "u8", "i16", "i32"])
def test_integers_convert_to_the_nearest_number(source: str, kind: str, rng: np.random.Generator) -> None:
    x, y = aligned(0, SHAPE, source), aligned(0x4000, SHAPE, kind)
    values = integers(rng, source)
    memory = picture()
    put(memory, x, values)
    result = run_command(memory, arith(CAST, y, operand("opd0", x), opd2_sign=SIGN[kind]), y)
    expected = values.astype(np.float32) if kind == "f32" else np.clip(values, *LIMITS[kind])
    assert np.array_equal(result, expected)


def test_infinities_saturate_and_nan_becomes_zero() -> None:
    x, y = aligned(0, (1, 1, 1, 4), "f32"), aligned(0x4000, (1, 1, 1, 4), "i8")
    memory = picture()
    put(memory, x, np.array([np.inf, -np.inf, np.nan, 3.5], np.float32).reshape(x.shape))
    result = run_command(memory, arith(CAST, y, operand("opd0", x), opd2_sign=1, opd2_n_str=1), y)
    assert result.ravel().tolist() == [127, -128, 0, 4]


@pytest.mark.parametrize("kind", ["i8", "f16", "f32", "bf16"])
def test_a_copy_with_strides_spreads_columns(kind: str, rng: np.random.Generator) -> None:
    shape = (1, 66, 3, 4)
    x = aligned(0, shape, kind)
    y = Place(0x4000, shape, kind, (256, 128, 16, 2))
    values = rng.integers(0, 100, shape)
    memory = picture()
    put(memory, x, values)
    command = arith(COPY, y, operand("opd0", x), **{f"res0_{dim}_str": s for dim, s in zip("nchw", y.strides, strict=True)}, res0_str=3)
    result = run_command(memory, command, y)
    assert np.array_equal(result, values.astype(result.dtype))


def test_a_copy_of_a_constant_fills() -> None:
    y = aligned(0x4000, SHAPE, "i16")
    command = arith(COPY, y, {"opd0_const": 1, "opd0_addr": 0xFFFE, "opd0_prec": 3, "opd0_sign": 1})
    assert (run_command(picture(), command, y) == -2).all()


def test_absolute_values_of_integers(rng: np.random.Generator) -> None:
    x, y = aligned(0, SHAPE, "i16"), aligned(0x4000, SHAPE, "i16")
    memory, values = picture(), rng.integers(-32767, 32768, SHAPE)
    put(memory, x, values)
    assert np.array_equal(run_command(memory, arith(ABS, y, operand("opd0", x)), y), abs(values))


def test_sizes_of_elements_are_those_of_the_notes() -> None:
    assert [size_of(kind) for kind in ("i8", "f16", "f32", "i16", "i32", "bf16")] == [1, 2, 4, 2, 4, 2]
