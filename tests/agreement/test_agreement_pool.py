"""Pools: kernels and simulator agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from bmflow.dialects.tpu.compute import TpuPool2DOp
from bmflow.ir.attributes import PoolMode, enum_attribute
from bmflow.ir.types import DType
from harness import Network, element


@dataclass(frozen=True)
class Pool:
    """One case; pads are top, left, bottom, right."""

    id: str
    shape: tuple[int, int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dtype: DType = DType.I8
    zero_x: int = 0
    zero_y: int = 0
    relu: bool = False

    def result(self) -> tuple[int, int, int, int]:
        """Shape of the result."""
        (n, c, h, w), (top, left, bottom, right) = self.shape, self.pads
        oh, ow = (h + top + bottom - self.kernel[0]) // self.stride[0] + 1, (w + left + right - self.kernel[1]) // self.stride[1] + 1
        return n, c, oh, ow

    def check(self, mode: str, rng: np.random.Generator, units: float = 4, **attributes: object) -> None:
        """Build and compare."""
        net = Network(rng)
        x = net.input("x", self.shape, self.dtype, self.zero_x)
        net.check(net.op(
            TpuPool2DOp, "y", [x], self.result(), element(self.dtype, zero_point=self.zero_y), kernel_shape=list(self.kernel),
            strides=list(self.stride), pads=list(self.pads), pool_mode=enum_attribute(PoolMode, mode), do_relu=self.relu, **attributes,
        ), units=units)  # fmt: skip


MAX = [
    Pool("spatial pyramid", (1, 128, 20, 20), (5, 5), pads=(2, 2, 2, 2)),
    Pool("two pictures", (2, 70, 21, 20), (3, 3), (2, 2), (1, 1, 0, 0), DType.U8),
    Pool("relu", (1, 9, 8, 8), (2, 2), (2, 2), relu=True),
    Pool("strides beyond a command", (1, 5, 40, 40), (20, 20), (20, 20)),
    Pool("f32", (1, 70, 13, 12), (3, 3), (2, 2), (0, 0, 1, 1), DType.F32),
    Pool("f16", (1, 70, 13, 12), (3, 3), (2, 2), (1, 1, 1, 1), DType.F16),
    Pool("bf16, window beyond local memory", (1, 64, 300, 300), (300, 300), dtype=DType.BF16),
]


@pytest.mark.parametrize("case", MAX, ids=lambda case: case.id)
def test_max_pools_are_identical(case: Pool, rng: np.random.Generator) -> None:
    case.check("Max", rng, units=0)


AVERAGE = [
    Pool("global", (1, 100, 13, 13), (13, 13)),
    Pool("padded", (1, 20, 9, 9), (3, 3), pads=(1, 1, 1, 1), relu=True),
    Pool("unsigned", (2, 5, 8, 8), (2, 2), (2, 2), dtype=DType.U8),
    Pool("window beyond local memory", (1, 8, 600, 520), (600, 520)),
]


@pytest.mark.parametrize("case", AVERAGE, ids=lambda case: case.id)
def test_integer_average_pools_are_identical(case: Pool, rng: np.random.Generator) -> None:
    shift = 7 + (case.kernel[0] * case.kernel[1]).bit_length()
    case.check("Avg", rng, multiplier=113, rshift=shift - 3 if case.kernel[0] > 100 else shift, count_include_pad=True)


ASYMMETRIC = [
    Pool("zero points", (1, 30, 12, 14), (2, 2), (2, 2), zero_x=5, zero_y=-8),
    Pool("unsigned global", (1, 70, 7, 7), (7, 7), dtype=DType.U8, zero_x=117, zero_y=90),
]


@pytest.mark.parametrize("case", ASYMMETRIC, ids=lambda case: case.id)
@pytest.mark.parametrize("ratio", [1.0, 1.0371], ids=["ties", "no ties"])
def test_asymmetric_average_pools_are_identical(case: Pool, ratio: float, rng: np.random.Generator) -> None:
    scale = ratio / (case.kernel[0] * case.kernel[1])
    case.check("Avg", rng, scale=scale, offset=case.zero_y - case.zero_x * ratio, count_include_pad=True)


FLOAT = [
    Pool("global", (1, 100, 13, 13), (13, 13)),
    Pool("padded", (1, 20, 9, 9), (3, 3), (2, 2), (1, 1, 1, 1)),
    Pool("window beyond local memory", (1, 3, 300, 310), (300, 310)),
]


@pytest.mark.parametrize("whole", [True, False], ids=["over the window", "over the picture"])
@pytest.mark.parametrize("dtype", [DType.F32, DType.F16, DType.BF16], ids=lambda dtype: dtype.value)
@pytest.mark.parametrize("case", FLOAT, ids=lambda case: case.id)
def test_float_average_pools_agree(case: Pool, dtype: DType, whole: bool, rng: np.random.Generator) -> None:
    typed = Pool(case.id, case.shape, case.kernel, case.stride, case.pads, dtype)
    typed.check("Avg", rng, units=64 if dtype is DType.F32 else 1, count_include_pad=whole)
