"""Values of command fields: type codes, constants as bits, strides, and the memory an operand covers."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from bmflow.codegen.dependencies import Access
from bmflow.codegen.operand import Constant, Local, Shape, aligned
from bmflow.ir.types import DType
from bmflow.numerics.formats import bf16_bits, f16_bits
from bmflow.target import Memory

PRECISION = {
    DType.I8: 0, DType.U8: 0, DType.F16: 1, DType.F32: 2, DType.I16: 3, DType.U16: 3, DType.I32: 4, DType.U32: 4, DType.BF16: 5,
}  # fmt: skip
"""Type codes (BM1684X instruction notes, 1.4)."""

DIMS = "nchw"


class Arith(IntEnum):
    """Element-by-element operations, by code (BM1684X instruction notes, 3.5); the S forms saturate, the plain integer forms wrap."""

    MUL = 0
    ADD = 2
    SUB = 3
    MAX = 4
    MIN = 5
    DIV = 12
    CAST = 14
    ADDS = 15
    SUBS = 16
    COPY = 19
    MULS = 20
    ABS = 26


class Layout(IntEnum):
    """How a command learns the strides of an operand (BM1684X instruction notes, 1.6)."""

    ALIGNED = 0
    EXPLICIT = 3
    TABLE = 4


def sign(dtype: DType) -> int:
    """The sign bit of an operand; the hardware ignores it for floats."""
    return int(dtype.signed)


def constant_bits(constant: Constant) -> int:
    """Bits of a constant in its type, zero extended. The value must be representable for integers; floats are rounded."""
    match constant.dtype:
        case DType.F32:
            return int(np.float32(constant.value).view(np.uint32))
        case DType.F16:
            return int(f16_bits(np.array([constant.value], np.float32))[0])
        case DType.BF16:
            return int(bf16_bits(np.array([constant.value], np.float32))[0])
        case integer:
            low, high = integer.limits
            assert low <= constant.value <= high, f"{constant} is out of range"
            assert constant.value == int(constant.value), f"{constant} is no integer"
            return int(constant.value) & ((1 << 8 * integer.itemsize) - 1)


def pad_pair_bits(value: float, dtype: DType) -> int:
    """The padding constant of CONV and depthwise, which holds a padding and an insertion value of the operand's type.

    Unconfirmed: how the two are packed; the same value in every place reads the same in any packing.
    """
    bits, width = constant_bits(Constant(value, dtype)), 8 * dtype.itemsize
    return sum(bits << shift for shift in range(0, 32, width))


def lane_rows(memory: Memory, local: Local) -> int:
    """Channel rows per lane."""
    return -(-(local.lane + local.shape[1]) // memory.lanes)


def sizes(local: Local, prefix: str) -> dict[str, int]:
    """The four size fields of an operand."""
    return {f"{prefix}_{dim}": size for dim, size in zip(DIMS, local.shape, strict=True)}


def is_aligned(memory: Memory, local: Local) -> bool:
    """Whether address and all strides in use are those of the EU-aligned layout."""
    plain = aligned(memory, local.address, local.shape, local.dtype, local.lane)
    used = used_dims(memory, local)
    same = all(s == p for s, p, step in zip(local.strides, plain.strides, used, strict=True) if step)
    return same and local.address % memory.eu_bytes == 0


def used_dims(memory: Memory, local: Local) -> tuple[bool, bool, bool, bool]:
    """Which of the strides n, c, h, w matter."""
    n, _, h, w = local.shape
    return n > 1, lane_rows(memory, local) > 1, h > 1, w > 1


def strides_that_fit(memory: Memory, local: Local, limits: Shape) -> Shape | None:
    """Strides for explicit fields, 0 for one that does not fit and does not matter; None when one that matters does not fit."""
    used = used_dims(memory, local)
    fit = [0 <= stride < limit for stride, limit in zip(local.strides, limits, strict=True)]
    if any(needed and not fits for needed, fits in zip(used, fit, strict=True)):
        return None
    n, c, h, w = (stride if fits else 0 for stride, fits in zip(local.strides, fit, strict=True))
    return n, c, h, w


def touched(memory: Memory, local: Local, write: bool) -> Access:
    """The bytes between the first and the last element of a view, in every lane that holds a channel of it."""
    n, c, h, w = local.shape
    rows = lane_rows(memory, local)
    ns, cs, hs, ws = local.strides
    last = (n - 1) * ns + (rows - 1) * cs + (h - 1) * hs + (w - 1) * ws
    return span(memory, local, (last + 1) * local.dtype.itemsize, c, write)


def span(memory: Memory, local: Local, size_bytes: int, channels: int, write: bool = False) -> Access:
    """`size_bytes` from the operand's address on, in the lanes of so many channels."""
    wraps = local.lane + channels > memory.lanes
    first, last = (0, memory.lanes - 1) if wraps else (local.lane, local.lane + channels - 1)
    return Access(local.address, local.address + size_bytes, first, last, write)
