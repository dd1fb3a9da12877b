"""MM2 commands against products in 64-bit integers or floats, and the rules they must keep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from bmflow.errors import InputError
from bmflow.ir.types import DType
from bmflow.isa.program import Command, LayerSpan, ProgramTensor
from bmflow.simulator import Simulator
from simulator_bench import (
    COEFF,
    PREC,
    SIGN,
    TARGET,
    Place,
    aligned,
    bmodel,
    numbered,
    picture,
    put,
    run_command,
    run_on_picture,
    tiu,
)

L, R, Y = 0x0, 0x4000, 0x8000
NN, NT = 4, 5


@dataclass(frozen=True)
class Case:
    """A product (m, k) @ (k, n); with `nt` the right matrix is stored (n, k)."""

    m: int
    k: int
    n: int
    nt: bool = False
    left: str = "i8"
    right: str = "i8"
    y: str = "i32"

    @property
    def places(self) -> tuple[Place, Place, Place]:
        stored = (self.n, self.k) if self.nt else (self.k, self.n)
        return aligned(L, (1, self.m, 1, self.k), self.left), aligned(R, (1, stored[0], 1, stored[1]), self.right), self.result

    @property
    def result(self) -> Place:
        return aligned(Y, (1, self.m, 1, self.n), self.y)

    def command(self, **changes: int) -> Command:
        """The command with the fields of the notes (3.4)."""
        rows, columns = (self.n, self.k) if self.nt else (self.k, self.n)
        fields = {
            "opd0_sign": SIGN[self.left], "opd1_sign": SIGN[self.right], "res0_prec": PREC[self.y], "opd0_prec": PREC[self.left],
            "res0_c": self.m, "res0_w": self.n, "opd1_c": rows, "opd1_w": columns, "opd2_const": 1,
            "res0_addr": Y, "opd0_addr": L, "opd1_addr": R,
        }  # fmt: skip
        return tiu("sMM2", (2, NT if self.nt else NN), fields | changes)

    def loaded(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Local memory with both operands, given as (m, k) and (k, n)."""
        memory = picture()
        for place, values in zip(self.places, (left, right.T if self.nt else right), strict=False):
            put(memory, place, values.reshape(place.shape))
        return memory


