"""Requantization against Python integers; look-ups, series and moves between lanes against direct indexing."""

from __future__ import annotations

import numpy as np
import pytest
from bmflow.isa.program import Command
from reference import LIMITS, saturated, shifted
from simulator_bench import LANES, PREC, SIGN, Place, Shape, aligned, compact, picture, put, run_command, run_on_picture, sizes, tiu

X, T, Y = 0x0, 0x4000, 0x8000


def requant(shape: Shape, kinds: tuple[str, str], mode: int, **more: int) -> Command:
    fields = {
        "opd0_sign": SIGN[kinds[0]], "opd2_sign": SIGN[kinds[1]], "opd0_prec": PREC[kinds[0]], "res0_prec": PREC[kinds[1]],
        "opd2_n_str": mode, **sizes("res0", shape), "opd0_addr": X, "opd1_addr": T, "res0_addr": Y,
    }  # fmt: skip
    return tiu("sRQ&sDQ", (4, 1), fields | more)


def values_and_ties(rng: np.random.Generator, shape: Shape, kind: str) -> np.ndarray:
    low, high = LIMITS[kind]
    values = rng.integers(low, high, shape, endpoint=True)
    values[..., ::2] = rng.integers(-4096 if low else 0, 4096 if high > 4096 else high, values[..., ::2].shape)
    values.flat[:3] = (low, high, 0)
    return values


@pytest.mark.parametrize("mode", range(7))
@pytest.mark.parametrize("kinds", [("i32", "i8"), ("i32", "u8"), ("i32", "i16"), ("i16", "i8"), ("u8", "i8")])
@pytest.mark.parametrize("shifts", [(-43, -30), (-50, -40), (-12, -1), (-1, 3)])
def test_requantization_per_channel_is_exact(shifts: tuple[int, int], kinds: tuple[str, str], mode: int, rng: np.random.Generator) -> None:
    shape = (1, 67, 2, 9)
    x, y = aligned(X, shape, kinds[0]), aligned(Y, shape, kinds[1])
    values = values_and_ties(rng, shape, kinds[0])
    shift = rng.integers(*shifts, 67, endpoint=True)
    multiplier = np.where(shift < -20, rng.integers(2**30, 2**31, 67), rng.integers(-9, 9, 67))
    zero = rng.integers(-100, 100, 67)
    table = Place(T, (1, 67, 1, 3), "i32", (0, 16, 0, 1))
    memory = picture()
    put(memory, x, values)
    put(memory, table, np.stack([multiplier, shift, zero], axis=1).reshape(1, 67, 1, 3))
    result = run_command(memory, requant(shape, kinds, mode), y)
    for c in range(67):
        exact = [
            saturated(shifted(int(v) * int(multiplier[c]), int(shift[c]), mode) + int(zero[c]), kinds[1]) for v in values[0, c].ravel()
        ]
        assert result[0, c].ravel().tolist() == exact


def test_ties_of_requantization_go_up_whatever_the_shift(rng: np.random.Generator) -> None:
    shape = (1, 1, 1, 64)
    values = np.arange(-32, 32).reshape(shape)
    for shift in (-1, -31, -43, -44, -62):
        memory = picture()
        put(memory, aligned(X, shape, "i32"), values)
        multiplier = 1 << min(-shift - 1, 30)
        packed = (shift & 0xFF) | 0x0300
        command = requant(shape, ("i32", "i8"), 5, opd1_const=1, opd1_addr=multiplier, opd2_addr=packed)
        result = run_command(memory, command, aligned(Y, shape, "i8"))
        assert result.ravel().tolist() == [saturated(shifted(int(v) * multiplier, shift, 5) + 3, "i8") for v in values.ravel()]


@pytest.mark.parametrize("mode", [1, 5, 6])
def test_the_constant_form_holds_multiplier_shift_and_zero_point(mode: int, rng: np.random.Generator) -> None:
    shape = (1, 70, 3, 3)
    values = values_and_ties(rng, shape, "i32")
    memory = picture()
    put(memory, aligned(X, shape, "i32"), values)
    packed = (-37 & 0xFF) | (-19 & 0xFFFF) << 8
    command = requant(shape, ("i32", "i8"), mode, opd1_const=1, opd1_addr=-1234567890 & 0xFFFFFFFF, opd2_addr=packed)
    result = run_command(memory, command, aligned(Y, shape, "i8"))
    assert result.ravel().tolist() == [saturated(shifted(int(v) * -1234567890, -37, mode) - 19, "i8") for v in values.ravel()]


def gather(c: int, w: int, **more: int) -> Command:
    fields = {"opd0_str": 4, **sizes("res0", (1, c, 1, w)), "opd0_h": 1, "opd0_w": 256, "opd1_c": c, "opd1_w": w}
    return tiu("sSG", (6, 5), fields | {"opd0_addr": T, "opd1_addr": X, "res0_addr": Y} | more)


@pytest.mark.parametrize("same", [True, False])
def test_a_look_up_takes_the_table_of_the_lane(same: bool, rng: np.random.Generator) -> None:
    tables = np.repeat(rng.integers(0, 256, (1, 256)), LANES, axis=0) if same else rng.integers(0, 256, (LANES, 256))
    shape = (1, 150, 1, 33)
    index = rng.integers(0, 256, shape)
    memory = picture()
    memory[:, T : T + 256] = tables
    put(memory, aligned(X, shape, "u8"), index)
    result = run_command(memory, gather(150, 33), aligned(Y, shape, "u8"))
    assert np.array_equal(result, tables[np.arange(150) % LANES][None, np.arange(150)[:, None, None], index[0]])


