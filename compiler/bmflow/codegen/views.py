"""How element-by-element layers see their tensors: regions of four dimensions that fill the lanes, broadcasting as stride 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from bmflow.codegen.moves import dense_strides
from bmflow.codegen.operand import Shape


@dataclass(frozen=True)
class Access:
    """How a region reads or writes one tensor: first element, and strides in elements (0: the dimension is broadcast)."""

    offset: int
    strides: Shape


@dataclass(frozen=True)
class Region:
    """A part of the result with the shape (n, c, h, w); `accesses` are those of the inputs, then that of the result."""

    shape: Shape
    accesses: tuple[Access, ...]


def elementwise_regions(inputs: Sequence[Sequence[int]], result: Sequence[int], lanes: int) -> list[Region]:
    """Cover a result by regions, given the shapes of inputs that broadcast to it (numpy rules).

    Where nothing is broadcast, or everything, the tensor is one line cut into as many pieces as there are lanes.
    """
    shapes = [*inputs, result]
    sizes, strides = merged(shapes, result)
    if len(sizes) <= 1:
        return _line(sizes[0] if sizes else 1, [s[0] if s else 0 for s in strides], lanes)
    outer, inner = sizes[:-4], sizes[-4:]
    place = {2: (1, 3), 3: (1, 2, 3), 4: (0, 1, 2, 3)}[len(inner)]
    regions: list[Region] = []
    for index in product(*(range(size) for size in outer)):
        offsets = [sum(i * stride for i, stride in zip(index, s, strict=False)) for s in strides]
        accesses = tuple(Access(o, _spread(s[len(outer) :], place, 0)) for o, s in zip(offsets, strides, strict=True))
        regions.append(Region(_spread(inner, place, 1), accesses))
    return regions


def axis_region(shape: Sequence[int], axis: int) -> Region:
    """View (1, outer, axis, inner) of an input and a result of the same shape: the axis lies whole inside a lane."""
    outer, size, inner = prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])
    access = Access(0, (0, size * inner, inner, 1))
    return Region((1, outer, size, inner), (access, access))


def merged(shapes: Sequence[Sequence[int]], result: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """Join neighbouring dimensions that every tensor treats alike; strides per tensor, 0 where it is broadcast."""
    rank = len(result)
    full = [[1] * (rank - len(shape)) + list(shape) for shape in shapes]
    dense = [dense_strides(shape) for shape in full]
    sizes: list[int] = []
    strides: list[list[int]] = [[] for _ in shapes]
    kinds: list[tuple[bool, ...]] = []
    for i, size in enumerate(result):
        if size == 1:
            continue
        kind = tuple(shape[i] == 1 for shape in full)
        step = [0 if alone else d[i] for alone, d in zip(kind, dense, strict=True)]
        if kinds and kinds[-1] == kind:
            sizes[-1] *= size
            for s, value in zip(strides, step, strict=True):
                s[-1] = value
            continue
        sizes.append(size)
        kinds.append(kind)
        for s, value in zip(strides, step, strict=True):
            s.append(value)
    return sizes, strides


def _line(size: int, strides: Sequence[int], lanes: int) -> list[Region]:
    """`lanes` equal pieces, and what is left over as one element in each of the first lanes."""
    length, rest = divmod(size, lanes)
    regions: list[Region] = []
    if length:
        regions.append(Region((1, lanes, 1, length), tuple(Access(0, (0, length * s, 0, s)) for s in strides)))
    if rest:
        regions.append(Region((1, rest, 1, 1), tuple(Access(length * lanes * s, (0, s, 0, s)) for s in strides)))
    return regions


def _spread(values: Sequence[int], place: Sequence[int], fill: int) -> Shape:
    spread = [fill] * 4
    for position, value in zip(place, values, strict=True):
        spread[position] = value
    n, c, h, w = spread
    return n, c, h, w
