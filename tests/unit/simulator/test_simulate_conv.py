"""CONV commands against sums in 64-bit integers or floats over explicitly extended inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from math import prod

import numpy as np
import pytest
from bmflow.isa.program import Command
from simulator_bench import LANES, PREC, SIGN, Place, Shape, aligned, compact, get, picture, put, run_command, run_on_picture, sizes, tiu

PARALLEL = {"i8": 64, "u8": 64, "f16": 32, "bf16": 32, "f32": 1}
X, W, Y, B = 0x0, 0x4000, 0x8000, 0xC000


@dataclass(frozen=True)
class Case:
    """One convolution: sizes, types, window; `kzp` is the kernel's zero point, `pad` the padding value."""

    x: Shape
    oc: int
    kernel: tuple[int, int] = (3, 3)
    x_kind: str = "i8"
    w_kind: str = "i8"
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    insert: tuple[int, int] = (0, 0)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    pad: float = 0
    kzp: int = 0
    lane: int = 0
    y_kind: str = "i32"
    changes: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def y(self) -> Shape:
        extents = [
            (self.x[2 + k] - 1) * (self.insert[k] + 1) + 1 + self.pads[k] + self.pads[2 + k] - self.dilation[k] * (self.kernel[k] - 1) - 1
            for k in (0, 1)
        ]
        return self.x[0], self.oc, extents[0] // self.stride[0] + 1, extents[1] // self.stride[1] + 1

    @property
    def places(self) -> tuple[Place, Place]:
        return aligned(X, self.x, self.x_kind), aligned(Y, self.y, self.y_kind, self.lane)

    def command(self, **more: int) -> Command:
        """The command; integer padding values repeat in all four bytes."""
        x, y = self.places
        bits = {"f16": np.float16(self.pad).view(np.uint16), "f32": np.float32(self.pad).view(np.uint32)}.get(
            self.x_kind, int(self.pad) & 0xFF
        )
        repeated = int(bits) * {"f16": 0x10001, "bf16": 0, "f32": 1}.get(self.x_kind, 0x01010101)
        fields = {
            "res0_prec": PREC[self.y_kind], "opd0_prec": PREC[self.x_kind], "opd0_sign": SIGN[self.x_kind], "opd1_sign": SIGN[self.w_kind],
            "opd2_const": 1, "opd2_addr": self.kzp & 0xFF, "opd2_sign": int(self.kzp < 0), "opd3_const": 1, "opd3_addr": repeated,
            **sizes("res0", self.y), "opd0_c": self.x[1], "opd0_h": self.x[2], "opd0_w": self.x[3],
            "opd1_h": self.kernel[0], "opd1_w": self.kernel[1], "res_op_y_str": self.stride[0], "res_op_x_str": self.stride[1],
            "opd1_y_ins0": self.dilation[0] - 1, "opd1_x_ins0": self.dilation[1] - 1, "opd0_y_ins0": self.insert[0],
            "opd0_x_ins0": self.insert[1], "opd0_up_pad": self.pads[0], "opd0_lf_pad": self.pads[1], "opd0_dn_pad": self.pads[2],
            "opd0_rt_pad": self.pads[3], "opd0_addr": x.register, "opd1_addr": self.lane * 0x40000 + W, "res0_addr": y.register,
        }  # fmt: skip
        return tiu("sCONV", (0, 0), fields | self.changes | more)


