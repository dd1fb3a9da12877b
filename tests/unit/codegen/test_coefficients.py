"""The weight image against the address formulas of the BM1684X instruction notes, 1.6."""

from __future__ import annotations

import numpy as np
import pytest
from bmflow import target
from bmflow.codegen.coefficients import WeightImage, pack_blob, pack_filter, pack_rows, requant_rows
from bmflow.codegen.exact_requant import find_exact
from bmflow.ir.types import DType
from hypothesis import given
from hypothesis import strategies as st

LANES = 64
SIZES = st.tuples(st.integers(1, 140), st.integers(1, 140), st.integers(1, 3), st.integers(1, 3))


@given(SIZES, st.sampled_from([(DType.I8, 64), (DType.F16, 32), (DType.F32, 1)]))
def test_every_filter_element_lies_where_the_formula_says(sizes: tuple[int, int, int, int], kind: tuple[DType, int]) -> None:
    dtype, parallel = kind
    oc, ic, kh, kw = sizes
    weights = (np.arange(oc * ic * kh * kw).reshape(sizes) % 100 + 1).astype(np.float32)
    packed = pack_filter(weights, dtype, parallel, LANES)
    stored = {DType.I8: np.int8, DType.F16: np.float16, DType.F32: np.float32}[dtype]
    lanes = packed.view(stored).astype(np.float32)
    o, i, y, x = np.indices(sizes)
    groups = -(-ic // parallel)
    element = ((o // LANES * groups + i // parallel) * kh * kw + y * kw + x) * parallel + i % parallel
    assert (lanes[o % LANES, element] == weights).all()
    assert lanes.sum(dtype=np.float64) == weights.sum(dtype=np.float64)
    assert packed.shape == (min(oc, LANES), -(-oc // LANES) * groups * kh * kw * parallel * dtype.itemsize)


@pytest.mark.parametrize(
    ("oc", "ic", "kh", "kw", "filter_at", "bias_at", "size"),
    [(32, 18, 1, 6, 64, 12, 448), (128, 64, 3, 3, 128, 76, 1280)],
    ids=["one row", "two rows"],
)
def test_a_blob_has_the_offsets_of_the_vendor_listing(oc: int, ic: int, kh: int, kw: int, filter_at: int, bias_at: int, size: int) -> None:
    memory = target.load("bm1684x").require_codegen()
    image = WeightImage(memory)
    bias = np.arange(oc, dtype=np.int32) * 7
    blob = pack_blob(
        image, memory, "filter", pack_filter(np.ones((oc, ic, kh, kw)), DType.I8, 64, LANES), bias=bias, bias_dtype=DType.I32,
        table=requant_rows(range(oc), [9] * oc, 3), filter_align=64,
    )  # fmt: skip
    assert (blob.filter_at, blob.bias_at, blob.table_at, blob.size, blob.lanes) == (filter_at, bias_at, 0, size, min(oc, 64))
    words = np.frombuffer(image.data[: blob.lanes * size], np.int32).reshape(blob.lanes, -1)
    c = np.arange(oc)
    assert (words[c % 64, bias_at // 4 + c // 64] == bias).all()
    assert (words[c % 64, c // 64 * 16] == c).all()
    assert (words[c % 64, c // 64 * 16 + 1] == -9).all()
    assert (words[c % 64, c // 64 * 16 + 2] == 3).all()


def test_rows_of_a_depthwise_filter_are_compact() -> None:
    rows = pack_rows(np.arange(70 * 9).reshape(70, 9) % 128, DType.I8, LANES)
    assert rows.shape == (64, 18)
    assert (rows[5] == np.r_[np.arange(45, 54), (np.arange(9) + 69 * 9) % 128]).all()
    assert (rows[6, 9:] == 0).all()


def test_pieces_of_the_image_start_at_pages_and_are_stored_once() -> None:
    memory = target.load("bm1684x").require_codegen()
    image = WeightImage(memory)
    first, second, again = image.add("a", b"x" * 5000), image.add("b", b"y"), image.add("a", b"x" * 5000)
    assert (first, second, again) == (memory.coeff_base, memory.coeff_base + 8192, first)
    assert len(image.data) == 12288
    assert [(span.name, span.offset, span.size) for span in image.spans] == [("a", 0, 5000), ("b", 8192, 1)]


def half_away(values: np.ndarray) -> np.ndarray:
    return np.where(values >= 0, np.floor(values + 0.5), np.ceil(values - 0.5))


@pytest.mark.parametrize(
    ("scale", "zero_x", "zero_y", "limits"),
    [(1 / 4, 5, -8, (-128, 127)), (1 / 49 / 1.1037, 12, 3, (0, 255)), (1 / 9 * 0.73, 0, 0, (-128, 127)), (0.5, -128, -128, (-128, 127))],
    ids=["ties on both sides of zero", "unsigned", "no zero points", "half"],
)
def test_an_integer_requantization_equals_the_real_one_for_every_sum(
    scale: float, zero_x: int, zero_y: int, limits: tuple[int, int]
) -> None:
    offset = zero_y - zero_x * 9 * scale
    form = find_exact(scale, offset, zero_y, (-1200, 2300), limits)
    assert form is not None
    sums = np.arange(-1200, 2301)
    assert (form.apply(sums, limits) == np.clip(half_away(sums * scale + offset), *limits)).all()
