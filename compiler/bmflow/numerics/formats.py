"""The 16-bit float formats: bits of a value, and a value rounded to what the format can hold.

F16: ties to even, subnormals kept, overflow becomes infinity. BF16: ties to even, results below the smallest normal number
become zero, NaN is 0x7fff (quantization notes, 9.2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bits = NDArray[np.uint16]

_BF16_NAN = 0x7FFF
_BF16_EXPONENT = 0x7F80


def f16_bits(values: Floats) -> Bits:
    """Bits of float32 values rounded to f16."""
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float32).astype(np.float16).view(np.uint16)


def f16_values(bits: Bits) -> Floats:
    """float32 values of f16 bits."""
    return np.asarray(bits, np.uint16).view(np.float16).astype(np.float32)


def bf16_bits(values: Floats) -> Bits:
    """Bits of float32 values rounded to bf16."""
    x = np.asarray(values, np.float32)
    wide = x.view(np.uint32).astype(np.uint64)
    rounded = ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype(np.uint16)
    flushed = np.where(rounded & _BF16_EXPONENT == 0, rounded & 0x8000, rounded)
    return np.where(np.isnan(x), np.uint16(_BF16_NAN), flushed.astype(np.uint16))


def bf16_values(bits: Bits) -> Floats:
    """float32 values of bf16 bits."""
    return (np.asarray(bits, np.uint16).astype(np.uint32) << 16).view(np.float32)


def to_f16(values: Floats) -> Floats:
    """Round float32 values to numbers that f16 holds, as float32."""
    return f16_values(f16_bits(values))


def to_bf16(values: Floats) -> Floats:
    """Round float32 values to numbers that bf16 holds, as float32."""
    return bf16_values(bf16_bits(values))