def integers(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> np.ndarray:
    low, high = (-128, 127) if kind == "i8" else (0, 255)
    return rng.integers(low, high, shape, endpoint=True)


INTEGER_CASES = [
    Case(1, 1, 1), Case(5, 63, 7), Case(64, 64, 64, nt=True), Case(65, 65, 70), Case(130, 20, 66, nt=True),
    Case(3, 70, 5, left="u8"), Case(3, 70, 5, right="u8"), Case(3, 300, 5, left="u8", right="u8", nt=True),
]  # fmt: skip


@pytest.mark.parametrize("case", INTEGER_CASES, ids=str)
def test_integer_products_are_exact(case: Case, rng: np.random.Generator) -> None:
    left, right = integers(rng, case.left, (case.m, case.k)), integers(rng, case.right, (case.k, case.n))
    result = run_command(case.loaded(left, right), case.command(), case.result)
    assert np.array_equal(result.reshape(case.m, case.n), left @ right)


@pytest.mark.parametrize(("kind", "extreme"), [("i8", -128), ("u8", 255)])
def test_sums_beyond_what_a_float_holds_are_exact(kind: str, extreme: int) -> None:
    """1500 * 255 * 255 is past 2^24 six times over; one odd product shows that no digit is lost."""
    case = Case(2, 1500, 3, nt=True, left=kind, right=kind)
    left, right = np.full((2, 1500), extreme), np.full((1500, 3), extreme)
    left[1, 700], right[700, 1] = 1, 1
    result = run_command(case.loaded(left, right), case.command(), case.result)
    assert np.array_equal(result.reshape(2, 3), left @ right)


def test_old_results_are_added_when_asked(rng: np.random.Generator) -> None:
    case = Case(5, 20, 7)
    left, right, old = integers(rng, "i8", (5, 20)), integers(rng, "i8", (20, 7)), rng.integers(-(2**30), 2**30, (5, 7))
    memory = case.loaded(left, right)
    put(memory, case.result, old.reshape(case.result.shape))
    result = run_command(memory, case.command(res_add=1), case.result)
    assert np.array_equal(result.reshape(5, 7), old + left @ right)


FLOAT_CASES = [
    Case(5, 40, 7, left="f16", right="f16", y="f16"), Case(70, 33, 7, left="f16", right="f16", y="f32", nt=True),
    Case(5, 40, 66, left="bf16", right="bf16", y="f32"), Case(66, 20, 5, left="f32", right="f32", y="f32", nt=True),
]  # fmt: skip


@pytest.mark.parametrize(("case", "add_old"), [*((case, 0) for case in FLOAT_CASES), (FLOAT_CASES[2], 1)], ids=str)
def test_float_products_differ_by_rounding_alone(case: Case, add_old: int, rng: np.random.Generator) -> None:
    (left_bits, left), (right_bits, right) = (_stored(rng.normal(size=size), case.left) for size in ((case.m, case.k), (case.k, case.n)))
    old = rng.normal(size=(case.m, case.n)).astype(np.float32)
    memory = case.loaded(left_bits, right_bits)
    put(memory, case.result, old.reshape(case.result.shape))
    result = run_command(memory, case.command(res_add=add_old), case.result).reshape(case.m, case.n)
    exact = left @ right + (old if add_old else 0)
    bound = (2.0**-10 if case.y == "f16" else 0) * abs(exact).max() + case.k * 2.0**-23 * 20
    assert abs(result - exact).max() <= bound


def _stored(values: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Stored elements and the numbers they are."""
    if kind == "bf16":
        bits = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return bits, (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    narrow = values.astype(np.float16 if kind == "f16" else np.float32)
    return narrow, narrow.astype(np.float64)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"opd0_addr": 3 * 0x40000}, "must start in lane 0"),
        ({"opd1_addr": R + 32}, "no multiple of 64"),
        ({"tsk_eu_typ": NT, "res_add": 1, "opd1_c": 7, "opd1_w": 20}, "the form nt does not do"),
    ],
)
def test_broken_rules_are_reported(changes: dict[str, int], words: str) -> None:
    _, simulation = run_on_picture(picture(), [Case(5, 20, 7).command(**changes)])
    assert any(problem.kind == "rule" and words in problem.text for problem in simulation.problems)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tsk_eu_typ": 6}, r"mm2\.tt is something this version cannot simulate"),
        ({"opd1_w": 8}, "a right operand of 8 columns for a result of 7"),
        ({"opd1_c": 0}, "none may be 0"),
        ({"res0_prec": PREC["i8"]}, "a matrix product of si8 into si8"),
        ({"opd2_addr": 3}, "a zero point of the right operand"),
        ({"res0_addr": 0x3FFC0, "res0_c": 65}, "reaches byte"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        run_on_picture(picture(), [Case(5, 20, 7).command(**changes)])


@pytest.mark.parametrize(
    ("case", "steps"),
    [
        (Case(197, 192, 576), 4 * 3 * 144),
        (Case(197, 192, 576, left="f16", right="f16", y="f16"), 4 * 6 * 144),
        (Case(64, 33, 5, left="f32", right="f32", y="f32"), 3 * 5),
    ],
    ids=str,
)
def test_a_product_costs_lanes_vectors_and_positions(case: Case, steps: int) -> None:
    """Performance notes, 1 and 2: rows to 64 lanes, summands to a vector, four columns a step, one for f32."""
    stream = numbered([case.command()], [])
    simulator = Simulator(bmodel(*stream, b"", 64, layers=[LayerSpan("y", "tpu.MatMul", ProgramTensor("y", (1,), DType.U8, COEFF), 1, 1)]))
    [layer], rates = simulator.estimate().layers, TARGET.rates
    assert rates is not None
    assert layer.macs == case.m * case.k * case.n
    assert layer.tiu_cycles == round(rates.tiu_start_cycles + steps / rates.conv_efficiency)