def test_a_look_up_may_have_a_table_per_channel(rng: np.random.Generator) -> None:
    shape = (1, 150, 1, 33)
    tables, index = rng.integers(0, 256, (1, 150, 1, 256)), rng.integers(0, 256, shape)
    memory = picture()
    put(memory, aligned(T, tables.shape, "u8"), tables)
    put(memory, aligned(X, shape, "u8"), index)
    result = run_command(memory, gather(150, 33, opd0_str=0), aligned(Y, shape, "u8"))
    assert np.array_equal(result, np.take_along_axis(tables, index, 3))


def test_an_index_past_the_end_means_the_last_entry(rng: np.random.Generator) -> None:
    shape = (1, 3, 1, 20)
    table, index = rng.integers(0, 65536, 10), rng.integers(0, 20, shape)
    memory = picture()
    put(memory, Place(T, (1, LANES, 1, 10), "u16", (0, 0, 0, 1)), np.broadcast_to(table, (1, LANES, 1, 10)))
    put(memory, aligned(X, shape, "u8"), index)
    result = run_command(memory, gather(3, 20, opd0_w=10, opd0_prec=3, res0_prec=3), aligned(Y, shape, "u16"))
    assert np.array_equal(result, table[np.minimum(index, 9)])


def test_look_ups_in_one_bank_are_reported() -> None:
    _, simulation = run_on_picture(picture(), [gather(3, 20, opd0_addr=X + 0x1000)])
    assert any("share a bank" in problem.text for problem in simulation.problems)


def test_a_series_is_summed_from_the_highest_power_down(rng: np.random.Generator) -> None:
    shape = (1, 66, 3, 5)
    values, factors = rng.normal(size=shape).astype(np.float32), rng.normal(size=6).astype(np.float32)
    memory = picture()
    put(memory, aligned(X, shape, "f32"), values)
    put(memory, Place(T, (1, LANES, 1, 6), "f32", (0, 0, 0, 1)), np.broadcast_to(factors, (1, LANES, 1, 6)))
    fields = {"res0_prec": 2, "opd0_prec": 2, "opd1_n": 6, **sizes("res0", shape), "opd0_addr": X, "opd1_addr": T, "res0_addr": Y}
    result = run_command(memory, tiu("sSFU", (9, 13), fields), aligned(Y, shape, "f32"))
    wide = sum(float(factor) * values.astype(np.float64) ** k for k, factor in enumerate(factors))
    size = sum(abs(float(factor)) * abs(values.astype(np.float64)) ** k for k, factor in enumerate(factors))
    assert (abs(result - wide) <= size * 12 * 2.0**-24).all()


def between(kind: int, y: Place, x: Place, c: int, w: int) -> Command:
    fields = {"res0_prec": PREC[y.kind], **sizes("res0", y.shape), "opd0_c": c, "opd0_w": w}
    return tiu("sTRANS&sBC", (5, kind), fields | {"res0_addr": y.register, "opd0_addr": x.register})


@pytest.mark.parametrize("kind", ["i8", "f16", "i32"])
def test_a_lane_copy_moves_a_tensor_to_other_lanes(kind: str, rng: np.random.Generator) -> None:
    shape = (2, 70, 3, 5)
    x, y = aligned(X, shape, kind, lane=3), aligned(Y, shape, kind, lane=50)
    values = rng.integers(0, 100, shape)
    memory = picture()
    put(memory, x, values)
    assert np.array_equal(run_command(memory, between(2, y, x, 70, 5), y), values)


def test_a_broadcast_repeats_one_channel_even_in_place(rng: np.random.Generator) -> None:
    values = rng.integers(-128, 128, (1, 1, 1, 256))
    for x, lane in ((aligned(T, (1, 1, 1, 256), "i8"), 0), (aligned(X, (1, 1, 1, 256), "i8", lane=5), 9)):
        y = aligned(T, (1, LANES - lane, 1, 256), "i8", lane=lane)
        memory = picture()
        put(memory, x, values)
        assert np.array_equal(run_command(memory, between(3, y, x, 1, 256), y), np.broadcast_to(values, y.shape))


def test_a_transpose_exchanges_channels_and_columns(rng: np.random.Generator) -> None:
    values = rng.integers(-128, 128, (2, 20, 3, 70))
    lines = Place(X, (2, 20, 3, 70), "i8", (3 * 128, 3 * 128, 128, 1))
    turned = aligned(Y, (2, 70, 3, 20), "i8")
    memory = picture()
    put(memory, lines, values)
    assert np.array_equal(run_command(memory, between(0, turned, lines, 20, 70), turned), values.transpose(0, 3, 2, 1))
    memory = picture()
    plain = aligned(X, (2, 20, 3, 70), "i8")
    put(memory, plain, values)
    assert np.array_equal(run_command(memory, between(1, turned, plain, 20, 70), turned), values.transpose(0, 3, 2, 1))


def test_compact_rows_follow_each_other(rng: np.random.Generator) -> None:
    place = compact(0, (1, 130, 1, 1), "i32")
    assert [byte for _, _, byte in place.elements()][::LANES] == [0, 4, 8]


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_an_inverse_root_is_rounded_once(kind: str, rng: np.random.Generator) -> None:
    shape = (1, 70, 1, 9)
    values = (10 ** rng.uniform(-4, 4, shape)).astype(np.float32 if kind == "f32" else np.float16)
    memory = picture()
    put(memory, aligned(X, shape, kind), values)
    fields = {"res0_prec": PREC[kind], "opd0_prec": PREC[kind], "opd2_n_str": 3, **sizes("res0", shape), "opd0_addr": X, "res0_addr": Y}
    result = run_command(memory, tiu("sSFU", (9, 17), fields), aligned(Y, shape, kind))
    exact = 1 / np.sqrt(values.astype(np.float64))
    assert (abs(result - exact) <= exact * 2.0 ** (-24 if kind == "f32" else -11) * 1.001).all()
