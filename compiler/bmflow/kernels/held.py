"""How values travel inside the graph: every 8-bit integer as uint8, a signed one 128 higher than it is stored.

That leaves one integer type for all emitters: limits 0..255, only the zero point differs. It is also the type whose products
onnxruntime sums exactly on every processor: without VNNI, sums of uint8 times int8 saturate at 16 bits. 16-bit integers travel
as int32, raised to 0..65535; floats as float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bmflow.errors import CompileError
from bmflow.ir.layer import layer_name
from bmflow.ir.types import DType, dtype_of, quantization_of
from bmflow.ir.values import SSAValue
from bmflow.numerics.formats import to_bf16, to_f16
from bmflow.numerics.rounding import Rounding, round_real, saturate


@dataclass(frozen=True)
class Held:
    """Form of one value; `zero_point` and `scale` are those of its type, 0 and 1 where it has none."""

    dtype: DType
    zero_point: int = 0
    scale: float = 1.0

    @classmethod
    def of(cls, value: SSAValue) -> Held:
        """Read the type of a value.

        Raises:
            CompileError: 32-bit integers, which no op computes with.
        """
        quantization = quantization_of(value)
        held = cls(dtype_of(value), quantization.zero_point, quantization.scale) if quantization else cls(dtype_of(value))
        if not held.is_float and held.dtype.itemsize > 2:
            raise CompileError(
                f"{layer_name(value)}: its type is {held.dtype.value}; there are kernels for floats and 8 or 16-bit integers"
            )
        return held

    @property
    def is_float(self) -> bool:
        """Whether this is F32, F16 or BF16."""
        return self.dtype.is_float

    @property
    def offset(self) -> int:
        """What is added to the stored integer."""
        return -self.dtype.limits[0]

    @property
    def zero(self) -> int:
        """The held integer that means zero."""
        return self.zero_point + self.offset

    @property
    def high(self) -> int:
        """Largest held integer; the smallest is 0."""
        return self.dtype.limits[1] + self.offset

    @property
    def numpy(self) -> np.dtype:
        """Array type inside the graph."""
        if self.is_float:
            return np.dtype(np.float32)
        return np.dtype(np.uint8 if self.dtype.itemsize == 1 else np.int32)

    @property
    def reach(self) -> int:
        """Largest distance of an integer from the zero point."""
        return max(self.zero, self.high - self.zero)

    def stored(self) -> np.ndarray:
        """The stored integer of each held one, in order: (256) or (65536) int64."""
        return np.arange(self.high + 1, dtype=np.int64) - self.offset

    def hold(self, raw: np.ndarray) -> np.ndarray:
        """Stored values in the graph's form."""
        if self.is_float:
            return np.ascontiguousarray(raw, np.float32)
        if self.dtype.itemsize == 1:
            return np.ascontiguousarray(raw).view(np.uint8) ^ np.uint8(self.offset)
        return raw.astype(np.int32) + np.int32(self.offset)

    def store(self, held: np.ndarray) -> np.ndarray:
        """Inverse of `hold`."""
        if self.is_float:
            return held
        if self.dtype.itemsize == 1:
            return (held ^ np.uint8(self.offset)).view(self.dtype.numpy)
        return (held - np.int32(self.offset)).astype(self.dtype.numpy)

    def from_real(self, x: np.ndarray) -> np.ndarray:
        """Stored values of real ones, rounded as a Cast from F32 does."""
        if self.is_float:
            return {DType.F16: to_f16, DType.BF16: to_bf16}.get(self.dtype, lambda a: a)(x.astype(np.float32))
        scaled = x.astype(np.float32) * np.float32(1.0 / self.scale)
        rounded = np.clip(round_real(scaled, Rounding.HALF_AWAY), -(1 << 31), 1 << 31).astype(np.int64)
        return saturate(rounded + self.zero_point, *self.dtype.limits).astype(self.dtype.numpy)


def to_real(value: SSAValue, raw: np.ndarray) -> np.ndarray:
    """Real float32 numbers of a value's stored ones: (q - zero_point) * scale; floats as they are."""
    quantization = quantization_of(value)
    if quantization is None:
        return np.asarray(raw, np.float32)
    return (np.asarray(raw, np.float32) - np.float32(quantization.zero_point)) * np.float32(quantization.scale)
