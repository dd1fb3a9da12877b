"""Commands of the data mover: strided copies, broadcasts to lanes, fills (BM1684X instruction notes, 4)."""

from __future__ import annotations

from collections.abc import Sequence

from bmflow.codegen.dependencies import Engine
from bmflow.codegen.fields import DIMS, PRECISION, constant_bits
from bmflow.codegen.operand import Constant, Ddr, Local
from bmflow.codegen.stream import CommandStreams

Place = Local | Ddr
MAX_W_STRIDE_BYTES = 128
BROADCAST = 3


class DmaCommands(CommandStreams):
    """dma, dma_broadcast, dma_fill."""

    def dma(self, dst: Place, src: Place) -> None:
        """Copy elements in the order n, c, h, w; the shapes may differ as long as the number of elements does not."""
        self.require(dst.dtype.itemsize == src.dtype.itemsize, f"a copy of {src.dtype.value} to {dst.dtype.value}")
        same = dst.shape == src.shape
        fields = self._place("src", src) | self._place("dst", dst) | {"nchw_copy": int(same)}
        fields |= _sizes("src", src.shape) | ({} if same else _sizes("dst", dst.shape))
        self._append_dma(fields, dst, src)

    def dma_broadcast(self, dst: Local, src: Ddr) -> None:
        """Bring one channel, (n, 1, h, w), to the lanes of (n, c, h, w), c <= lanes; both dense along w."""
        n, c, h, w = dst.shape
        self.require(src.shape == (n, 1, h, w) and dst.lane + c <= self.memory.lanes, f"a broadcast of {src.shape} to {dst.shape}")
        self.require(w == 1 or src.strides[3] == dst.strides[3] == 1, "a broadcast of elements that are apart")
        fields = self._place("src", src) | self._place("dst", dst) | _sizes("src", src.shape) | _sizes("dst", dst.shape)
        unused = dict.fromkeys(("src_cstride", "src_wstride", "dst_cstride", "dst_wstride"), 0)
        self._append_dma(fields | unused | {"cmd_special_function": BROADCAST}, dst, src)

    def dma_fill(self, dst: Place, value: Constant) -> None:
        """Write a constant everywhere; the source address stays 0 so that the runtime does not relocate it."""
        fields = self._place("dst", dst) | _sizes("dst", dst.shape)
        fields |= {"fill_constant_en": 1, "constant_value": constant_bits(value)}
        self._append_dma(fields, dst, dst)

    def _append_dma(self, fields: dict[str, int], dst: Place, src: Place) -> None:
        """Append with the fields that every tensor copy has."""
        self.require_sizes(dst.shape, src.shape)
        everywhere = {"localmem_mask_l32": 0xFFFFFFFF, "localmem_mask_h32": 0xFFFFFFFF}
        common = {"stride_enable": 1, "cmd_type": 0, "src_data_format": PRECISION[dst.dtype], **everywhere}
        writes = [dst] if isinstance(dst, Local) else []
        reads = [src] if isinstance(src, Local) and src is not dst else []
        self.append(Engine.GDMA, "DMA_tensor", fields | common, writes, reads)

    def _place(self, side: str, place: Place) -> dict[str, int]:
        """Address and strides of one side."""
        n, c, h, w = place.strides
        self.require(place.shape[3] == 1 or w * place.dtype.itemsize <= MAX_W_STRIDE_BYTES, f"elements {w} apart along w")
        self.require(all(0 <= stride < 1 << 32 for stride in place.strides), f"strides {place.strides}")
        address = place.address
        if isinstance(place, Local):
            address += self.memory.lmem_gdma_base + place.lane * self.memory.lmem_bytes
        names = ("nstride", "cstride", "hstride", "wstride")
        return {
            **{f"{side}_{name}": stride for name, stride in zip(names, (n, c, h, w), strict=True)},
            f"{side}_start_addr_l32": address & 0xFFFFFFFF, f"{side}_start_addr_h8": address >> 32,
        }  # fmt: skip


def _sizes(side: str, shape: Sequence[int]) -> dict[str, int]:
    return {f"{side}_{dim}size": size for dim, size in zip(DIMS, shape, strict=True)}
