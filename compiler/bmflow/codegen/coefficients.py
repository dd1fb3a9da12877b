"""The weight image: packing of filters, biases and requantization tables into the bytes that lanes read, and their addresses.

Layouts: BM1684X instruction notes, 1.6 (convolution filter, depthwise filter, merged INT8 coefficients).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bmflow.codegen.operand import Ddr, round_up
from bmflow.ir.types import DType
from bmflow.isa.program import WeightSpan
from bmflow.numerics.formats import bf16_bits, f16_bits
from bmflow.target import Memory

TABLE_WORDS = 3
"""int32 words of one requantization row: multiplier, minus right shift, zero point."""


class WeightImage:
    """Collects constants; each piece starts at a multiple of the DDR alignment, in the order of `add`."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._data = bytearray()
        self._known: dict[tuple[str, bytes], int] = {}
        self.spans: list[WeightSpan] = []

    def add(self, name: str, data: bytes) -> int:
        """Append a piece and return its DDR address; the same name with the same bytes is stored once."""
        key = (name, data)
        if key not in self._known:
            self.spans.append(WeightSpan(name, len(self._data), len(data)))
            self._known[key] = self._memory.coeff_base + len(self._data)
            self._data += data
            self._data += bytes(round_up(len(self._data), self._memory.ddr_alignment) - len(self._data))
        return self._known[key]

    @property
    def data(self) -> bytes:
        """The image, a multiple of the DDR alignment long."""
        return bytes(self._data)


@dataclass(frozen=True)
class Blob:
    """Constants of some output channels: `address` in DDR, then `lanes` rows of `size` bytes, and where the parts begin in a row."""

    address: int
    lanes: int
    size: int
    filter_at: int
    bias_at: int | None = None
    table_at: int | None = None

    @property
    def source(self) -> Ddr:
        """The blob in DDR as 32-bit words, one row per lane."""
        words = self.size // 4
        return Ddr(self.address, (1, self.lanes, 1, words), DType.I32, (self.lanes * words, words, words, 1))


@dataclass
class LaneRows:
    """Bytes of every lane, built part by part; `offset` is where the next part begins."""

    lanes: int
    parts: list[np.ndarray] = field(default_factory=list[np.ndarray])
    offset: int = 0

    def append(self, rows: np.ndarray, align: int = 1) -> int:
        """Add a (lanes, bytes) uint8 array at the next multiple of `align` and return where it begins."""
        self.pad(align)
        start = self.offset
        self.parts.append(rows)
        self.offset += rows.shape[1]
        return start

    def pad(self, align: int) -> None:
        """Fill up with zero bytes to a multiple of `align`."""
        gap = round_up(self.offset, align) - self.offset
        if gap:
            self.parts.append(np.zeros((self.lanes, gap), np.uint8))
            self.offset += gap

    def tobytes(self) -> bytes:
        """All lanes, one after the other."""
        return np.concatenate(self.parts, axis=1).tobytes()


def storage_bits(values: np.ndarray, dtype: DType) -> np.ndarray:
    """Array whose bytes are the stored form of `values`: bits of f16 and bf16 as uint16, anything else in its own type."""
    match dtype:
        case DType.F16:
            return f16_bits(values.astype(np.float32))
        case DType.BF16:
            return bf16_bits(values.astype(np.float32))
    return values.astype(dtype.numpy)


def by_lane(rows: np.ndarray, lanes: int) -> np.ndarray:
    """Turn (channels, ...) into (used lanes, channel rows, ...): channel c lies in lane c % lanes, row c // lanes; gaps are zero."""
    channels = rows.shape[0]
    used, depth = min(channels, lanes), -(-channels // lanes)
    full = np.zeros((depth * used, *rows.shape[1:]), rows.dtype)
    full[:channels] = rows
    return full.reshape(depth, used, *rows.shape[1:]).swapaxes(0, 1)


def pack_filter(weights: np.ndarray, dtype: DType, parallel: int, lanes: int) -> np.ndarray:
    """Lay a filter out for the cube: (oc, ic, kh, kw) -> (used lanes, bytes).

    Element (oc, ic, y, x) lies in lane oc % lanes at element
    `((oc // lanes) * ceil(ic / P) * kh*kw + (ic // P) * kh*kw + y*kw + x) * P + ic % P`, P = `parallel`.
    """
    oc, ic, kh, kw = weights.shape
    groups = -(-ic // parallel)
    padded = np.zeros((oc, groups * parallel, kh, kw), storage_bits(weights[:0], dtype).dtype)
    padded[:, :ic] = storage_bits(weights, dtype)
    packed = padded.reshape(oc, groups, parallel, kh * kw).swapaxes(2, 3)
    return _lane_bytes(by_lane(np.ascontiguousarray(packed).reshape(oc, -1), lanes))


def pack_rows(values: np.ndarray, dtype: DType, lanes: int, row_bytes: int = 0) -> np.ndarray:
    """Lay per-channel rows out compactly: (channels, k) -> (used lanes, bytes); rows start `row_bytes` apart, 0: back to back.

    With `row_bytes` the last row is not filled up.
    """
    placed = by_lane(storage_bits(values, dtype), lanes)
    used, depth, width = placed.shape
    if row_bytes:
        wide = np.zeros((used, depth, row_bytes // dtype.itemsize), placed.dtype)
        wide[..., :width] = placed
        placed = wide.reshape(used, -1)[:, : (depth - 1) * wide.shape[2] + width]
    return _lane_bytes(placed.reshape(used, -1))


def requant_rows(multipliers: Sequence[int], rshifts: Sequence[int], zero_point: int) -> np.ndarray:
    """(channels, 3) int32: multiplier, minus right shift, output zero point."""
    rows = [(m, -s, zero_point) for m, s in zip(multipliers, rshifts, strict=True)]
    return np.array(rows, np.int64).astype(np.int32)


def pack_blob(
    image: WeightImage,
    memory: Memory,
    name: str,
    weights: np.ndarray,
    *,
    bias: np.ndarray | None,
    bias_dtype: DType,
    table: np.ndarray | None,
    filter_align: int,
) -> Blob:
    """Store `[requant rows][bias][filter]` of up to one unit of output channels.

    Args:
        weights: (used lanes, bytes) from `pack_filter` or `pack_rows`.
        bias: (channels), compact right after the last requant row; None when there is none.
        table: (channels, 3) from `requant_rows`, rows one vector apart; None when there is none.
    """
    rows = LaneRows(weights.shape[0])
    table_at = bias_at = None
    if table is not None:
        table_at = rows.append(pack_rows(table, DType.I32, memory.lanes, memory.eu_bytes))
    if bias is not None:
        bias_at = rows.append(pack_rows(bias.reshape(-1, 1), bias_dtype, memory.lanes))
    filter_at = rows.append(weights, filter_align)
    rows.pad(4)
    return Blob(image.add(name, rows.tobytes()), rows.lanes, rows.offset, filter_at, bias_at, table_at)


def _lane_bytes(rows: np.ndarray) -> np.ndarray:
    contiguous = np.ascontiguousarray(rows)
    return contiguous.view(np.uint8).reshape(contiguous.shape[0], -1)
