"""Any rearrangement of a dense tensor as few strided DDR-to-DDR copies: every dimension has a size and a stride on both sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from bmflow.codegen.tiling import W_STRIDE_BYTES

MAX_SIZE = 65535
"""Largest size of one dimension of a command (BM1684X instruction notes, 5)."""


@dataclass(frozen=True)
class Dim:
    """One loop of a copy: how often, and how far apart in elements on each side."""

    size: int
    to: int
    source: int


@dataclass(frozen=True)
class Copy:
    """One DMA: element offsets, and four dimensions."""

    to: int
    source: int
    dims: tuple[Dim, Dim, Dim, Dim]


def dense_strides(shape: Sequence[int]) -> list[int]:
    """Strides in elements of a dense row-major tensor."""
    return [prod(shape[i + 1 :]) for i in range(len(shape))]


def copies(dims: Sequence[Dim], itemsize: int, to: int = 0, source: int = 0) -> Iterator[Copy]:
    """Express the copy of all elements by DMAs of four dimensions within the limits of the data mover.

    Args:
        dims: in any order; together they must not write an element twice.
        to: element offset of the first element in the destination; `source` alike.
    """
    yield from _cut(merge(dims), itemsize, to, source)


def merge(dims: Sequence[Dim]) -> list[Dim]:
    """Drop dimensions of size 1 and join neighbours that one longer dimension describes, outermost destination stride first."""
    result: list[Dim] = []
    for dim in sorted((d for d in dims if d.size > 1), key=lambda d: (-d.to, -d.source)):
        last = result[-1] if result else None
        if last and last.to == dim.size * dim.to and last.source == dim.size * dim.source:
            result[-1] = Dim(last.size * dim.size, dim.to, dim.source)
        else:
            result.append(dim)
    return result


def _cut(dims: list[Dim], itemsize: int, to: int, source: int) -> Iterator[Copy]:
    """Cut what is too long into two dimensions and a remainder, loop over what is too many."""
    long = next((dim for dim in dims if dim.size > MAX_SIZE), None)
    if long is not None:
        others = [dim for dim in dims if dim is not long]
        piece = _piece(long.size)
        count = long.size // piece
        whole = [Dim(count, long.to * piece, long.source * piece), Dim(piece, long.to, long.source)]
        yield from _cut(others + whole, itemsize, to, source)
        rest, done = long.size - count * piece, count * piece
        if rest:
            yield from _cut([*others, Dim(rest, long.to, long.source)], itemsize, to + done * long.to, source + done * long.source)
        return
    ordered = _order(dims, itemsize)
    if len(ordered) <= 4:
        n, c, h, w = [Dim(1, 0, 0)] * (4 - len(ordered)) + ordered
        yield Copy(to, source, (n, c, h, w))
        return
    outer = min(ordered[:-1], key=lambda dim: dim.size)
    inner = [dim for dim in dims if dim is not outer]
    for k in range(outer.size):
        yield from _cut(inner, itemsize, to + k * outer.to, source + k * outer.source)


def _piece(size: int) -> int:
    """A length to cut `size` into: one that leaves no remainder where there is one of at least 256."""
    return next((piece for piece in range(MAX_SIZE, 255, -1) if size % piece == 0), 1 << 15)


def _order(dims: list[Dim], itemsize: int) -> list[Dim]:
    """Put the dimension with the closest neighbours last; where none is close enough for w, w gets size 1."""
    if not dims:
        return [Dim(1, 1, 1)]
    w = min(dims, key=lambda dim: (max(dim.to, dim.source), -dim.size))
    others = sorted((dim for dim in dims if dim is not w), key=lambda dim: -dim.to)
    close = max(w.to, w.source) * itemsize <= W_STRIDE_BYTES
    return [*others, w] if close else [*others, w, Dim(1, 1, 1)]
