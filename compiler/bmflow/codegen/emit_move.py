"""Layers that only move values: Concat, Slice, Permute and Depth2Space as strided copies in DDR, Upsample through local memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from bmflow.codegen.assembler import Arith, Assembler
from bmflow.codegen.emit_conv import shape4
from bmflow.codegen.layer import Build, Layer, NoCommands, Tensor, refuse
from bmflow.codegen.lmem import place
from bmflow.codegen.moves import Dim, copies, dense_strides
from bmflow.codegen.operand import Local, Shape, aligned, aligned_bytes
from bmflow.codegen.pipeline import Step, emit_pipelined
from bmflow.codegen.tiling import Span, shrink, tiles
from bmflow.dialects.tpu.shape import TpuConcatOp, TpuDepth2SpaceOp, TpuPermuteOp, TpuReshapeOp, TpuSliceOp, TpuUpsampleOp
from bmflow.ir.layer import LayerOp
from bmflow.ir.types import dtype_of, shape_of
from bmflow.ir.values import SSAValue
from bmflow.passes.memory.lifetimes import is_activation


@dataclass(frozen=True)
class Piece:
    """One strided copy into the result: from where, which dimensions, element offsets on both sides."""

    source: SSAValue
    dims: Sequence[Dim]
    to: int = 0
    start: int = 0


@dataclass(frozen=True)
class MoveLayer(Layer):
    """A result made of copies."""

    build: Build
    result: SSAValue
    pieces: Sequence[Piece]

    def emit(self, asm: Assembler) -> None:
        """Emit the copies in order."""
        for piece in self.pieces:
            emit_copy(asm, self.build.tensor(self.result), self.build.tensor(piece.source), piece.dims, piece.to, piece.start)


def emit_copy(asm: Assembler, to: Tensor, source: Tensor, dims: Sequence[Dim], to_offset: int = 0, source_offset: int = 0) -> None:
    """Emit the copies; both tensors have the same element type."""
    for copy in copies(dims, to.dtype.itemsize, to_offset, source_offset):
        shape: Shape = tuple(dim.size for dim in copy.dims)  # pyright: ignore[reportAssignmentType]
        to_strides: Shape = tuple(dim.to for dim in copy.dims)  # pyright: ignore[reportAssignmentType]
        strides: Shape = tuple(dim.source for dim in copy.dims)  # pyright: ignore[reportAssignmentType]
        asm.dma(to.view(shape, to_strides, copy.to), source.view(shape, strides, copy.source))


def plan_concat(build: Build, op: TpuConcatOp) -> MoveLayer:
    """Join along an axis: each input goes to its place in one copy."""
    shape = shape_of(op.output)
    axis = int(op["axis"]) % len(shape)  # pyright: ignore[reportArgumentType]
    strides = dense_strides(shape)
    pieces: list[Piece] = []
    position = 0
    for value in op.inputs:
        part = shape_of(value)
        dims = [Dim(*dim) for dim in zip(part, strides, dense_strides(part), strict=True)]
        pieces.append(Piece(value, dims, position * strides[axis]))
        position += part[axis]
    return _with_constants(build, MoveLayer(build, op.output, pieces))


def plan_slice(build: Build, op: TpuSliceOp) -> MoveLayer:
    """Every `steps`-th element from `offset` on."""
    offset, steps = op.ints("offset"), op.ints("steps")
    strides = dense_strides(shape_of(op.input))
    sizes = shape_of(op.output)
    dims = [Dim(n, to, stride * step) for n, to, stride, step in zip(sizes, dense_strides(sizes), strides, steps, strict=True)]
    start = sum(first * stride for first, stride in zip(offset, strides, strict=True))
    return _with_constants(build, MoveLayer(build, op.output, [Piece(op.input, dims, 0, start)]))


def plan_permute(build: Build, op: TpuPermuteOp) -> MoveLayer:
    """Transpose any number of dimensions."""
    strides = dense_strides(shape_of(op.input))
    sizes = shape_of(op.output)
    dims = [Dim(n, to, strides[axis]) for n, to, axis in zip(sizes, dense_strides(sizes), op.ints("order"), strict=True)]
    return _with_constants(build, MoveLayer(build, op.output, [Piece(op.input, dims)]))


def plan_depth2space(build: Build, op: TpuDepth2SpaceOp) -> MoveLayer:
    """Exchange blocks of pixels with channels, either way."""
    if not (op["in_is_NCHW"] and op["out_is_NCHW"]):
        raise refuse(op, "in another layout than NCHW")
    inverse = bool(op["is_inversed"])
    deep, wide = (op.output, op.input) if inverse else (op.input, op.output)
    block_h, block_w = int(op["block_h"]), int(op["block_w"])  # pyright: ignore[reportArgumentType]
    n, c, height, width = shape4(wide)
    names = ["bw", "bh"] if op["swap_cr"] else ["bh", "bw"]
    order = ["c", *names] if op["is_CRD"] else [*names, "c"]
    sizes = {"n": n, "c": c, "bh": block_h, "bw": block_w, "i": height // block_h, "j": width // block_w}
    layout = ["n", *order, "i", "j"]
    deep_strides = dict(zip(layout, dense_strides([sizes[name] for name in layout]), strict=True))
    plane = height * width
    wide_strides = {"n": c * plane, "c": plane, "i": block_h * width, "bh": width, "j": block_w, "bw": 1}
    assert shape4(deep)[1] == c * block_h * block_w
    to, source = (deep_strides, wide_strides) if inverse else (wide_strides, deep_strides)
    dims = [Dim(sizes[name], to[name], source[name]) for name in layout]
    return _with_constants(build, MoveLayer(build, op.output, [Piece(op.input, dims)]))


def plan_reshape(build: Build, op: TpuReshapeOp) -> Layer:
    """Nothing for an activation, whose memory the result shares; a constant is copied."""
    if is_activation(op.input):
        return NoCommands()
    return _with_constants(build, MoveLayer(build, op.output, [Piece(op.input, [Dim(prod(shape_of(op.input)), 1, 1)])]))


def _with_constants(build: Build, layer: MoveLayer) -> MoveLayer:
    """Put constant sources into the weight image while there is still time."""
    for piece in layer.pieces:
        build.reserve(piece.source)
    return layer


class UpsampleLayer(Layer):
    """Nearest neighbour upsampling: each tile is copied scale_h * scale_w times into the interleaved places of a larger one."""

    def __init__(self, build: Build, op: TpuUpsampleOp) -> None:
        self.build, self.op = build, op
        n, c, h, w = shape4(op.input)
        self.shape: Shape = (1, n * c, h, w)
        self.scale = int(op["scale_h"]), int(op["scale_w"])  # pyright: ignore[reportArgumentType]
        tile = shrink(self.shape, lambda tile: place(build.memory, self._sizes(tile)) is not None, build.memory.lanes)
        if tile is None:
            raise refuse(op, f"by {self.scale} does not fit local memory")
        self.tile = tile

    def _sizes(self, tile: Shape) -> list[int]:
        dtype = dtype_of(self.op.input)
        return [aligned_bytes(self.build.memory, self.grown(tile, scale), dtype) for scale in ((1, 1), (1, 1), self.scale, self.scale)]

    @staticmethod
    def grown(tile: Shape, scale: tuple[int, int]) -> Shape:
        """Shape of a tile after upsampling."""
        return (tile[0], tile[1], tile[2] * scale[0], tile[3] * scale[1])

    def emit(self, asm: Assembler) -> None:
        """Emit all tiles."""
        addresses = place(self.build.memory, self._sizes(self.tile))
        assert addresses is not None
        x, y = self.build.tensor(self.op.input), self.build.tensor(self.op.output)
        emit_pipelined([
            _UpsampleStep(self, asm, (x, y), (addresses[k % 2], addresses[2 + k % 2]), parts)
            for k, parts in enumerate(tiles(self.shape, self.tile))
        ])  # fmt: skip


class _UpsampleStep(Step):
    """One tile."""

    def __init__(
        self, layer: UpsampleLayer, asm: Assembler, tensors: tuple[Tensor, Tensor], at: tuple[int, int], parts: tuple[Span, ...]
    ) -> None:
        self._asm, self._layer = asm, layer
        _, c, h, w = parts
        (_, _, height, width), (sh, sw) = layer.shape, layer.scale
        tile: Shape = (1, c.count, h.count, w.count)
        memory, dtype = layer.build.memory, tensors[0].dtype
        self._x = aligned(memory, at[0], tile, dtype)
        self._y = aligned(memory, at[1], layer.grown(tile, layer.scale), dtype)
        plane = height * width
        self._source = tensors[0].view(tile, (0, plane, width, 1), c.first * plane + h.first * width + w.first)
        offset = (c.first * plane * sh + h.first * sh * width + w.first) * sw
        self._target = tensors[1].view(self._y.shape, (0, plane * sh * sw, width * sw, 1), offset)

    def load(self) -> None:
        self._asm.dma(self._x, self._source)

    def compute(self) -> None:
        sh, sw = self._layer.scale
        n, c, h, _ = self._y.strides
        for dy, dx in product(range(sh), range(sw)):
            part: Local = self._y.at((dy * h + dx) * self._y.dtype.itemsize)
            self._asm.arith(Arith.COPY, replace(part, shape=self._x.shape, strides=(n, c, h * sh, sw)), self._x)

    def store(self) -> None:
        self._asm.dma(self._target, self._y)


def plan_move(build: Build, op: LayerOp) -> Layer:
    """The layer of a moving op."""
    match op:
        case TpuConcatOp():
            return plan_concat(build, op)
        case TpuSliceOp():
            return plan_slice(build, op)
        case TpuPermuteOp():
            return plan_permute(build, op)
        case TpuDepth2SpaceOp():
            return plan_depth2space(build, op)
        case TpuUpsampleOp():
            return UpsampleLayer(build, op)
        case TpuReshapeOp():
            return plan_reshape(build, op)
    raise refuse(op, "is no moving op")


MOVES = ("tpu.Concat", "tpu.Slice", "tpu.Permute", "tpu.Depth2Space", "tpu.Upsample", "tpu.Reshape")
