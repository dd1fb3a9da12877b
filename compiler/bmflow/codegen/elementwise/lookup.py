"""Look-up in a 256-byte table by the raw byte of the input.

The look-up runs on (n, c, 1, h*w) and at most 65535 elements of a channel (BM1684X instruction notes, 3.8); longer ones are cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bmflow.codegen.assembler import Assembler
from bmflow.codegen.elementwise.base import ElementwiseEmitter, Resident
from bmflow.codegen.operand import Local, aligned
from bmflow.codegen.stream import MAX_SIZE
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.types import DType, dtype_of


class LutEmitter(ElementwiseEmitter):
    """The table lies in every lane; result, index and table in different banks."""

    separate_banks = True

    def resident(self, op: LayerOp, module: Module) -> list[Resident]:
        """The table."""
        value = op.operands[1]
        return [Resident(layer_name(value), module.weight(value).reshape(-1).astype(dtype_of(value).numpy), dtype_of(value))]

    def emit(
        self, asm: Assembler, op: LayerOp, out: Local, inputs: Sequence[Local], scratch: Sequence[Local], resident: Sequence[Local]
    ) -> None:
        """Emit the commands of one tile."""
        index = inputs[0].as_dtype(DType.U8)
        for y, x in zip(_lines(asm, out), _lines(asm, index), strict=True):
            asm.gather(y, resident[0], x)


def _lines(asm: Assembler, tile: Local) -> Iterator[Local]:
    """The tile as (n, c, 1, h*w); cut by picture, channel row and position where h*w is too long."""
    n, c, h, w = tile.shape
    lanes, length = asm.memory.lanes, h * w
    if length <= MAX_SIZE:
        yield aligned(asm.memory, tile.address, (n, c, 1, length), tile.dtype, tile.lane)
        return
    asm.require(tile.lane == 0, f"a look-up of {length} elements from lane {tile.lane} on")
    step = MAX_SIZE // asm.memory.eu_bytes * asm.memory.eu_bytes
    for i in range(n):
        for row, channel in enumerate(range(0, c, lanes)):
            for first in range(0, length, step):
                offset = (i * tile.strides[0] + row * tile.strides[1] + first) * tile.dtype.itemsize
                shape = (1, min(lanes, c - channel), 1, min(step, length - first))
                yield aligned(asm.memory, tile.address + offset, shape, tile.dtype)
