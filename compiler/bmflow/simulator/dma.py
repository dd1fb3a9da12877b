"""DMA_tensor: strided copies between DDR and local memory, broadcasts to lanes, fills (instruction notes, 4)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from bmflow.ir.types import DType
from bmflow.simulator.instruction import Fields, Run, Work
from bmflow.simulator.memory import Machine
from bmflow.simulator.operand import Ddr, Local, Shape

COPY, TRANSPOSE, BROADCAST = 0, 1, 3
MAX_W_STRIDE_BYTES = 128
WORDS = {1: DType.U8, 2: DType.U16, 4: DType.U32}
Operand = Local | Ddr


def decode_dma(fields: Fields) -> None:
    """Read a tensor copy: strided, reshaping, with n and c exchanged, broadcast to lanes, or a fill."""
    function = fields["cmd_special_function"]
    fields.support(function in (COPY, TRANSPOSE, BROADCAST), f"function {fields.instruction.name}")
    fields.support(bool(fields["stride_enable"]) and not fields["decompress_enable"], "a copy without strides or with decompression")
    everywhere = (1 << fields.memory.lanes) - 1
    mask = fields["localmem_mask_l32"] | fields["localmem_mask_h32"] << 32
    fields.support(mask & everywhere == everywhere, f"a copy that skips lanes (mask {mask:#x})")
    itemsize = fields.dtype("src_data_format").itemsize
    fill = bool(fields["fill_constant_en"])
    x_shape, y_shape = _shapes(fields, function, fill)
    y = _operand(fields, "dst", y_shape, itemsize)
    x = None if fill else _operand(fields, "src", x_shape, itemsize)
    _check(fields, function, x, y)
    blocks = {id(operand): _blocks(fields, operand) for operand in (x, y) if operand is not None}
    fields.instruction.reads = blocks[id(x)] if x is not None else []
    fields.instruction.writes = blocks[id(y)]
    moved = sum(block.size_bytes for operand in (x, y) if isinstance(operand, Ddr) for block in blocks[id(operand)])
    local = max(prod(operand.shape) * itemsize for operand in (x, y) if operand is not None)
    fields.instruction.work = Work("dma", -(-local // (fields.memory.lanes * fields.memory.eu_bytes)), 0, moved)
    fields.instruction.operation = Copy(x, y, function == TRANSPOSE, fields["constant_value"])


def _shapes(fields: Fields, function: int, fill: bool) -> tuple[Shape, Shape]:
    """Sizes of source and destination."""
    given = {side: _sizes(fields, side) for side in ("src", "dst")}
    if fill:
        fields.require_sizes("the destination", given["dst"])
        return given["dst"], given["dst"]
    fields.require_sizes("the source", given["src"])
    n, c, h, w = given["src"]
    if function == TRANSPOSE:
        return (n, c, h, w), (c, n, h, w)
    if function == BROADCAST:
        lanes = given["dst"][1]
        fields.require(c == 1 and lanes > 0, f"a broadcast of {c} channels to {lanes} lanes")
        return (n, 1, h, w), (n, lanes, h, w)
    if fields["nchw_copy"]:
        return given["src"], given["src"]
    fields.require_sizes("the destination", given["dst"])
    same = prod(given["src"]) == prod(given["dst"])
    fields.require(same, f"a copy of {given['src']} to {given['dst']}, which has another number of elements")
    return given["src"], given["dst"]


def _sizes(fields: Fields, side: str) -> Shape:
    return fields[f"{side}_nsize"], fields[f"{side}_csize"], fields[f"{side}_hsize"], fields[f"{side}_wsize"]


def _operand(fields: Fields, side: str, shape: Shape, itemsize: int) -> Operand:
    address = fields[f"{side}_start_addr_l32"] | fields[f"{side}_start_addr_h8"] << 32
    # A broadcast leaves the stride of w 0 and takes elements that follow each other (instruction notes, 2).
    w_stride = 1 if fields["cmd_special_function"] == BROADCAST else fields[f"{side}_wstride"]
    strides = (fields[f"{side}_nstride"], fields[f"{side}_cstride"], fields[f"{side}_hstride"], w_stride)
    what = "source" if side == "src" else "destination"
    memory = fields.memory
    inside = address - memory.lmem_gdma_base
    if 0 <= inside < memory.lanes * memory.lmem_bytes:
        lane, offset = divmod(inside, memory.lmem_bytes)
        fields.expect(offset % itemsize == 0, f"{what} {address:#x} is no multiple of {itemsize} bytes")
        return fields.checked(what, Local(offset, lane, shape, strides, WORDS[itemsize]))
    return fields.ddr(what, address, shape, strides, itemsize)


def _check(fields: Fields, function: int, x: Operand | None, y: Operand) -> None:
    if isinstance(y, Ddr):
        fields.require(y.plane.name != "COEFF", "stores into the weights, which the runtime refuses")
    if function == BROADCAST:
        fields.require(isinstance(y, Local) and y.lane + y.shape[1] <= fields.memory.lanes, "a broadcast that does not end in lanes")
        return
    for what, operand in (("source", x), ("destination", y)):
        if operand is not None and operand.shape[3] > 1:
            size = operand.dtype.itemsize if isinstance(operand, Local) else operand.itemsize
            fields.expect(operand.strides[3] * size <= MAX_W_STRIDE_BYTES, f"{what}: elements {operand.strides[3]} apart along w")


def _blocks(fields: Fields, operand: Operand) -> list:
    return operand.blocks(fields.memory) if isinstance(operand, Local) else operand.blocks()


@dataclass(frozen=True)
class Copy:
    """One copy, or a fill when there is no source."""

    x: Operand | None
    y: Operand
    exchange: bool
    value: int

    def bind(self, machine: Machine) -> Run:
        """Prepare the copy."""
        if self.x is None:
            return self._bind_fill(machine)
        moves = self._direct(machine, self.x) or self._staged(machine, self.x)
        if len(moves) == 1:
            [(to, source)] = moves
            return lambda: np.copyto(to, source)

        def run() -> None:
            for to, source in moves:
                np.copyto(to, source)

        return run

    def _bind_fill(self, machine: Machine) -> Run:
        views = self.y.views(machine) if isinstance(self.y, Local) else [self.y.array(machine)]
        value = self.value & ((1 << 8 * views[0].itemsize) - 1)

        def run() -> None:
            for view in views:
                view.fill(value)

        return run

    def _direct(self, machine: Machine, x: Operand) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pairs (to, from) when a side in DDR can be read or written in the order of the other one; empty otherwise."""
        y, target = self.y, self._order(x.shape)
        if isinstance(y, Local) and isinstance(x, Ddr) and (target == y.shape or _broadcasts(x, y) or (x.is_dense and not self.exchange)):
            array = x.array(machine, None if target == y.shape or _broadcasts(x, y) else y.shape)
            return y.pairs(machine, np.broadcast_to(self._turned(array), y.shape))
        if isinstance(y, Ddr) and isinstance(x, Local) and not self.exchange and (x.shape == y.shape or y.is_dense):
            return [(part, view) for view, part in x.pairs(machine, y.array(machine, x.shape))]
        if isinstance(y, Ddr) and isinstance(x, Ddr) and not self._overlap(x, y) and (target == y.shape or x.is_dense or y.is_dense):
            if target == y.shape:
                return [(y.array(machine), self._turned(x.array(machine)))]
            if not self.exchange:
                shape = x.shape if y.is_dense else y.shape
                return [(y.array(machine, shape), x.array(machine, shape))]
        return []

    def _staged(self, machine: Machine, x: Operand) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pairs by way of a dense array."""
        itemsize = x.dtype.itemsize if isinstance(x, Local) else x.itemsize
        dense = machine.scratch("copied", x.shape, f"u{itemsize}")
        collected = [(part, view) for view, part in x.pairs(machine, dense)] if isinstance(x, Local) else [(dense, x.array(machine))]
        ordered = self._turned(dense)
        if ordered.shape != self.y.shape:
            ordered = np.broadcast_to(ordered, self.y.shape) if _broadcasts(x, self.y) else dense.reshape(self.y.shape)
        return collected + (self.y.pairs(machine, ordered) if isinstance(self.y, Local) else [(self.y.array(machine), ordered)])

    def _order(self, shape: Shape) -> Shape:
        n, c, h, w = shape
        return (c, n, h, w) if self.exchange else shape

    def _turned(self, array: np.ndarray) -> np.ndarray:
        return array.swapaxes(0, 1) if self.exchange else array

    def _overlap(self, x: Ddr, y: Ddr) -> bool:
        a, b = x.blocks()[0], y.blocks()[0]
        return a.plane is b.plane and a.offset < b.end and b.offset < a.end


def _broadcasts(x: Operand, y: Operand) -> bool:
    """Whether one channel goes to several."""
    return x.shape[1] == 1 < y.shape[1] and prod(x.shape) < prod(y.shape)
