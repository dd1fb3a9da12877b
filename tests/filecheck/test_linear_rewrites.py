"""Batch normalization, constant products and constant sums behind convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from bmflow.passes.fusion.fold_add_into_conv import FoldAddIntoConv
from bmflow.passes.fusion.fold_mul_into_conv import FoldMulIntoConv
from bmflow.passes.fusion.fuse_batch_norm_into_conv import FuseBatchNormIntoConv
from bmflow.passes.fusion.turn_batch_norm_into_conv import TurnBatchNormIntoConv

X = """%x = "top.Input"(%arg0) : (tensor<1x4x6x5xf32>) -> tensor<1x4x6x5xf32> loc("x")
"""
CONV = (
    X
    + """%w = "top.Weight"() : () -> tensor<6x2x3x3xf32> loc("w")
%b = "top.Weight"() : () -> tensor<6xf32> loc("b")
%c = "top.Conv"(%x, %w, BIAS) {kernel_shape = [3, 3], strides = [1, 1], pads = [1, 0, 1, 2], group = 2 : i64}
  : (tensor<1x4x6x5xf32>, tensor<6x2x3x3xf32>, BIASTYPE) -> tensor<1x6x6x5xf32> loc("c_Conv")
"""
)
WITH_BIAS = CONV.replace("BIASTYPE", "tensor<6xf32>").replace("BIAS", "%b")
WITHOUT_BIAS = CONV.replace("BIASTYPE", "none").replace("BIAS", "%none")


def norm(x: str, c: int, shape: str) -> str:
    names = ("mean", "var", "gamma", "beta")
    lines = [f'%{n} = "top.Weight"() : () -> tensor<{c}xf32> loc("{n}")' for n in names]
    types = ", ".join([f"tensor<{c}xf32>"] * 4)
    call = f'%y = "top.BatchNorm"({x}, %mean, %var, %gamma, %beta) {{epsilon = 0.01 : f64}}'
    return "\n".join(lines) + f'\n{call} : (tensor<{shape}xf32>, {types}) -> tensor<{shape}xf32> loc("y_BatchNormalization")\n'


RETURN = "return %y : tensor<1x6x6x5xf32>"


def test_batch_norm_folds_into_a_convolution_with_bias(apply: Callable[..., Any]) -> None:
    result = apply(WITH_BIAS + norm("%c", 6, "1x6x6x5") + RETURN, FuseBatchNormIntoConv())
    assert result.layers() == ["top.Conv y_BatchNormalization"]
    assert 'loc("c_Conv_filter")' in result.text
    assert "pads = [1, 0, 1, 2]" in result.text
    assert "mean" not in result.text


def test_batch_norm_gives_a_convolution_without_bias_one(apply: Callable[..., Any]) -> None:
    result = apply(WITHOUT_BIAS + norm("%c", 6, "1x6x6x5") + RETURN, FuseBatchNormIntoConv())
    assert result.layers() == ["top.Conv y_BatchNormalization"]
    assert 'tensor<6xf32> loc("c_Conv_bias")' in result.text


def test_batch_norm_stays_when_the_convolution_is_read_twice(apply: Callable[..., Any]) -> None:
    lines = WITH_BIAS + norm("%c", 6, "1x6x6x5") + "return %y, %c : tensor<1x6x6x5xf32>, tensor<1x6x6x5xf32>"
    result = apply(lines, FuseBatchNormIntoConv())
    assert result.trace.why_not("y_BatchNormalization") == ["fuse-batch-norm-into-conv: c_Conv is read 2 times"]


def test_batch_norm_behind_a_relu_stays_and_says_why(apply: Callable[..., Any]) -> None:
    lines = WITH_BIAS.replace("group = 2 : i64", "group = 2 : i64, do_relu = true") + norm("%c", 6, "1x6x6x5") + RETURN
    result = apply(lines, FuseBatchNormIntoConv())
    assert "c_Conv ends in a relu" in result.trace.text()


def test_leftover_batch_norm_becomes_a_depthwise_convolution(apply: Callable[..., Any]) -> None:
    result = apply(X + norm("%x", 4, "1x4x6x5") + "return %y : tensor<1x4x6x5xf32>", TurnBatchNormIntoConv())
    assert result.layers() == ["top.Conv y_BatchNormalization"]
    assert "group = 4 : i64" in result.text
    assert "tensor<4x1x1x1xf32>" in result.text


def with_constant(op: str, shape: str, order: str = "%c, %k") -> str:
    types = {"%c": "tensor<1x6x6x5xf32>", "%k": f"tensor<{shape}xf32>"}
    signature = ", ".join(types[name] for name in order.split(", "))
    return (
        WITH_BIAS + f'%k = "top.Weight"() : () -> tensor<{shape}xf32> loc("k")\n'
        f'%y = "{op}"({order}) : ({signature}) -> tensor<1x6x6x5xf32> loc("y_Last")\n' + RETURN
    )


def test_product_by_a_constant_per_channel_folds(apply: Callable[..., Any]) -> None:
    result = apply(with_constant("top.Mul", "6x1x1"), FoldMulIntoConv())
    assert result.layers() == ["top.Conv y_Last"]


def test_product_by_a_scalar_on_the_left_folds(apply: Callable[..., Any]) -> None:
    result = apply(with_constant("top.Mul", "1", "%k, %c"), FoldMulIntoConv())
    assert result.layers() == ["top.Conv y_Last"]


def test_product_along_the_width_stays(apply: Callable[..., Any]) -> None:
    result = apply(with_constant("top.Mul", "5"), FoldMulIntoConv())
    assert result.layers() == ["top.Conv c_Conv", "top.Mul y_Last"]
    assert "the constant k is not one number per channel" in result.trace.text()


def test_sum_with_a_constant_per_channel_folds(apply: Callable[..., Any]) -> None:
    result = apply(with_constant("top.Add", "1x6x1x1"), FoldAddIntoConv())
    assert result.layers() == ["top.Conv y_Last"]


def test_folding_leaves_the_original_weights_to_other_readers(apply: Callable[..., Any]) -> None:
    shared = with_constant("top.Mul", "6x1x1").replace(
        RETURN,
        """%d = "top.Conv"(%x, %w, %b) {kernel_shape = [3, 3], strides = [1, 1], pads = [1, 0, 1, 2], group = 2 : i64}
  : (tensor<1x4x6x5xf32>, tensor<6x2x3x3xf32>, tensor<6xf32>) -> tensor<1x6x6x5xf32> loc("d_Conv")
return %y, %d : tensor<1x6x6x5xf32>, tensor<1x6x6x5xf32>""",
    )
    result = apply(shared, FoldMulIntoConv())
    assert 'loc("w")' in result.text
    assert not np.array_equal(result.module.weights["w"], result.module.weights["c_Conv_filter"])
