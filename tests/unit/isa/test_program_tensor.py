"""Raw elements and real values of tensors in DDR. Expected values: (q - zero_point) * scale, and its inverse rounded half away."""

from __future__ import annotations

import numpy as np
import pytest
from bmflow.ir.types import DType
from bmflow.isa.program import ProgramTensor


def tensor(dtype: DType, scale: float = 1.0, zero_point: int = 0) -> ProgramTensor:
    return ProgramTensor("t", (1,), dtype, 0, scale, zero_point)


def test_integers_become_real_by_scale_and_zero_point() -> None:
    real = tensor(DType.U8, 0.5, 128).to_real(np.array([0, 128, 255], np.uint8))
    assert real.dtype == np.float32
    assert real.tolist() == [-64.0, 0.0, 63.5]


def test_real_values_round_half_away_and_saturate() -> None:
    raw = tensor(DType.I8, 2.0, 1).from_real(np.array([1.0, -1.0, -5.0, 3.0, 1e9, -np.inf, np.nan], np.float32))
    assert raw.dtype == np.int8
    assert raw.tolist() == [2, 1, -2, 3, 127, -128, 1]  # 1.5, 0.5, -1.5, 2.5 before rounding


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if not dtype.is_float])
def test_every_integer_survives_the_round_trip(dtype: DType) -> None:
    low, high = dtype.limits
    raw = np.unique(np.linspace(low, high, 1001).astype(np.int64).clip(low, high)).astype(dtype.numpy)
    raw = raw[np.abs(raw.astype(np.float64)) < 2**24]  # what float32 holds exactly
    t = tensor(dtype, 0.25, 0)
    assert np.array_equal(t.from_real(t.to_real(raw)), raw)


def test_f16_and_bf16_are_rounded_to_what_they_hold() -> None:
    third = np.full((2, 3), 1 / 3, np.float32)
    assert np.array_equal(tensor(DType.F16).from_real(third), third.astype(np.float16).astype(np.float32))
    assert tensor(DType.BF16).from_real(third).tolist() == [[0.333984375] * 3] * 2  # 0x3eab
    assert np.array_equal(tensor(DType.F32).from_real(third), third)
