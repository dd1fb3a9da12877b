"""Relu into its producer, sigmoid times x into SiLU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from bmflow.passes.fusion.fuse_relu_into_producer import FuseReluIntoProducer
from bmflow.passes.fusion.fuse_sigmoid_mul_into_silu import FuseSigmoidMulIntoSiLU

T = "tensor<1x4x6x6xf32>"
X = f"""%x = "top.Input"(%arg0) : ({T}) -> {T} loc("x")
"""
PRODUCERS = {
    "Add": f'%a = "top.Add"(%x, %x) : ({T}, {T}) -> {T} loc("a")\n',
    "Mul": f'%a = "top.Mul"(%x, %x) : ({T}, {T}) -> {T} loc("a")\n',
    "Concat": f'%a = "top.Concat"(%x) {{axis = 1 : i64}} : ({T}) -> {T} loc("a")\n',
    "MaxPool": f'%a = "top.MaxPool"(%x) {{kernel_shape = [3, 3], strides = [1, 1], pads = [1, 1, 1, 1]}} : ({T}) -> {T} loc("a")\n',
    "AvgPool": f'%a = "top.AvgPool"(%x) {{kernel_shape = [3, 3], strides = [1, 1], pads = [1, 1, 1, 1]}} : ({T}) -> {T} loc("a")\n',
}


@pytest.mark.parametrize("kind", PRODUCERS)
def test_relu_becomes_an_attribute_of_its_producer(apply: Callable[..., Any], kind: str) -> None:
    relu = f'%y = "top.Relu"(%a) {{relu_limit = 0.75 : f64}} : ({T}) -> {T} loc("y_Clip")\n'
    result = apply(X + PRODUCERS[kind] + relu + f"return %y : {T}", FuseReluIntoProducer())
    assert result.layers() == [f"top.{kind} y_Clip"]
    assert "do_relu = true, relu_limit = 0.75 : f64" in result.text


def test_two_relus_keep_the_lower_limit(apply: Callable[..., Any]) -> None:
    lines = (
        X + PRODUCERS["Add"] + f'%r = "top.Relu"(%a) {{relu_limit = 1.0 : f64}} : ({T}) -> {T} loc("r")\n'
        f'%y = "top.Relu"(%r) {{relu_limit = 6.0 : f64}} : ({T}) -> {T} loc("y")\nreturn %y : {T}'
    )
    result = apply(lines, FuseReluIntoProducer())
    assert result.layers() == ["top.Add y"]
    assert "relu_limit = 1.0 : f64" in result.text


def test_relu_stays_behind_a_value_that_others_read(apply: Callable[..., Any]) -> None:
    lines = X + PRODUCERS["Add"] + f'%y = "top.Relu"(%a) : ({T}) -> {T} loc("y")\nreturn %y, %a : {T}, {T}'
    result = apply(lines, FuseReluIntoProducer())
    assert result.layers() == ["top.Add a", "top.Relu y"]
    assert result.trace.why_not("y") == ["fuse-relu-into-producer: a is read 2 times"]


def test_relu_on_an_input_says_what_it_found(apply: Callable[..., Any]) -> None:
    result = apply(X + f'%y = "top.Relu"(%x) : ({T}) -> {T} loc("y")\nreturn %y : {T}', FuseReluIntoProducer())
    assert "its input is top.Input, which takes no relu" in result.trace.text()


@pytest.mark.parametrize("order", ["%x, %s", "%s, %x"])
def test_sigmoid_times_its_input_is_silu_in_either_order(apply: Callable[..., Any], order: str) -> None:
    lines = (
        X + f'%s = "top.Sigmoid"(%x) : ({T}) -> {T} loc("s_Sigmoid")\n'
        f'%y = "top.Mul"({order}) : ({T}, {T}) -> {T} loc("y_Mul")\nreturn %y : {T}'
    )
    assert apply(lines, FuseSigmoidMulIntoSiLU()).layers() == ["top.SiLU y_Mul"]


def test_sigmoid_that_is_an_output_too_stays(apply: Callable[..., Any]) -> None:
    lines = (
        X + f'%s = "top.Sigmoid"(%x) : ({T}) -> {T} loc("s_Sigmoid")\n'
        f'%y = "top.Mul"(%x, %s) : ({T}, {T}) -> {T} loc("y_Mul")\nreturn %y, %s : {T}, {T}'
    )
    result = apply(lines, FuseSigmoidMulIntoSiLU())
    assert result.layers() == ["top.Sigmoid s_Sigmoid", "top.Mul y_Mul"]
    assert "s_Sigmoid is read 2 times" in result.trace.text()


def test_sigmoid_of_another_value_is_no_silu(apply: Callable[..., Any]) -> None:
    lines = (
        X + PRODUCERS["Add"] + f'%s = "top.Sigmoid"(%x) : ({T}) -> {T} loc("s")\n'
        f'%y = "top.Mul"(%a, %s) : ({T}, {T}) -> {T} loc("y")\nreturn %y : {T}'
    )
    assert "it is no product of x and Sigmoid(x)" in apply(lines, FuseSigmoidMulIntoSiLU()).trace.text()
