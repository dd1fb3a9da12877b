"""Tiles: they cover a layer exactly, and windows read what the definition of a convolution says."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
from bmflow.codegen.moves import Dim, copies, dense_strides
from bmflow.codegen.tiling import MAX_STRIDE, Axis, Span, cut_where, shrink, spans, tiles
from bmflow.codegen.views import elementwise_regions
from hypothesis import given
from hypothesis import strategies as st

SMALL = st.integers(1, 9)


@given(st.integers(1, 300), st.integers(1, 400))
def test_spans_cover_every_position_once(total: int, size: int) -> None:
    for pieces in (spans(total, size), cut_where(spans(total, size), lambda i: i // 7)):
        assert [i for piece in pieces for i in range(piece.first, piece.end)] == list(range(total))


def test_cut_spans_have_one_kind_each() -> None:
    assert cut_where([Span(0, 6)], lambda i: i > 1) == [Span(0, 2), Span(2, 4)]


@given(st.tuples(SMALL, SMALL, SMALL, SMALL), st.tuples(SMALL, SMALL, SMALL, SMALL))
def test_tiles_cover_a_shape_once(shape: tuple[int, int, int, int], tile: tuple[int, int, int, int]) -> None:
    count = np.zeros(shape, int)
    for n, c, h, w in tiles(shape, tile):
        count[n.first : n.end, c.first : c.end, h.first : h.end, w.first : w.end] += 1
    assert (count == 1).all()


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 20), st.integers(0, 18), st.integers(1, 18), st.data())
def test_a_window_reads_the_positions_of_the_definition(
    size: int, kernel: int, stride: int, before: int, dilation: int, data: st.DataObject
) -> None:
    out = data.draw(st.integers(1, 8))
    axis = Axis(size, kernel, stride, before, dilation, out)
    first = data.draw(st.integers(0, out - 1))
    outputs = Span(first, data.draw(st.integers(1, min(axis.max_tile, out - first))))
    tap = data.draw(st.integers(0, kernel - 1))
    window = axis.window(outputs, Span(tap, data.draw(st.integers(1, kernel - tap))))
    assert max(window.stride, window.dilation) <= MAX_STRIDE
    loaded = [window.first + i * window.step for i in range(window.count)]
    for j, t in product(range(outputs.count), range(window.kernel)):
        wanted = (outputs.first + j) * stride - before + (tap + t) * dilation
        assert loaded[j * window.stride + t * window.dilation] == wanted
    inside = [position for position in loaded if 0 <= position < size]
    assert len(inside) == max(window.inside.count, 0)
    if inside:
        assert inside[0] == window.inside.first


@given(st.tuples(st.integers(1, 5), st.integers(1, 500), st.integers(1, 90), st.integers(1, 90)), st.integers(1, 40000))
def test_a_shrunk_tile_fits_and_keeps_whole_lane_rows(shape: tuple[int, int, int, int], limit: int) -> None:
    tile = shrink(shape, lambda t: -(-t[1] // 64) * t[0] * t[2] * t[3] <= limit, 64)
    assert tile is not None
    assert all(a <= b for a, b in zip(tile, shape, strict=True))
    assert tile[1] == shape[1] or tile[1] % 64 == 0
    assert -(-tile[1] // 64) * tile[0] * tile[2] * tile[3] <= limit


def test_nothing_that_fits_gives_no_tile() -> None:
    assert shrink((2, 70, 3, 3), lambda _: False, 64) is None


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.permutations(range(6)))
def test_copies_permute_any_tensor_as_numpy_does(shape: list[int], shuffled: list[int]) -> None:
    order = [axis for axis in shuffled if axis < len(shape)]
    x = np.arange(prod(shape))
    sizes = [shape[axis] for axis in order]
    dims = [Dim(n, to, dense_strides(shape)[axis]) for n, to, axis in zip(sizes, dense_strides(sizes), order, strict=True)]
    assert (run_copies(dims, x) == x.reshape(shape).transpose(order).reshape(-1)).all()


def test_copies_cut_what_is_too_long_for_a_command() -> None:
    x = np.arange(65537 * 3)
    assert (run_copies([Dim(65537 * 3, 1, 1)], x) == x).all()
    assert (run_copies([Dim(3, 65537, 1), Dim(65537, 1, 3)], x) == x.reshape(-1, 3).T.reshape(-1)).all()


def run_copies(dims: list[Dim], x: np.ndarray, itemsize: int = 4) -> np.ndarray:
    """Carry out the copies one by one and check the limits of the data mover."""
    y = np.full_like(x, -1)
    for copy in copies(dims, itemsize):
        assert all(1 <= dim.size <= 65535 for dim in copy.dims)
        assert max(copy.dims[3].to, copy.dims[3].source) * itemsize <= 128
        to = sum(dim.to * np.arange(dim.size).reshape([-1 if i == k else 1 for i in range(4)]) for k, dim in enumerate(copy.dims))
        source = sum(dim.source * np.arange(dim.size).reshape([-1 if i == k else 1 for i in range(4)]) for k, dim in enumerate(copy.dims))
        y[copy.to + to] = x[copy.source + source]
    return y


BROADCAST = st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.booleans()), min_size=1, max_size=6)


@given(BROADCAST)
def test_regions_add_broadcast_tensors_as_numpy_does(dims: list[tuple[int, bool, bool]]) -> None:
    result = [size for size, _, _ in dims]
    shapes = [[1 if alone else size for size, *flags in dims for alone in [flags[k]]] for k in range(2)]
    x, z = (np.arange(prod(shape)) * (k * 1000 + 1) for k, shape in enumerate(shapes))
    wanted = np.broadcast_to(x.reshape(shapes[0]) + z.reshape(shapes[1]), result).reshape(-1)
    y = np.full(prod(result), -1)
    for region in elementwise_regions(shapes, result, 4):
        index = np.indices(region.shape)
        at = [a.offset + sum(i * s for i, s in zip(index, a.strides, strict=True)) for a in region.accesses]
        assert (y[at[2]] == -1).all()
        y[at[2]] = x[at[0]] + z[at[1]]
    assert (y == wanted).all()
