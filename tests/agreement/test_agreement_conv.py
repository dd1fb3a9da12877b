"""Convolutions: kernels and simulator agree over shapes, strides, pads, dilations, groups and types."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

import numpy as np
import pytest
from bmflow.dialects.tpu.compute import TpuConv2DOp
from bmflow.ir.types import DType
from harness import Network, element, exact


@dataclass(frozen=True)
class Conv:
    """One case; pads are top, left, bottom, right."""

    id: str
    ic: int
    oc: int
    size: tuple[int, int]
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilation: tuple[int, int] = (1, 1)
    group: int = 1
    n: int = 1
    relu: bool = False
    bias: bool = True
    x: DType = DType.I8
    y: DType = DType.I8
    zero_x: int = 0
    zero_y: int = 0
    limit: float = -1.0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the result."""
        (top, left, bottom, right), (h, w) = self.pads, self.size
        extent = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        oh, ow = (h + top + bottom - extent[0]) // self.stride[0] + 1, (w + left + right - extent[1]) // self.stride[1] + 1
        return self.n, self.oc, oh, ow

    @property
    def attributes(self) -> dict:
        """Attributes common to all types."""
        return {
            "kernel_shape": list(self.kernel), "strides": list(self.stride), "pads": list(self.pads), "dilations": list(self.dilation),
            "group": self.group, "do_relu": self.relu, "relu_limit": self.limit, "with_bias": self.bias,
        }  # fmt: skip


INT8 = [
    Conv("first layer", 3, 16, (34, 40), (6, 6), (2, 2), (2, 2, 2, 2), x=DType.U8),
    Conv("channels beyond the lanes", 70, 130, (9, 10), n=2),
    Conv("pointwise", 64, 40, (20, 20), (1, 1), pads=(0, 0, 0, 0), relu=True, y=DType.U8),
    Conv("asymmetric", 20, 33, (11, 7), zero_x=-13, zero_y=9, relu=True),
    Conv("asymmetric unsigned", 20, 33, (11, 7), zero_x=200, x=DType.U8, zero_y=3, y=DType.U8),
    Conv("head of a detector", 40, 85, (20, 20), (1, 1), pads=(0, 0, 0, 0), y=DType.I16, x=DType.U8),
    Conv("16 bits, depthwise", 16, 16, (9, 9), group=16, y=DType.I16),
    Conv("16 bits, asymmetric", 20, 33, (11, 7), zero_x=-13, y=DType.I16),
    Conv("no bias", 5, 7, (8, 8), bias=False),
    Conv("dilated", 8, 8, (15, 14), dilation=(2, 3), pads=(2, 3, 2, 3)),
    Conv("groups", 12, 8, (7, 9), group=4),
    Conv("depthwise", 70, 70, (12, 11), group=70, stride=(2, 2), y=DType.U8, relu=True),
    Conv("depthwise asymmetric", 16, 16, (9, 9), group=16, zero_x=7, zero_y=-4),
    Conv("depthwise, two results a channel", 6, 12, (9, 8), group=6),
    Conv("bands of rows", 8, 64, (120, 130), n=1),
    Conv("many pixels in a row", 16, 8, (2, 9000), (1, 3), pads=(0, 1, 0, 1)),
    Conv("whole picture", 64, 10, (7, 7), (7, 7), pads=(0, 0, 0, 0), n=3),
    Conv("pads beyond a command", 4, 5, (12, 13), (5, 5), pads=(17, 18, 16, 20), zero_x=5),
    Conv("strides beyond a command", 3, 8, (48, 64), (16, 16), (16, 17), (0, 0, 0, 0)),
    Conv("dilation beyond a command", 3, 4, (40, 24), dilation=(17, 1), pads=(0, 1, 0, 1)),
    Conv("coefficients in several pieces", 2100, 70, (9, 9), (9, 9), pads=(4, 4, 4, 4)),
]


def requantization(case: Conv, rng: np.random.Generator, taps: int) -> tuple[list[int], list[int]]:
    """Multipliers and shifts that use the range of the result."""
    shift = 30 + round(log2(taps**0.5 * 127 * 0.8)) - 8 * (case.y.itemsize - 1)
    return [int(m) for m in rng.integers(1 << 29, 1 << 30, case.oc)], [shift - int(i) % 2 for i in range(case.oc)]


@pytest.mark.parametrize("case", INT8, ids=lambda case: case.id)
def test_integer_convolutions_are_identical(case: Conv, rng: np.random.Generator) -> None:
    net = Network(rng)
    x = net.input("x", (case.n, case.ic, *case.size), case.x, case.zero_x)
    filters = rng.integers(-127, 128, (case.oc, case.ic // case.group, *case.kernel))
    bias = rng.integers(-3000, 3000, (1, case.oc, 1, 1)) - case.zero_x * filters.sum((1, 2, 3)).reshape(1, -1, 1, 1)
    operands = [x, net.weight("filter", filters, DType.I8), net.weight("bias", bias, DType.I32) if case.bias else net.none]
    multiplier, rshift = requantization(case, rng, filters[0].size)
    net.check(net.op(TpuConv2DOp, "y", operands, case.shape, element(case.y, zero_point=case.zero_y),
                     multiplier=multiplier, rshift=rshift, **case.attributes))  # fmt: skip


FLOAT = [
    Conv("plain", 20, 70, (9, 10), stride=(2, 1), n=2, relu=True),
    Conv("no bias, clamped", 40, 8, (6, 5), bias=False, relu=True, limit=1.5),
    Conv("depthwise", 70, 70, (12, 11), group=70),
    Conv("groups", 12, 8, (7, 9), group=4),
    Conv("pads beyond a command", 4, 5, (12, 13), (5, 5), pads=(17, 18, 16, 20)),
    Conv("coefficients in several pieces", 2100, 9, (6, 6), (6, 6), pads=(0, 0, 0, 0)),
]


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16, DType.BF16], ids=lambda dtype: dtype.value)
@pytest.mark.parametrize("case", FLOAT, ids=lambda case: case.id)
def test_float_convolutions_agree_but_for_the_order_of_sums(case: Conv, dtype: DType, rng: np.random.Generator) -> None:
    net = Network(rng)
    x = net.input("x", (case.n, case.ic, *case.size), dtype)
    filters = exact(rng.normal(size=(case.oc, case.ic // case.group, *case.kernel)).astype(np.float32), dtype)
    bias = rng.normal(size=case.oc).astype(np.float32)
    operands = [x, net.weight("filter", filters, dtype), net.weight("bias", bias, DType.F32) if case.bias else net.none]
    net.check(net.op(TpuConv2DOp, "y", operands, case.shape, dtype, **case.attributes), units=64 if dtype is DType.F32 else 1)
