"""Ops that move values, for every type and both dialects."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from bmflow.dialects.top import shape as top
from bmflow.dialects.tpu import shape as tpu
from bmflow.errors import CompileError
from bmflow.ir.types import DType
from one_op import Kind, OneOp, draw

TYPES = (DType.F32, DType.F16, DType.BF16, DType.I8, DType.U8, DType.I16, DType.U16)
EVERY = pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: dtype.value)


@EVERY
@pytest.mark.parametrize("order", [[0, 2, 3, 1], [3, 1, 0, 2]], ids=str)
def test_permute(dtype: DType, order: list[int], rng: np.random.Generator) -> None:
    net, x = OneOp(), draw(rng, (2, 3, 4, 5), dtype)
    y = x.transpose(order)
    found = net.run(net.op(tpu.TpuPermuteOp, "y", [net.given(x, Kind(dtype)), net.none], y.shape, Kind(dtype), order=order))
    np.testing.assert_array_equal(found, y)


@EVERY
def test_slice_and_reshape(dtype: DType, rng: np.random.Generator) -> None:
    net, x = OneOp(), draw(rng, (2, 6, 7, 9), dtype)
    y = x[1:2, 0:5:2, 3:7, 1:9:3]
    part = net.op(
        tpu.TpuSliceOp, "part", [net.given(x, Kind(dtype)), *[net.none] * 4], y.shape, Kind(dtype),
        offset=[1, 0, 3, 1], steps=[1, 2, 1, 3], ends=[2, 5, 7, 9],
    )  # fmt: skip
    found = net.run(net.op(tpu.TpuReshapeOp, "y", [part], (12, 3), Kind(dtype)))
    np.testing.assert_array_equal(found, y.reshape(12, 3))


@EVERY
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concat_of_layers_and_a_constant(dtype: DType, axis: int, rng: np.random.Generator) -> None:
    net, arrays = OneOp(), [draw(rng, (3, 4, 5), dtype) for _ in range(3)]
    operands = [net.given(arrays[0], Kind(dtype)), net.given(arrays[1], Kind(dtype)), net.weight("w", arrays[2], dtype)]
    y = np.concatenate(arrays, axis)
    np.testing.assert_array_equal(net.run(net.op(tpu.TpuConcatOp, "y", operands, y.shape, Kind(dtype), axis=axis)), y)


@pytest.mark.parametrize("kind", [Kind(DType.F32), Kind(DType.I8, 10), Kind(DType.U8, 77)], ids=str)
def test_relu_of_a_concat_stops_at_the_zero_point(kind: Kind, rng: np.random.Generator) -> None:
    net, x = OneOp(), draw(rng, (2, 5), kind.dtype)
    found = net.run(net.op(tpu.TpuConcatOp, "y", [net.given(x, kind)] * 2, (4, 5), kind, axis=0, do_relu=True))
    np.testing.assert_array_equal(found, np.maximum(np.concatenate([x, x]), kind.zero))


def test_concat_of_two_types_is_refused(rng: np.random.Generator) -> None:
    net = OneOp()
    operands = [net.given(np.zeros((1, 2)), Kind(DType.I8)), net.given(np.zeros((1, 2)), Kind(DType.U8))]
    y = net.op(tpu.TpuConcatOp, "join", operands, (2, 2), Kind(DType.I8), axis=0)
    with pytest.raises(CompileError, match=r"join: tpu.Concat of ui8 into si8 has no kernel"):
        net.run(y)


@EVERY
@pytest.mark.parametrize("scale", [(2, 2), (1, 3), (5, 2)], ids=str)
def test_upsample(dtype: DType, scale: tuple[int, int], rng: np.random.Generator) -> None:
    net, x = OneOp(), draw(rng, (2, 3, 4, 7), dtype)
    y = x.repeat(scale[0], 2).repeat(scale[1], 3)
    operands = [net.given(x, Kind(dtype)), net.none]
    found = net.run(net.op(tpu.TpuUpsampleOp, "y", operands, y.shape, Kind(dtype), scale_h=scale[0], scale_w=scale[1]))
    np.testing.assert_array_equal(found, y)


FLAGS = list(itertools.product([False, True], repeat=3))


@pytest.mark.parametrize("dtype", [DType.F32, DType.U8, DType.I8], ids=lambda dtype: dtype.value)
@pytest.mark.parametrize(("inverse", "crd", "swap"), FLAGS)
def test_depth_to_space_follows_its_formula(inverse: bool, crd: bool, swap: bool, dtype: DType, rng: np.random.Generator) -> None:
    n, c, block_h, block_w, height, width = 2, 3, 2, 3, 4, 5
    wide = draw(rng, (n, c, height * block_h, width * block_w), dtype)
    deep = np.zeros((n, c * block_h * block_w, height, width), wide.dtype)
    for ch, bh, bw in itertools.product(range(c), range(block_h), range(block_w)):
        block = bw * block_h + bh if swap else bh * block_w + bw
        channel = ch * block_h * block_w + block if crd else block * c + ch
        deep[:, channel] = wide[:, ch, bh::block_h, bw::block_w]
    x, y = (wide, deep) if inverse else (deep, wide)
    for op, extra in ((top.TopDepth2SpaceOp, Kind()), (tpu.TpuDepth2SpaceOp, Kind(dtype))):
        if op is top.TopDepth2SpaceOp and dtype is not DType.F32:
            continue
        net = OneOp()
        found = net.run(net.op(
            op, "y", [net.given(x, Kind(dtype))], y.shape, extra, block_h=block_h, block_w=block_w, is_CRD=crd, is_inversed=inverse,
            swap_cr=swap,
        ))  # fmt: skip
        np.testing.assert_array_equal(found, y)


def test_top_moves(rng: np.random.Generator) -> None:
    x = draw(rng, (1, 4, 6, 6), DType.F32)
    cases = [
        (top.TopConcatOp, 2, np.clip(np.concatenate([x, x], 3), 0, 0.5), {"axis": 3, "do_relu": True, "relu_limit": 0.5}),
        (top.TopPermuteOp, 1, x.transpose(0, 3, 1, 2), {"order": [0, 3, 1, 2]}),
        (top.TopReshapeOp, 1, x.reshape(4, 36), {"shape": [4, 36]}),
        (top.TopUpsampleOp, 1, np.maximum(x.repeat(2, 2).repeat(2, 3), 0), {"scale_h": 2, "scale_w": 2, "do_relu": True}),
    ]
    for kind, count, expected, settings in cases:
        net = OneOp()
        element = [net.given(x) for _ in range(count)]
        y = net.builder.append(kind.make("y", element, type_of(expected), settings)).results[0]
        np.testing.assert_array_equal(net.run(y), expected, err_msg=kind.name)


def type_of(array: np.ndarray) -> object:
    """The float tensor type of an array's shape."""
    from bmflow.ir.types import tensor_type

    return tensor_type(array.shape)
