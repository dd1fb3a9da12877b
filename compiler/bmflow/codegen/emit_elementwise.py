"""Layers that treat every element alike: chooses views and tiles, moves the data, and lets an elementwise emitter do the arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import prod

from bmflow.codegen.assembler import Assembler
from bmflow.codegen.elementwise import EMITTERS, ElementwiseEmitter
from bmflow.codegen.layer import Build, Layer, Tensor, refuse, zero_point
from bmflow.codegen.lmem import Slots, place_groups
from bmflow.codegen.operand import Ddr, Local, Shape, aligned, aligned_bytes
from bmflow.codegen.pipeline import Step, emit_pipelined
from bmflow.codegen.tiling import Span, shrink, tiles
from bmflow.codegen.views import Access, Region, axis_region, elementwise_regions
from bmflow.dialects.tpu.compute import TpuAddOp, TpuMulOp, TpuScaledActiveOp
from bmflow.ir.layer import LayerOp
from bmflow.ir.types import DType, dtype_of, shape_of
from bmflow.ir.values import SSAValue

TILE_BYTES = 8192
"""Bytes per lane from which on a line is cut further, so that loading, computing and storing overlap."""
MAX_PIECES = 4
"""Pieces to cut into for the sake of overlapping alone."""
PASSES_PER_COMMAND = 2
"""Of slow functions: their divisions and series pass many times."""
MAX_SIZE = 65535


class ElementwiseLayer(Layer):
    """One elementwise op over all its regions."""

    def __init__(self, build: Build, op: LayerOp, emitter: ElementwiseEmitter, inputs: Sequence[SSAValue]) -> None:
        self.build, self.op, self.emitter, self.inputs = build, op, emitter, inputs
        self.result = op.results[0]
        self.regions = self._regions()
        self.residents = [(r, build.image.add(r.name, r.data.tobytes())) for r in self.emitter.resident(op, build.module)]
        self.scratch = self.emitter.scratch(op)
        for value in self.inputs:
            build.reserve(value)
        self.tiles = [self._tile(region) for region in self.regions]

    def _regions(self) -> list[Region]:
        shape = shape_of(self.result)
        if self.emitter.reduce_h:
            axis = int(self.op["axis"]) % len(shape)  # pyright: ignore[reportArgumentType]
            joined = [*shape[:axis], prod(shape[axis:])] if self.emitter.reduce_trailing else shape
            return [axis_region(joined, axis)]
        return elementwise_regions([shape_of(value) for value in self.inputs], shape, self.build.memory.lanes)

    def _tile(self, region: Region) -> Shape:
        n, c, h, w = (min(size, MAX_SIZE) for size in region.shape)
        pieces, lanes = self._pieces((n, c, h, w)), self.build.memory.lanes
        if self.emitter.reduce_h:
            c = min(c, -(-c // (lanes * pieces)) * lanes)
        elif h == 1:
            w = -(-w // pieces)
        tile = shrink((n, c, h, w), lambda t: self.place(region, t) is not None, self.build.memory.lanes, self.emitter.reduce_h)
        if tile is None:
            raise refuse(self.op, f"over {region.shape} elements does not fit local memory")
        return tile

    def _pieces(self, tile: Shape) -> int:
        """Into how many pieces a tile is cut so that loading, computing and storing overlap."""
        line_bytes = tile[3] * dtype_of(self.result).itemsize
        if not self.emitter.passes:
            return min(MAX_PIECES, line_bytes // TILE_BYTES + 1) if tile[2] == 1 else 1
        return min(range(1, MAX_PIECES + 1), key=partial(self._cycles, prod(tile)))

    def _cycles(self, elements: int, pieces: int) -> float:
        """Estimate for a slow function: the busier engine all the time, the other one as long as nothing overlaps with it."""
        rates, memory = self.build.rates, self.build.memory
        moved = elements * sum(dtype_of(value).itemsize for value in (*self.inputs, self.result))
        gdma = moved * rates.freq_hz / rates.ddr_bytes_per_second + pieces * (len(self.inputs) + 1) * rates.gdma_start_cycles
        vectors = elements * DType.F32.itemsize / (memory.lanes * memory.eu_bytes)
        tiu = self.emitter.passes * (vectors + pieces * rates.tiu_start_cycles / PASSES_PER_COMMAND)
        return max(gdma, tiu) + min(gdma, tiu) / pieces

    def place(self, region: Region, tile: Shape) -> tuple[list[list[int]], list[int], list[int], list[int]] | None:
        """Addresses of the buffers for inputs (two each), result (two), scratch and residents; None when they do not fit."""
        memory = self.build.memory
        groups: list[list[int]] = []
        for value, access in zip(self.inputs, region.accesses, strict=False):
            groups.append([aligned_bytes(memory, _kept(tile, access, memory.lanes), dtype_of(value))] * 2)
        groups.append([aligned_bytes(memory, tile, dtype_of(self.result))] * 2)
        groups.append([aligned_bytes(memory, tile, dtype) for dtype in self.scratch])
        groups.append([resident.data.nbytes for resident, _ in self.residents])
        placed = place_groups(memory, groups, self.emitter.separate_banks)
        if placed is None:
            return None
        *inputs, result, scratch, residents = placed
        return inputs, result, scratch, residents

    def emit(self, asm: Assembler) -> None:
        """Emit all tiles of all regions."""
        sources = [self.build.tensor(value) for value in self.inputs]
        for region, tile in zip(self.regions, self.tiles, strict=True):
            places = self.place(region, tile)
            assert places is not None
            inputs, result, scratch, residents = places
            loaded = self._load_residents(asm, residents)
            slots = [Slots(addresses) for addresses in inputs]
            emit_pipelined([
                _ElementwiseStep(self, asm, sources, region, parts, slots, result[k % 2], scratch, loaded)
                for k, parts in enumerate(tiles(region.shape, tile))
            ])  # fmt: skip

    def _load_residents(self, asm: Assembler, addresses: Sequence[int]) -> list[Local]:
        """Bring every constant to all lanes."""
        loaded: list[Local] = []
        for (resident, source), address in zip(self.residents, addresses, strict=True):
            size = resident.data.nbytes // resident.dtype.itemsize
            local = Local(address, (1, self.build.memory.lanes, 1, size), resident.dtype, (size, size, size, 1))
            asm.dma_broadcast(local, Ddr(source, (1, 1, 1, size), resident.dtype, (size, size, size, 1)))
            loaded.append(local)
        return loaded


def plan_elementwise(build: Build, op: LayerOp) -> ElementwiseLayer:
    """The layer of an elementwise op: every operand of Add, Mul and ScaledActive, the first of all others."""
    inputs = list(op.operands) if isinstance(op, TpuAddOp | TpuMulOp | TpuScaledActiveOp) else [op.operands[0]]
    return ElementwiseLayer(build, op, EMITTERS[op.name], inputs)


def plan_relu_in_place(build: Build, op: LayerOp) -> ElementwiseLayer:
    """The clamp of an op that has do_relu but moves data only: a second pass over its result.

    Raises:
        CompileError: the result has a zero point.
    """
    if zero_point(op.results[0]):
        raise refuse(op, "with a fused relu on a result with a zero point")
    return ElementwiseLayer(build, op, EMITTERS["tpu.Relu"], [op.results[0]])


class _ElementwiseStep(Step):
    """One tile of one region."""

    def __init__(
        self, layer: ElementwiseLayer, asm: Assembler, sources: Sequence[Tensor], region: Region, parts: tuple[Span, ...],
        slots: Sequence[Slots], result: int, scratch: Sequence[int], residents: Sequence[Local],
    ) -> None:  # fmt: skip
        self._layer, self._asm, self._sources, self._region, self._parts = layer, asm, sources, region, parts
        self._slots, self._residents = slots, list(residents)
        n, c, h, w = (part.count for part in parts)
        self._tile: Shape = (n, c, h, w)
        memory = layer.build.memory
        self._y = aligned(memory, result, self._tile, dtype_of(layer.result))
        self._scratch = [aligned(memory, at, self._tile, dtype) for at, dtype in zip(scratch, layer.scratch, strict=True)]
        self._inputs: list[Local] = []

    def load(self) -> None:
        for tensor, access, slots in zip(self._sources, self._region.accesses, self._slots, strict=False):
            used = tuple(part if stride else None for part, stride in zip(self._parts, access.strides, strict=True))
            address, fresh = slots.take(used)
            self._inputs.append(self._load(tensor, access, address, fresh))

    def _load(self, tensor: Tensor, access: Access, address: int, fresh: bool) -> Local:
        memory = self._layer.build.memory
        broadcast = _lane_broadcast(self._tile, access)
        local = aligned(memory, address, _kept(self._tile, access, memory.lanes), tensor.dtype)
        if fresh:
            shape = (local.shape[0], 1 if broadcast else local.shape[1], *local.shape[2:])
            source = tensor.view(shape, _at_least_one(access.strides), _start(access, self._parts))
            (self._asm.dma_broadcast if broadcast else self._asm.dma)(*_along_w(local, source))
        kept = zip(local.strides, access.strides, self._tile, strict=True)
        n, c, h, w = (stride if step or size == 1 else 0 for stride, step, size in kept)
        return replace(local, shape=self._tile, strides=(n, c, h, w))

    def compute(self) -> None:
        layer = self._layer
        layer.emitter.emit(self._asm, layer.op, self._y, self._inputs, self._scratch, self._residents)

    def store(self) -> None:
        access = self._region.accesses[-1]
        tensor = self._layer.build.tensor(self._layer.result)
        local, target = _along_w(self._y, tensor.view(self._tile, _at_least_one(access.strides), _start(access, self._parts)))
        self._asm.dma(target, local)


def _along_w(local: Local, ddr: Ddr) -> tuple[Local, Ddr]:
    """Both sides of a copy with a dense column turned into a row: neighbours along w are what a DMA moves at once."""
    n, c, h, w = local.shape
    if w > 1 or not local.strides[2] == ddr.strides[2] == 1:
        return local, ddr
    row = replace(local, shape=(n, c, 1, h), strides=(*local.strides[:2], h, 1))
    return row, replace(ddr, shape=(*ddr.shape[:2], 1, h), strides=(*ddr.strides[:2], h, 1))


def _lane_broadcast(tile: Shape, access: Access) -> bool:
    """Whether one channel must be brought to every lane."""
    return tile[1] > 1 and access.strides[1] == 0


def _kept(tile: Shape, access: Access, lanes: int) -> Shape:
    """Shape of what is loaded for a tile: broadcast dimensions have size 1, broadcast channels one per lane used."""
    n, c, h, w = (size if stride else 1 for size, stride in zip(tile, access.strides, strict=True))
    return n, min(tile[1], lanes) if _lane_broadcast(tile, access) else c, h, w


def _start(access: Access, parts: Sequence[Span]) -> int:
    return access.offset + sum(part.first * stride for part, stride in zip(parts, access.strides, strict=True))


def _at_least_one(strides: Shape) -> Shape:
    n, c, h, w = (max(stride, 1) for stride in strides)
    return n, c, h, w
