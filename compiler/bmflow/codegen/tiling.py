"""Cutting layers into tiles: spans, sliding windows along one axis, and shapes shrunk until they fit local memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from bmflow.codegen.operand import Shape, round_up

MAX_STRIDE = 15
"""Largest stride and dilation one command can express (BM1684X instruction notes, 5)."""
MAX_PAD = 15
"""Largest padding one command can express."""
W_STRIDE_BYTES = 128
"""Largest distance of neighbours along w in one DMA (BM1684X instruction notes, 4)."""


@dataclass(frozen=True)
class Span:
    """`count` positions from `first` on."""

    first: int
    count: int

    @property
    def end(self) -> int:
        """One past the last position."""
        return self.first + self.count


def spans(total: int, size: int) -> list[Span]:
    """Cut `total` positions into pieces of `size`, the last one possibly smaller."""
    return [Span(first, min(size, total - first)) for first in range(0, total, size)]


@dataclass(frozen=True)
class Window:
    """What one tile of a sliding window reads along one axis.

    `count` positions `step` apart from `first` on, of which the first `before` and the last `after` lie outside the picture;
    on them the command works with `kernel`, `stride` and `dilation`.
    """

    first: int
    count: int
    step: int
    before: int
    after: int
    kernel: int
    stride: int
    dilation: int

    @property
    def inside(self) -> Span:
        """The positions that exist in the picture: first one (in picture coordinates) and how many."""
        return Span(self.first + self.before * self.step, self.count - self.before - self.after)

    @property
    def padded_by_command(self) -> bool:
        """Whether a command can add the padding itself."""
        return max(self.before, self.after) <= MAX_PAD and self.inside.count > 0


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution or pool: `size` inputs with `before` padding in front, `out` outputs."""

    size: int
    kernel: int
    stride: int
    before: int
    dilation: int
    out: int

    @property
    def max_tile(self) -> int:
        """Outputs a tile may have: one where the command cannot express the stride or the dilation."""
        return 1 if max(self.stride, self.dilation) > MAX_STRIDE else self.out

    def window(self, outputs: Span, taps: Span) -> Window:
        """What the `outputs` read through the kernel positions `taps`.

        A single output needs no stride; where the dilation cannot be expressed, its taps alone are loaded.
        """
        first = outputs.first * self.stride - self.before + taps.first * self.dilation
        single = outputs.count == 1
        step = self.dilation if single and self.dilation > MAX_STRIDE else 1
        dilation = 1 if step > 1 else self.dilation
        stride = 1 if single else self.stride
        count = (outputs.count - 1) * stride + (taps.count - 1) * dilation + 1
        outside = [not 0 <= first + i * step < self.size for i in range(count)]
        before = outside.index(False) if False in outside else count
        after = outside[::-1].index(False) if False in outside else 0
        return Window(first, count, step, before, after, taps.count, stride, dilation)

    def covered(self, output: int) -> int:
        """How many kernel positions of one output lie inside the picture."""
        start = output * self.stride - self.before
        return sum(0 <= start + tap * self.dilation < self.size for tap in range(self.kernel))

    @property
    def whole(self) -> Span:
        """All kernel positions."""
        return Span(0, self.kernel)


def cut_where(pieces: list[Span], kind: Callable[[int], int]) -> list[Span]:
    """Cut spans further so that `kind` is the same all over each."""
    result: list[Span] = []
    for piece in pieces:
        first = piece.first
        for position in range(piece.first + 1, piece.end + 1):
            if position == piece.end or kind(position) != kind(first):
                result.append(Span(first, position - first))
                first = position
    return result


def shrink(shape: Shape, fit: Callable[[Shape], bool], lanes: int, keep_h: bool = False) -> Shape | None:
    """Halve a tile until `fit` accepts it: n first, then c in whole lane rows, then h (unless kept), then w, then c below one row.

    Returns:
        the accepted shape, or None when not even one element fits.
    """
    n, c, h, w = shape
    while not fit((n, c, h, w)):
        if n > 1:
            n = -(-n // 2)
        elif c > lanes:
            c = round_up(-(-c // 2), lanes) if c > 2 * lanes else lanes
        elif h > 1 and not keep_h:
            h = -(-h // 2)
        elif w > 1:
            w = -(-w // 2)
        else:
            return None
    return n, c, h, w


def tiles(shape: Shape, tile: Shape) -> Iterator[tuple[Span, Span, Span, Span]]:
    """Cover `shape` by pieces of at most `tile`, n outermost, w innermost."""
    n, c, h, w = (spans(size, part) for size, part in zip(shape, tile, strict=True))
    yield from product(n, c, h, w)
