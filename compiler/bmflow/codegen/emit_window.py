"""The common part of convolutions and pools: tiles of a sliding window, brought in with their padding, computed, stored.

A layer is cut into units (output channels that share coefficients), tiles (n, h and w of the output) and chunks (input
channels and kernel rows summed one after the other). The work on one chunk of one tile is left to the layers built on it; it
knows local operands only.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from math import prod

from bmflow.codegen.assembler import Assembler
from bmflow.codegen.coefficients import Blob
from bmflow.codegen.layer import Build, Layer, Tensor
from bmflow.codegen.lmem import Slots, place_groups
from bmflow.codegen.operand import Constant, Ddr, Local, Shape, aligned, aligned_bytes
from bmflow.codegen.pipeline import Step, emit_pipelined
from bmflow.codegen.tiling import W_STRIDE_BYTES, Axis, Span, Window, cut_where, spans
from bmflow.ir.types import DType
from bmflow.ir.values import SSAValue
from bmflow.target import Memory

TILINGS = 6
"""How many tilings that fit are weighed against each other, from the coarsest on."""


@dataclass(frozen=True)
class Unit:
    """Channels computed together: inputs `x`, outputs `y.first + i * y_step`."""

    x: Span
    y: Span
    y_step: int = 1


@dataclass(frozen=True)
class Chunk:
    """Part of the sum: input channels (counted from the unit's first, cut off at its last) and kernel rows."""

    channels: Span
    taps: Span

    def of(self, unit: Unit) -> Span:
        """The channels of the input that belong to the chunk of a unit."""
        return Span(unit.x.first + self.channels.first, min(self.channels.count, unit.x.count - self.channels.first))


@dataclass(frozen=True)
class Tile:
    """Part of the output: pictures, rows, columns."""

    n: Span
    h: Span
    w: Span


@dataclass(frozen=True)
class Geometry:
    """Sizes and types of a window layer. x_shape and y_shape are (n, c, h, w) views of the dense tensors."""

    x_shape: Shape
    y_shape: Shape
    x_dtype: DType
    y_dtype: DType
    h: Axis
    w: Axis
    pad_value: float = 0.0


@dataclass(frozen=True)
class Part:
    """One chunk of one tile with its operands in local memory; `first` and `last` chunk of the tile's sum."""

    unit: Unit
    tile: Tile
    chunk: Chunk
    x: Local
    y: Local
    coefficients: int
    scratch: tuple[int, ...]
    window_h: Window
    window_w: Window
    pads: tuple[int, int, int, int]
    blob: Blob | None
    first: bool
    last: bool

    @property
    def kernel(self) -> tuple[int, int]:
        """Rows and columns of this chunk's kernel."""
        return self.window_h.kernel, self.window_w.kernel

    @property
    def stride(self) -> tuple[int, int]:
        """Stride of the command."""
        return self.window_h.stride, self.window_w.stride

    @property
    def dilation(self) -> tuple[int, int]:
        """Dilation of the command."""
        return self.window_h.dilation, self.window_w.dilation


@dataclass(frozen=True)
class Plan:
    """A complete cut of a layer and the addresses of its buffers."""

    units: list[Unit]
    tiles: list[Tile]
    chunks: list[Chunk]
    x_at: list[int]
    y_at: list[int]
    coefficients_at: list[int]
    scratch_at: list[int]


class WindowLayer(Layer):
    """A layer that slides a window; subclasses say what memory a tile needs and how it is computed."""

    def __init__(self, build: Build, x: SSAValue, y: SSAValue, geometry: Geometry) -> None:
        self.build = build
        self.memory: Memory = build.memory
        self.x_value, self.y_value = x, y
        self.geometry = geometry
        self.blobs: dict[tuple[Unit, Chunk], Blob] = {}
        self.plan: Plan

    @abstractmethod
    def scratch_bytes(self, x: Shape, y: Shape, chunks: int) -> list[int]:
        """Sizes of the further buffers, given the largest tile shapes."""

    @abstractmethod
    def coefficient_bytes(self, unit: Unit, chunk: Chunk) -> int:
        """Bytes per lane of the constants of a chunk; 0 when it needs none."""

    @abstractmethod
    def compute(self, asm: Assembler, part: Part) -> None:
        """Emit the arithmetic of one chunk of one tile."""

    def window(self, tile: Tile, chunk: Chunk) -> tuple[Window, Window]:
        """Input rows and columns of a chunk of a tile."""
        geometry = self.geometry
        return geometry.h.window(tile.h, chunk.taps), geometry.w.window(tile.w, geometry.w.whole)

    def try_plan(self, units: Sequence[Unit], tiles: Sequence[Tile], chunks: Sequence[Chunk]) -> Plan | None:
        """Place the buffers of a cut; None when local memory is too small for it."""
        placed = place_groups(self.memory, self._buffer_sizes(units, tiles, chunks))
        return None if placed is None else Plan(list(units), list(tiles), list(chunks), *placed)

    def _buffer_sizes(self, units: Sequence[Unit], tiles: Sequence[Tile], chunks: Sequence[Chunk]) -> list[list[int]]:
        geometry = self.geometry
        windows = [self.window(tile, chunk) for tile, chunk in product(tiles, chunks)]
        n = max(tile.n.count for tile in tiles)
        x = (n, max(c.of(u).count for u, c in product(units, chunks)), max(h.count for h, _ in windows), max(w.count for _, w in windows))
        y = (n, max(u.y.count for u in units), max(t.h.count for t in tiles), max(t.w.count for t in tiles))
        x_bytes = max(aligned_bytes(self.memory, (x[0], x[1], h.count, w.count), geometry.x_dtype) for h, w in windows)
        coefficients = max(self.coefficient_bytes(unit, chunk) for unit, chunk in product(units, chunks))
        x_count = min(2, len({u.x for u in units}) * len(tiles) * len(chunks))
        coefficient_count = min(2, len(units) * len(chunks)) if coefficients else 0
        y_count = min(2, len(units) * len(tiles))
        return [
            [x_bytes] * x_count, [aligned_bytes(self.memory, y, geometry.y_dtype)] * y_count, [coefficients] * coefficient_count,
            self.scratch_bytes(x, y, len(chunks)),
        ]  # fmt: skip

    @abstractmethod
    def compute_cycles(self, positions: int, unit: Unit, chunk: Chunk) -> float:
        """Estimated cycles of one chunk of a tile of `positions` outputs."""

    def cost(self, plan: Plan) -> float:
        """Estimated cycles of a plan: the busier engine all the time, the other one as long as nothing overlaps with it."""
        geometry, rates = self.geometry, self.build.rates
        unit, parts = plan.units[0], list(product(plan.tiles, plan.chunks))
        windows = [(chunk, tile.n.count, *self.window(tile, chunk)) for tile, chunk in parts]
        x_bytes = sum(n * h.count * w.count * chunk.of(unit).count for chunk, n, h, w in windows) * geometry.x_dtype.itemsize
        x_loads = len({u.x for u in plan.units}) if len(parts) == 1 else len(plan.units)
        coefficient_loads = len(plan.units) * (1 if len(plan.chunks) == 1 else len(parts))
        coefficients = coefficient_loads * self.coefficient_bytes(unit, plan.chunks[0]) * min(unit.y.count, self.memory.lanes)
        y_bytes = prod(geometry.y_shape) * geometry.y_dtype.itemsize
        commands = x_loads * len(parts) + coefficient_loads + len(plan.units) * len(plan.tiles)
        moved = (x_bytes * x_loads + coefficients + y_bytes) * rates.freq_hz / rates.ddr_bytes_per_second
        gdma = moved + commands * rates.gdma_start_cycles
        positions = [tile.n.count * tile.h.count * tile.w.count for tile, _ in parts]
        tiu = sum(self.compute_cycles(count, unit, chunk) for count, (_, chunk) in zip(positions, parts, strict=True))
        tiu = (tiu + len(parts) * rates.tiu_start_cycles) * len(plan.units)
        return max(gdma, tiu) + min(gdma, tiu) / (len(plan.units) * len(parts))

    def emit(self, asm: Assembler) -> None:
        """Emit all tiles, loads and stores overlapped with arithmetic."""
        plan = self.plan
        x, y, coefficients = Slots(plan.x_at), Slots(plan.y_at), Slots(plan.coefficients_at)
        tensors = self.build.tensor(self.x_value), self.build.tensor(self.y_value)
        emit_pipelined([
            _WindowStep(self, asm, tensors, (x, y, coefficients), unit, tile, chunk)
            for unit, tile, chunk in product(plan.units, plan.tiles, plan.chunks)
        ])  # fmt: skip


class _WindowStep(Step):
    """One chunk of one tile of one unit."""

    def __init__(
        self, layer: WindowLayer, asm: Assembler, tensors: tuple[Tensor, Tensor], slots: tuple[Slots, Slots, Slots],
        unit: Unit, tile: Tile, chunk: Chunk,
    ) -> None:  # fmt: skip
        self._layer, self._asm, self._slots = layer, asm, slots
        self._x_tensor, self._y_tensor = tensors
        self._unit, self._tile, self._chunk = unit, tile, chunk
        self._window_h, self._window_w = layer.window(tile, chunk)
        self._last = chunk == layer.plan.chunks[-1]
        self._part: Part

    def load(self) -> None:
        layer, unit, tile, chunk = self._layer, self._unit, self._tile, self._chunk
        h, w, memory, geometry = self._window_h, self._window_w, layer.memory, layer.geometry
        x_slots, y_slots, coefficient_slots = self._slots
        channels = chunk.of(unit)
        pads_by_command = h.padded_by_command and w.padded_by_command
        h_count, w_count = (h.inside.count, w.inside.count) if pads_by_command else (h.count, w.count)
        address, fresh = x_slots.take((channels, tile, chunk.taps))
        x = aligned(memory, address, (tile.n.count, channels.count, h_count, w_count), geometry.x_dtype)
        if fresh:
            self._load_window(x, channels, pads_by_command)
        blob = layer.blobs.get((unit, chunk))
        coefficients = 0
        if blob is not None:
            coefficients, fresh = coefficient_slots.take((unit, chunk))
            if fresh:
                load_blob(self._asm, blob, coefficients)
        y_address, _ = y_slots.take((unit, tile))
        y = aligned(memory, y_address, (tile.n.count, unit.y.count, tile.h.count, tile.w.count), geometry.y_dtype)
        pads = (h.before, w.before, h.after, w.after) if pads_by_command else (0, 0, 0, 0)
        self._part = Part(unit, tile, chunk, x, y, coefficients, tuple(layer.plan.scratch_at), h, w, pads, blob,
                          chunk == layer.plan.chunks[0], self._last)  # fmt: skip

    def _load_window(self, x: Local, channels: Span, pads_by_command: bool) -> None:
        geometry, h, w = self._layer.geometry, self._window_h, self._window_w
        rows, columns = h.inside, w.inside
        target = x
        if not pads_by_command:
            self._asm.dma_fill(x, Constant(geometry.pad_value, geometry.x_dtype))
            if rows.count <= 0 or columns.count <= 0:
                return
            offset = (h.before * x.strides[2] + w.before * x.strides[3]) * x.dtype.itemsize
            target = replace(x.at(offset), shape=(*x.shape[:2], rows.count, columns.count))
        _, c, height, width = geometry.x_shape
        picture = c * height * width
        offset = self._tile.n.first * picture + (channels.first * height + rows.first) * width + columns.first
        strides = (picture, height * width, width * h.step, w.step)
        load_strided(self._asm, target, self._x_tensor.view(target.shape, strides, offset))

    def compute(self) -> None:
        self._layer.compute(self._asm, self._part)

    def store(self) -> None:
        if not self._last:
            return
        unit, tile = self._unit, self._tile
        _, c, height, width = self._layer.geometry.y_shape
        picture = c * height * width
        offset = tile.n.first * picture + (unit.y.first * height + tile.h.first) * width + tile.w.first
        strides = (picture, unit.y_step * height * width, width, 1)
        self._asm.dma(self._y_tensor.view(self._part.y.shape, strides, offset), self._part.y)


def load_blob(asm: Assembler, blob: Blob, address: int) -> None:
    """Bring the constants of a unit to a local address."""
    source = blob.source
    words = source.shape[3]
    asm.dma(Local(address, source.shape, source.dtype, (words, words, words, 1)), source)


def load_strided(asm: Assembler, target: Local, source: Ddr) -> None:
    """Load a view; where its w stride is too long for one DMA, row by row with w in the place of h."""
    if source.strides[3] * source.dtype.itemsize <= W_STRIDE_BYTES:
        asm.dma(target, source)
        return
    n, c, h, w = source.shape
    for row in range(h):
        part = replace(target.at(row * target.strides[2] * target.dtype.itemsize), shape=(n, c, w, 1),
                       strides=(*target.strides[:2], target.strides[3], 1))  # fmt: skip
        address = source.address + row * source.strides[2] * source.dtype.itemsize
        asm.dma(part, replace(source, address=address, shape=(n, c, w, 1), strides=(*source.strides[:2], source.strides[3], 1)))


def tile_options(n: int, h: Axis, w: Axis, h_kind: Callable[[int], int], w_kind: Callable[[int], int]) -> Iterator[list[Tile]]:
    """Cuts of the output from coarse to fine: several pictures, one picture, bands of rows, pieces of one row.

    No tile mixes rows (columns) whose `h_kind` (`w_kind`) differs.
    """

    def cut(n_size: int, h_size: int, w_size: int) -> list[Tile]:
        rows, columns = cut_where(spans(h.out, h_size), h_kind), cut_where(spans(w.out, w_size), w_kind)
        return [Tile(*parts) for parts in product(spans(n, n_size), rows, columns)]

    n_size = n
    while n_size > 1:
        yield cut(n_size, h.max_tile, w.max_tile)
        n_size = -(-n_size // 2)
    for h_size in _piece_sizes(h.max_tile):
        yield cut(1, h_size, w.max_tile)
    for w_size in _piece_sizes(w.max_tile)[1:]:
        yield cut(1, 1, w_size)


def choose_plan(
    layer: WindowLayer,
    unit_options: Sequence[Sequence[Unit]],
    chunk_options: Iterable[Sequence[Chunk]],
    kinds: tuple[Callable[[int], int], Callable[[int], int]] = (lambda _: 0, lambda _: 0),
) -> Plan | None:
    """The quickest plan, by estimate, with as few chunks as possible; None when nothing fits."""
    geometry = layer.geometry
    for chunks in chunk_options:
        plans: list[Plan] = []
        for units in unit_options:
            cuts = tile_options(geometry.y_shape[0], geometry.h, geometry.w, *kinds)
            fitting = (plan for tiles in cuts if (plan := layer.try_plan(units, tiles, chunks)) is not None)
            plans += islice(fitting, TILINGS)
        if plans:
            return min(plans, key=layer.cost)
    return None


def _piece_sizes(total: int) -> list[int]:
    """Sizes ceil(total / k) for k = 1, 2, ...: from all at once down to one."""
    return sorted({-(-total // parts) for parts in range(1, total + 1)}, reverse=True)
