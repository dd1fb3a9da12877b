"""Ops that move values: kernels and simulator agree, for every type."""

from __future__ import annotations

import numpy as np
import pytest
from bmflow.dialects.tpu.shape import TpuConcatOp, TpuDepth2SpaceOp, TpuPermuteOp, TpuReshapeOp, TpuSliceOp, TpuUpsampleOp
from bmflow.ir.types import DType
from harness import Network, element

EVERY = pytest.mark.parametrize("dtype", [DType.I8, DType.U8, DType.F32, DType.F16, DType.BF16], ids=lambda dtype: dtype.value)


@EVERY
@pytest.mark.parametrize(
    ("shape", "order"),
    [((1, 3, 85, 20, 20), [0, 1, 3, 4, 2]), ((1, 12, 15, 20), [0, 2, 3, 1]), ((2, 3, 4, 5, 3, 2), [5, 3, 1, 0, 2, 4]), ((70, 300), [1, 0])],
    ids=["head", "channels last", "rank 6", "matrix"],
)
def test_permute(shape: tuple[int, ...], order: list[int], dtype: DType, rng: np.random.Generator) -> None:
    net = Network(rng)
    x = net.input("x", shape, dtype)
    net.check(net.op(TpuPermuteOp, "y", [x, net.none], [shape[i] for i in order], element(dtype), order=order), units=0)


@EVERY
def test_slice_with_steps(dtype: DType, rng: np.random.Generator) -> None:
    net = Network(rng)
    x = net.input("x", (1, 6, 20, 20), dtype)
    net.check(net.op(
        TpuSliceOp, "y", [x, *[net.none] * 4], (1, 2, 6, 10), element(dtype), offset=[0, 1, 3, 0], steps=[1, 2, 3, 2], ends=[1, 5, 19, 20],
    ), units=0)  # fmt: skip


@EVERY
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_concat_on_any_axis_with_an_input_twice(axis: int, dtype: DType, rng: np.random.Generator) -> None:
    net = Network(rng)
    shape, other = [2, 70, 6, 5], [2, 70, 6, 5]
    other[axis] = 3
    x, z = net.input("x", shape, dtype), net.input("z", other, dtype)
    result = list(shape)
    result[axis] = 2 * shape[axis] + 3
    net.check(net.op(TpuConcatOp, "y", [x, z, x], result, element(dtype), axis=axis), units=0)


def test_concat_with_relu(rng: np.random.Generator) -> None:
    net = Network(rng)
    x, z = net.input("x", (1, 5, 6, 7), DType.I8), net.input("z", (1, 3, 6, 7), DType.I8)
    net.check(net.op(TpuConcatOp, "y", [x, z], (1, 8, 6, 7), element(DType.I8), axis=1, do_relu=True))


@EVERY
@pytest.mark.parametrize("scale", [(2, 2), (1, 3), (4, 2)], ids=str)
def test_upsample(scale: tuple[int, int], dtype: DType, rng: np.random.Generator) -> None:
    net = Network(rng)
    x = net.input("x", (2, 70, 9, 12), dtype)
    result = (2, 70, 9 * scale[0], 12 * scale[1])
    net.check(net.op(TpuUpsampleOp, "y", [x, net.none], result, element(dtype), scale_h=scale[0], scale_w=scale[1]), units=0)


@pytest.mark.parametrize("inverse", [True, False], ids=["to depth", "to space"])
@pytest.mark.parametrize("crd", [True, False], ids=["crd", "dcr"])
@pytest.mark.parametrize("swap", [True, False], ids=["swapped", "straight"])
def test_depth_to_space_both_ways(inverse: bool, crd: bool, swap: bool, rng: np.random.Generator) -> None:
    net = Network(rng)
    deep, wide = (2, 24, 5, 7), (2, 4, 10, 21)
    x = net.input("x", wide if inverse else deep, DType.I8)
    net.check(net.op(
        TpuDepth2SpaceOp, "y", [x], deep if inverse else wide, element(DType.I8), block_h=2, block_w=3, is_CRD=crd,
        is_inversed=inverse, swap_cr=swap,
    ))  # fmt: skip


def test_reshapes_share_memory_up_to_the_output(rng: np.random.Generator) -> None:
    net = Network(rng)
    x = net.input("x", (1, 6, 4, 5), DType.I8)
    first = net.op(TpuReshapeOp, "first", [x], (6, 20), element(DType.I8), shape=[6, 20])
    moved = net.op(TpuPermuteOp, "moved", [first, net.none], (20, 6), element(DType.I8), order=[1, 0])
    second = net.op(TpuReshapeOp, "second", [first], (120,), element(DType.I8), shape=[120])
    result = net.check(moved, second)
    assert {span.name: span.tensor.address for span in result.program.layers}["first"] == result.program.outputs[1].address