def put_filter(memory: np.ndarray, case: Case, weights: np.ndarray) -> None:
    """Element (oc, ic, y, x) where the notes (1.6) have it; the rest of each group is zero."""
    oc, ic, kh, kw = weights.shape
    parallel = PARALLEL[case.w_kind]
    groups = -(-ic // parallel)
    taps = kh * kw
    row = Place(W, (1, oc, 1, groups * taps * parallel), case.w_kind, (0, groups * taps * parallel, 0, 1), case.lane)
    packed = np.zeros(row.shape, weights.dtype)
    for o, i, y, x in product(range(oc), range(ic), range(kh), range(kw)):
        packed[0, o, 0, (i // parallel * taps + y * kw + x) * parallel + i % parallel] = weights[o, i, y, x]
    put(memory, row, packed)


def expected(case: Case, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums in the widest type of the operands' kind."""
    n, ic, ih, iw = case.x
    wide = np.int64 if case.x_kind in ("i8", "u8") else np.float64
    high, width = (ih - 1) * (case.insert[0] + 1) + 1, (iw - 1) * (case.insert[1] + 1) + 1
    top, left, bottom, right = case.pads
    full = np.full((n, ic, high + top + bottom, width + left + right), case.pad, wide)
    full[:, :, top : top + high : case.insert[0] + 1, left : left + width : case.insert[1] + 1] = x
    result = np.zeros(case.y, wide)
    for oy, ox in product(range(case.y[2]), range(case.y[3])):
        for ky, kx in product(range(case.kernel[0]), range(case.kernel[1])):
            at = full[:, :, oy * case.stride[0] + ky * case.dilation[0], ox * case.stride[1] + kx * case.dilation[1]]
            result[:, :, oy, ox] += at @ (weights[:, :, ky, kx].astype(wide) - case.kzp).T
    return result


def integers(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    low, high = (-128, 127) if kind == "i8" else (0, 255)
    return rng.integers(low, high, shape, endpoint=True)


INTEGER_CASES = {
    "plain": Case((1, 5, 7, 6), 9),
    "full groups and rows": Case((1, 128, 3, 3), 130, (1, 1)),
    "group and a rest": Case((2, 70, 4, 4), 66, (2, 3), pads=(1, 0, 0, 2)),
    "unsigned input": Case((1, 20, 6, 6), 8, x_kind="u8", pads=(1, 1, 1, 1)),
    "unsigned filter": Case((1, 20, 6, 6), 8, w_kind="u8"),
    "unsigned both": Case((1, 64, 5, 5), 8, x_kind="u8", w_kind="u8"),
    "kernel zero point": Case((1, 20, 6, 6), 8, kzp=-77, pads=(1, 1, 1, 1)),
    "kernel zero point of unsigned": Case((1, 20, 6, 6), 8, x_kind="u8", w_kind="u8", kzp=201),
    "padding with a zero point": Case((1, 20, 5, 6), 8, pads=(2, 1, 0, 3), pad=-11),
    "padding of unsigned": Case((1, 20, 5, 6), 8, x_kind="u8", pads=(1, 1, 1, 1), pad=130),
    "stride and dilation": Case((1, 3, 17, 19), 16, (3, 2), stride=(2, 3), dilation=(2, 4), pads=(1, 2, 3, 4)),
    "large kernel and stride": Case((1, 3, 20, 20), 4, (6, 6), stride=(15, 2), pads=(15, 2, 15, 2)),
    "inserted zeros": Case((1, 9, 4, 5), 8, insert=(1, 2), pads=(2, 2, 2, 2)),
    "inserted padding value": Case((1, 9, 4, 5), 8, insert=(1, 1), pads=(1, 1, 1, 1), pad=5),
    "another start lane": Case((1, 12, 5, 5), 70, lane=40),
}


@pytest.mark.parametrize("case", INTEGER_CASES.values(), ids=INTEGER_CASES.keys())
def test_integer_sums_are_exact(case: Case, rng: np.random.Generator) -> None:
    x, weights = integers(rng, case.x_kind, case.x), integers(rng, case.w_kind, (case.oc, case.x[1], *case.kernel))
    memory = picture()
    put(memory, case.places[0], x)
    put_filter(memory, case, weights)
    assert np.array_equal(run_command(memory, case.command(), case.places[1]), expected(case, x, weights))


def test_the_largest_products_do_not_saturate_on_the_way() -> None:
    case = Case((1, 64, 4, 4), 8)
    x, weights = np.full(case.x, -128), np.full((8, 64, 3, 3), -128)
    memory = picture()
    put(memory, case.places[0], x)
    put_filter(memory, case, weights)
    assert (run_command(memory, case.command(), case.places[1]) == 64 * 9 * 128 * 128).all()


def test_old_results_are_added_when_asked(rng: np.random.Generator) -> None:
    case = Case((1, 5, 7, 6), 9)
    x, weights = integers(rng, "i8", case.x), integers(rng, "i8", (9, 5, 3, 3))
    memory, old = picture(), rng.integers(-(2**30), 2**30, case.y)
    put(memory, case.places[0], x)
    put_filter(memory, case, weights)
    put(memory, case.places[1], old)
    assert np.array_equal(run_command(memory, case.command(res_add=1), case.places[1]), old + expected(case, x, weights))


def test_an_input_with_explicit_strides_is_read_where_it_lies(rng: np.random.Generator) -> None:
    case = Case((1, 70, 4, 3), 9)
    x, weights = integers(rng, "i8", case.x), integers(rng, "i8", (9, 70, 3, 3))
    spread = Place(X + 3, case.x, "i8", (1000, 500, 20, 3))
    memory = picture()
    put(memory, spread, x)
    put_filter(memory, case, weights)
    fields = {"opd0_addr": spread.register, "opd0_str": 3, "opd0_n_str": 1000, "opd0_c_str": 500, "opd0_h_str": 20, "opd0_w_str": 3}
    assert np.array_equal(run_command(memory, case.command(**fields), case.places[1]), expected(case, x, weights))


FLOAT_CASES = {
    "f16": Case((1, 40, 6, 6), 70, x_kind="f16", w_kind="f16", y_kind="f16", pads=(1, 1, 1, 1)),
    "f16 into f32": Case((1, 40, 6, 6), 7, x_kind="f16", w_kind="f16", y_kind="f32", stride=(2, 2)),
    "bf16": Case((1, 40, 6, 6), 7, x_kind="bf16", w_kind="bf16", y_kind="f32"),
    "f32": Case((2, 5, 6, 6), 7, x_kind="f32", w_kind="f32", y_kind="f32", pads=(1, 0, 1, 0), pad=0.5),
}
DIGITS = {"f16": 10, "f32": 23}


@pytest.mark.parametrize(("name", "add_old"), [(n, k) for n, c in FLOAT_CASES.items() for k in (0, 1) if not k or c.y_kind == "f32"])
def test_float_sums_with_bias_differ_by_rounding_alone(name: str, add_old: int, rng: np.random.Generator) -> None:
    case = FLOAT_CASES[name]
    x, weights = (_stored(rng.normal(size=shape), case.x_kind) for shape in (case.x, (case.oc, case.x[1], *case.kernel)))
    bias, old = rng.normal(size=(1, case.oc, 1, 1)).astype(np.float32), rng.normal(size=case.y).astype(np.float32)
    memory = picture()
    put(memory, case.places[0], x[0])
    put_filter(memory, case, weights[0])
    place = compact(B, bias.shape, "f32")
    put(memory, place, bias)
    put(memory, case.places[1], old)
    result = run_command(memory, case.command(opd2_const=0, opd2_addr=place.register, opd2_sign=1, res_add=add_old), case.places[1])
    exact = expected(case, x[1], weights[1]) + bias + (old if add_old else 0)
    terms = case.x[1] * prod(case.kernel)
    bound = 2.0 ** -DIGITS[case.y_kind] * abs(exact).max() + terms * 2.0**-23 * 20
    assert abs(result - exact).max() <= bound


def _stored(values: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Stored elements and the numbers they are."""
    if kind == "bf16":
        bits = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return bits, (bits.astype(np.uint32) << 16).view(np.float32)
    narrow = values.astype(np.float16 if kind == "f16" else np.float32)
    return narrow, narrow.astype(np.float64)


def test_rules_of_lanes_and_alignment_are_reported(rng: np.random.Generator) -> None:
    case = Case((1, 5, 7, 6), 9)
    memory = picture()
    for change, words in (
        ({"opd0_addr": 7 * 0x40000}, "must start in lane 0"),
        ({"res0_addr": Y + 3 * 0x40000}, "different lanes"),
        ({"opd1_addr": W + 32}, "not aligned"),
        ({"res0_addr": Y + 32}, "no multiple of 64"),
    ):
        _, simulation = run_on_picture(memory, [case.command(**change)])
        assert any(problem.kind == "rule" and words in problem.text for problem in simulation.problems), change


def test_lanes_of_a_picture_are_those_of_the_processor() -> None:
    assert picture().shape[0] == LANES
    place = aligned(0, (1, 65, 1, 1), "i32", lane=63)
    memory = picture()
    put(memory, place, np.arange(65).reshape(place.shape))
    assert get(memory, place).ravel().tolist() == list(range(65))
