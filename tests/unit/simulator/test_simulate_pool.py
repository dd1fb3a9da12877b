"""PorD commands: depthwise sums against 64-bit integers, averages and maxima against explicit windows."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from bmflow.isa.program import Command
from reference import saturated, shifted
from simulator_bench import PREC, SIGN, Shape, aligned, compact, picture, put, run_command, sizes, tiu

X, W, Y, B = 0x0, 0x4000, 0x8000, 0xC000
DEPTHWISE, AVERAGE, RELU, MAXIMUM = 0, 1, 2, 4


def windows(
    x: np.ndarray, kernel: tuple[int, int], stride: tuple[int, int], pads: tuple[int, int, int, int], value: float, dilation: int = 1
) -> np.ndarray:
    """(n, c, oh, ow, kh, kw)."""
    padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=value)
    oh, ow = ((padded.shape[2 + k] - dilation * (kernel[k] - 1) - 1) // stride[k] + 1 for k in (0, 1))
    result = np.zeros((*x.shape[:2], oh, ow, *kernel), x.dtype)
    for i, j in product(range(kernel[0]), range(kernel[1])):
        for y, z in product(range(oh), range(ow)):
            result[:, :, y, z, i, j] = padded[:, :, y * stride[0] + i * dilation, z * stride[1] + j * dilation]
    return result


def command(
    kind: int, x: Shape, y: Shape, kinds: tuple[str, str], kernel: tuple[int, int], stride: tuple[int, int],
    pads: tuple[int, int, int, int], **more: int,
) -> Command:  # fmt: skip
    fields = {
        "res0_prec": PREC[kinds[1]], "opd0_prec": PREC[kinds[0]], "opd0_sign": SIGN[kinds[0]], "opd2_const": 1, "opd3_const": 1,
        **sizes("res0", y), "opd0_h": x[2], "opd0_w": x[3], "opd1_h": kernel[0], "opd1_w": kernel[1], "res_op_y_str": stride[0],
        "res_op_x_str": stride[1], "opd0_up_pad": pads[0], "opd0_lf_pad": pads[1], "opd0_dn_pad": pads[2], "opd0_rt_pad": pads[3],
        "opd0_addr": X, "res0_addr": Y,
    }  # fmt: skip
    return tiu("sPorD", (1, kind), fields | more)


@pytest.mark.parametrize("kind", ["i8", "u8"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_depthwise_sums_with_bias_are_exact(kind: str, dilation: int, rng: np.random.Generator) -> None:
    shape, kernel, stride, pads = (2, 70, 7, 6), (3, 2), (2, 1), (1, 1, 2, 0)
    values = rng.integers(-128, 128, shape) if kind == "i8" else rng.integers(0, 256, shape)
    weights, bias = rng.integers(-128, 128, (1, 70, *kernel)), rng.integers(-(2**20), 2**20, (1, 70, 1, 1))
    seen = windows(values, kernel, stride, pads, 9, dilation)
    memory = picture()
    put(memory, aligned(X, shape, kind), values)
    put(memory, compact(W, weights.shape, "i8"), weights)
    put(memory, compact(B, bias.shape, "i32"), bias)
    result = aligned(Y, (*shape[:2], *seen.shape[2:4]), "i32")
    operands = {"opd1_addr": W, "opd1_sign": 1, "opd2_const": 0, "opd2_addr": B, "opd2_sign": 1, "opd3_addr": 0x09090909}
    operands |= {"opd1_y_ins0": dilation - 1, "opd1_x_ins0": dilation - 1}
    done = run_command(memory, command(DEPTHWISE, shape, result.shape, (kind, "i32"), kernel, stride, pads, **operands), result)
    assert np.array_equal(done, (seen * weights[:, :, None, None]).sum((4, 5)) + bias)


@pytest.mark.parametrize("eu", [DEPTHWISE, RELU])
def test_a_narrow_depthwise_result_is_shifted_and_saturated(eu: int, rng: np.random.Generator) -> None:
    shape, kernel = (1, 5, 6, 6), (3, 3)
    values, weights = rng.integers(-128, 128, shape), rng.integers(-128, 128, (1, 5, 3, 3))
    memory = picture()
    put(memory, aligned(X, shape, "i8"), values)
    put(memory, compact(W, weights.shape, "i8"), weights)
    kind = "u8" if eu == RELU else "i8"
    result = aligned(Y, (1, 5, 4, 4), kind)
    operands = {"opd1_addr": W, "opd1_sign": 1, "res1_addr": -7 & 0xFF, "opd2_n_str": 5}
    done = run_command(memory, command(eu, shape, result.shape, ("i8", kind), kernel, (1, 1), (0, 0, 0, 0), **operands), result)
    sums = (windows(values, kernel, (1, 1), (0, 0, 0, 0), 0) * weights[:, :, None, None]).sum((4, 5))
    exact = [saturated(max(shifted(int(s), -7, 5), 0) if eu == RELU else shifted(int(s), -7, 5), kind) for s in sums.ravel()]
    assert done.ravel().tolist() == exact


def test_a_constant_filter_of_ones_sums_each_window(rng: np.random.Generator) -> None:
    shape, kernel = (1, 66, 9, 9), (9, 9)
    values = rng.integers(-128, 128, shape)
    memory = picture()
    put(memory, aligned(X, shape, "i8"), values)
    result = aligned(Y, (1, 66, 1, 1), "i32")
    ones = {"opd1_const": 1, "opd1_addr": 1, "opd1_sign": 1}
    done = run_command(memory, command(DEPTHWISE, shape, result.shape, ("i8", "i32"), kernel, (1, 1), (0, 0, 0, 0), **ones), result)
    assert np.array_equal(done, values.sum((2, 3), keepdims=True))


@pytest.mark.parametrize("kind", ["i8", "u8", "f16", "f32"])
def test_maxima_of_windows(kind: str, rng: np.random.Generator) -> None:
    shape, kernel, stride, pads = (1, 70, 8, 9), (5, 3), (1, 2), (2, 2, 2, 2)
    low = {"i8": -128, "u8": 0, "f16": -65504.0, "f32": -65504.0}[kind]
    values = rng.integers(low, low + 256, shape) if kind in ("i8", "u8") else rng.normal(size=shape).astype(np.float16)
    seen = windows(values, kernel, stride, pads, low)
    memory = picture()
    put(memory, aligned(X, shape, kind), values)
    result = aligned(Y, (1, 70, *seen.shape[2:4]), kind)
    bits = {"i8": 0x80, "u8": 0, "f16": 0xFBFF, "f32": int(np.float32(low).view(np.uint32))}[kind]
    done = run_command(memory, command(MAXIMUM, shape, result.shape, (kind, kind), kernel, stride, pads, opd3_addr=bits), result)
    assert np.array_equal(done, seen.max((4, 5)))


@pytest.mark.parametrize("kind", ["f16", "f32"])
def test_averages_scale_the_sum_and_round_once(kind: str, rng: np.random.Generator) -> None:
    shape, kernel = (1, 5, 6, 6), (2, 3)
    # Multiples of 1/8 whose sums are exact in f32, so that the order of additions does not matter.
    values = rng.integers(-64, 64, shape) / 8
    factor = np.float32(1 / 6)
    memory = picture()
    put(memory, aligned(X, shape, kind), values)
    result = aligned(Y, (1, 5, 5, 4), kind)
    scale = {"opd1_const": 1, "opd1_addr": int(factor.view(np.uint32)), "opd1_sign": 1}
    done = run_command(memory, command(AVERAGE, shape, result.shape, (kind, kind), kernel, (1, 1), (0, 0, 0, 0), **scale), result)
    sums = windows(values, kernel, (1, 1), (0, 0, 0, 0), 0).sum((4, 5)).astype(np.float32)
    assert np.array_equal(done, (sums * factor).astype(done.dtype))


def test_a_float_depthwise_convolution_adds_its_bias(rng: np.random.Generator) -> None:
    shape, kernel = (1, 66, 5, 5), (3, 3)
    values, weights, bias = (rng.integers(-8, 8, s) / 4 for s in (shape, (1, 66, 3, 3), (1, 66, 1, 1)))
    memory = picture()
    put(memory, aligned(X, shape, "f16"), values)
    put(memory, compact(W, weights.shape, "f16"), weights)
    put(memory, compact(B, bias.shape, "f16"), bias)
    result = aligned(Y, (1, 66, 3, 3), "f16")
    operands = {"opd1_addr": W, "opd1_sign": 1, "opd2_const": 0, "opd2_addr": B, "opd2_sign": 1}
    done = run_command(memory, command(DEPTHWISE, shape, result.shape, ("f16", "f16"), kernel, (1, 1), (0, 0, 0, 0), **operands), result)
    exact = (windows(values, kernel, (1, 1), (0, 0, 0, 0), 0) * weights[:, :, None, None]).sum((4, 5)) + bias
    assert np.array_equal(done, exact.astype(np.float16))
