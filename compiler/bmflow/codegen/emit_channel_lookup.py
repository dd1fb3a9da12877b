"""Look-up with a table of its own for every channel: the tables of a tile's channels lie in the channels' lanes."""

from __future__ import annotations

from bmflow.codegen.assembler import Assembler
from bmflow.codegen.coefficients import storage_bits
from bmflow.codegen.emit_conv import shape4
from bmflow.codegen.layer import Build, Layer, Tensor, refuse
from bmflow.codegen.lmem import Slots, place
from bmflow.codegen.operand import Ddr, Shape, aligned, aligned_bytes
from bmflow.codegen.pipeline import Step, emit_pipelined
from bmflow.codegen.stream import MAX_SIZE
from bmflow.codegen.tiling import Span, shrink, spans, tiles
from bmflow.dialects.tpu.compute import TpuLutOp
from bmflow.ir.layer import layer_name
from bmflow.ir.types import DType, dtype_of, shape_of

ENTRIES = 256


def has_table_per_channel(op: TpuLutOp) -> bool:
    """Whether the table has more than one channel."""
    return shape_of(op.table)[1] > 1


class ChannelLookupLayer(Layer):
    """Tiles of (1, c, 1, positions): whole lane rows of channels, pieces of the picture."""

    def __init__(self, build: Build, op: TpuLutOp) -> None:
        self.build, self.op = build, op
        n, c, h, w = shape4(op.input)
        if shape_of(op.table)[1] != c:
            raise refuse(op, f"with tables for {shape_of(op.table)[1]} of {c} channels")
        self.shape: Shape = (n, c, 1, h * w)
        self.dtype = dtype_of(op.output)
        tables = storage_bits(build.weight(op.table), self.dtype)
        self.tables = build.image.add(layer_name(op.table), tables.tobytes())
        start: Shape = (1, c, 1, min(h * w, MAX_SIZE))
        tile = shrink(start, lambda tile: place(build.memory, self._sizes(tile)) is not None, build.memory.lanes)
        if tile is None:
            raise refuse(op, "does not fit local memory")
        self.tile = tile

    def _sizes(self, tile: Shape) -> list[int]:
        """Index, result and tables, two buffers each."""
        values = aligned_bytes(self.build.memory, tile, DType.U8)
        tables = aligned_bytes(self.build.memory, (1, tile[1], 1, ENTRIES), DType.U8)
        return [values] * 4 + [tables] * 2

    def emit(self, asm: Assembler) -> None:
        """Emit all tiles, those of one group of channels together."""
        addresses = place(self.build.memory, self._sizes(self.tile))
        assert addresses is not None
        x, y = self.build.tensor(self.op.input), self.build.tensor(self.op.output)
        slots = [Slots(addresses[first : first + 2]) for first in (0, 2, 4)]
        n, c, _, _ = self.shape
        emit_pipelined([
            _LookupStep(self, asm, (x, y), slots, picture, channels, positions)
            for channels in spans(c, self.tile[1])
            for picture in range(n)
            for _, _, _, positions in tiles((1, 1, 1, self.shape[3]), self.tile)
        ])  # fmt: skip


class _LookupStep(Step):
    """One tile."""

    def __init__(
        self, layer: ChannelLookupLayer, asm: Assembler, tensors: tuple[Tensor, Tensor], slots: list[Slots], picture: int, channels: Span,
        positions: Span,
    ) -> None:  # fmt: skip
        self._asm, self._memory, self._slots = asm, layer.build.memory, slots
        self._channels, self._positions, self._picture = channels, positions, picture
        self._tile: Shape = (1, channels.count, 1, positions.count)
        _, c, _, plane = layer.shape
        offset = (picture * c + channels.first) * plane + positions.first
        self._source, self._target = (tensor.view(self._tile, (c * plane, plane, plane, 1), offset) for tensor in tensors)
        shape: Shape = (1, channels.count, 1, ENTRIES)
        at = layer.tables + channels.first * ENTRIES
        self._tables = Ddr(at, shape, layer.dtype, (channels.count * ENTRIES, ENTRIES, ENTRIES, 1))
        self._dtype = tensors[0].dtype

    def load(self) -> None:
        place_of = (self._picture, self._channels, self._positions)
        x_at, _ = self._slots[0].take(place_of)
        y_at, _ = self._slots[1].take(place_of)
        tables_at, fresh = self._slots[2].take(self._channels)
        self._x = aligned(self._memory, x_at, self._tile, self._dtype)
        self._y = aligned(self._memory, y_at, self._tile, self._tables.dtype)
        self._table = aligned(self._memory, tables_at, self._tables.shape, self._tables.dtype)
        if fresh:
            self._asm.dma(self._table, self._tables)
        self._asm.dma(self._x, self._source)

    def compute(self) -> None:
        self._asm.gather(self._y, self._table, self._x.as_dtype(DType.U8), per_channel=True)

    def store(self) -> None:
        self._asm.dma(self._target, self._y)
