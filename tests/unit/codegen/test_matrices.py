"""Taking matrix products apart: batches are found where numpy's broadcasting finds them, tiles cover everything, refusals name the rule."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import pytest
from bmflow import target
from bmflow.codegen.assembler import Assembler
from bmflow.codegen.matrices import Tiled, Tiling, matrices_of, sum_pieces, tilings
from bmflow.codegen.operand import Local, aligned
from bmflow.errors import CompileError
from bmflow.ir.types import DType
from hypothesis import given
from hypothesis import strategies as st

MEMORY = target.load("bm1684x").require_codegen()


@st.composite
def batches(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes that broadcast."""
    full = draw(st.lists(st.integers(1, 3), max_size=4))
    sides = [tuple(size if draw(st.booleans()) else 1 for size in full)[draw(st.integers(0, len(full))) :] for _ in range(2)]
    return sides[0], sides[1]


@given(batches(), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_products_taken_apart_give_what_numpy_gives(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], m: int, k: int, n: int, transposed: bool
) -> None:
    left_shape, right_shape = (*shapes[0], m, k), (*shapes[1], *((n, k) if transposed else (k, n)))
    rng = np.random.default_rng(0)
    left, right = (rng.integers(-99, 99, shape) for shape in (left_shape, right_shape))
    expected = left @ (right.swapaxes(-1, -2) if transposed else right)
    found = np.zeros(expected.size, np.int64)
    matrices = matrices_of(left_shape, right_shape, expected.shape, transposed)
    for start, i in product(matrices.starts, range(matrices.count)):
        a, b, y = (first + i * step for first, step in zip(start, matrices.steps, strict=True))
        other = right.ravel()[b : b + k * n].reshape((n, k) if transposed else (k, n))
        some = left.ravel()[a : a + matrices.m * k].reshape(matrices.m, k)
        found[y : y + matrices.m * n] = (some @ (other.T if transposed else other)).ravel()
    assert np.array_equal(found.reshape(expected.shape), expected)


def test_batches_that_share_the_right_operand_are_rows_of_one_matrix() -> None:
    matrices = matrices_of((8, 3, 197, 64), (64, 10), (8, 3, 197, 10), False)
    assert (matrices.m, matrices.count, matrices.starts) == (8 * 3 * 197, 1, ((0, 0, 0),))


def test_heads_are_one_run_of_products() -> None:
    matrices = matrices_of((2, 3, 197, 64), (2, 3, 197, 64), (2, 3, 197, 197), True)
    assert (matrices.m, matrices.count, matrices.steps) == (197, 6, (197 * 64, 197 * 64, 197 * 197))


def test_tilings_have_whole_lanes_and_vectors_and_cover_all() -> None:
    matrices = matrices_of((700, 300), (300, 1000), (700, 1000), False)
    found = list(tilings(matrices, 300))
    assert found[0] == Tiling(1, 700, 1000, 300)
    for tiling in found:
        assert tiling.m % 64 == 0 or tiling.m == 700
        assert tiling.n % 64 == 0 or tiling.n == 1000
        tiled = Tiled(matrices, tiling)
        assert sum(row.count for row in tiled.rows) == 700
        assert sum(column.count for column in tiled.columns) == 1000


@pytest.mark.parametrize("k", [1, 64, 65, 1000, 140000])
def test_pieces_of_a_sum_shrink_to_a_vector(k: int) -> None:
    pieces = list(sum_pieces(k))
    assert pieces[0] == min(k, 65535)
    assert pieces == sorted(pieces, reverse=True)
    assert pieces[-1] == min(k, 64)


def matrix(rows: int, columns: int, dtype: DType, address: int = 0, lane: int = 0) -> Local:
    return aligned(MEMORY, address, (1, rows, 1, columns), dtype, lane)


I8, I32, F16, F32 = DType.I8, DType.I32, DType.F16, DType.F32


@pytest.mark.parametrize(
    ("operands", "options", "reason"),
    [
        ((matrix(4, 5, I32), matrix(4, 6, I8, lane=3), matrix(6, 5, I8)), {}, "not aligned in lane 0"),
        ((matrix(4, 5, I32), matrix(4, 6, I8, 32), matrix(6, 5, I8)), {}, "not aligned in lane 0"),
        ((matrix(4, 5, I32), matrix(4, 6, I8), matrix(5, 6, I8)), {}, "a matrix product of"),
        ((matrix(4, 5, I8), matrix(4, 6, I8), matrix(6, 5, I8)), {}, "si8 and si8 into si8"),
        ((matrix(4, 5, F32), matrix(4, 6, F16), matrix(6, 5, F32)), {}, "f16 and f32 into f32"),
        ((matrix(4, 5, F16), matrix(4, 6, F16), matrix(6, 5, F16)), {"res_add": True}, "a sum of matrix products of type f16"),
        ((matrix(4, 5, F32), matrix(4, 6, F16), matrix(5, 6, F16)), {"res_add": True, "right_transpose": True}, "a sum of matrix products"),
    ],
)
def test_what_the_command_lacks_is_refused(operands: tuple[Local, Local, Local], options: dict[str, bool], reason: str) -> None:
    asm = Assembler(target.load("bm1684x"))
    asm.begin_layer("y", "tpu.MatMul")
    with pytest.raises(CompileError, match=f"y: tpu.MatMul needs a command .*{reason}"):
        asm.matmul(*operands, **options)


def test_sizes_of_the_right_operand_are_those_it_is_stored_in() -> None:
    asm = Assembler(target.load("bm1684x"))
    asm.matmul(matrix(4, 5, I32, 0x4000), matrix(4, 6, I8, 0x8000), matrix(5, 6, I8, 0xC000), right_transpose=True)
    fields = asm.finish()[0][0].fields
    wanted = {"tsk_typ": 2, "tsk_eu_typ": 5, "res0_c": 4, "res0_w": 5, "opd1_c": 5, "opd1_w": 6, "opd2_const": 1}
    assert {name: fields[name] for name in wanted} == wanted
    assert prod(fields[name] for name in ("opd0_addr", "opd1_addr", "res0_addr")) == 0x8000 * 0xC000 * 0x4000
