"""Removal of ops that change nothing; merging of chains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from bmflow.passes.canonical.merge_permutes import MergePermutes
from bmflow.passes.canonical.merge_reshapes import MergeReshapes
from bmflow.passes.canonical.merge_slices import MergeSlices
from bmflow.passes.canonical.remove_dead_ops import RemoveDeadOps
from bmflow.passes.canonical.remove_full_slice import RemoveFullSlice
from bmflow.passes.canonical.remove_identity_permute import RemoveIdentityPermute
from bmflow.passes.canonical.remove_identity_reshape import RemoveIdentityReshape
from bmflow.passes.canonical.remove_single_concat import RemoveSingleConcat
from bmflow.passes.canonical.remove_unit_pool import RemoveUnitPool

T, FLAT = "tensor<1x2x3x4xf32>", "tensor<1x24xf32>"
X = f"""%x = "top.Input"(%arg0) : ({T}) -> {T} loc("x")
%s = "top.Sigmoid"(%x) : ({T}) -> {T} loc("s")
"""
ALL = "offset = [0, 0, 0, 0], ends = [1, 2, 3, 4], steps = [1, 1, 1, 1], axes = []"
UNIT = "kernel_shape = [1, 1], strides = [1, 1], pads = [0, 0, 0, 0]"
IDENTITIES = {
    "reshape": (f'%i = "top.Reshape"(%s) {{shape = [1, 2, 3, 4]}} : ({T}) -> {T} loc("i")', RemoveIdentityReshape()),
    "permute": (f'%i = "top.Permute"(%s) {{order = [0, 1, 2, 3]}} : ({T}) -> {T} loc("i")', RemoveIdentityPermute()),
    "slice": (f'%i = "top.Slice"(%s, %none, %none, %none) {{{ALL}}} : ({T}, none, none, none) -> {T} loc("i")', RemoveFullSlice()),
    "concat": (f'%i = "top.Concat"(%s) {{axis = 1 : i64}} : ({T}) -> {T} loc("i")', RemoveSingleConcat()),
    "pool": (f'%i = "top.AvgPool"(%s) {{{UNIT}}} : ({T}) -> {T} loc("i")', RemoveUnitPool()),
}


@pytest.mark.parametrize("kind", IDENTITIES)
def test_identity_inside_a_network_vanishes(apply: Callable[..., Any], kind: str) -> None:
    line, rewrite = IDENTITIES[kind]
    result = apply(X + line + f'\n%y = "top.Relu"(%i) : ({T}) -> {T} loc("y")\nreturn %y : {T}', rewrite)
    assert result.layers() == ["top.Sigmoid s", "top.Relu y"]


@pytest.mark.parametrize("kind", IDENTITIES)
def test_identity_at_an_output_hands_its_name_to_its_producer(apply: Callable[..., Any], kind: str) -> None:
    line, rewrite = IDENTITIES[kind]
    assert apply(X + line + f"\nreturn %i : {T}", rewrite).layers() == ["top.Sigmoid i"]


def test_identity_at_an_output_stays_when_its_producer_is_an_output_too(apply: Callable[..., Any]) -> None:
    line, rewrite = IDENTITIES["reshape"]
    result = apply(X + line + f"\nreturn %i, %s : {T}, {T}", rewrite)
    assert result.layers() == ["top.Sigmoid s", "top.Reshape i"]
    assert result.trace.why_not("i") == ["remove-identity-reshape: s is read 2 times"]


def test_reshapes_in_a_row_become_the_last_one(apply: Callable[..., Any]) -> None:
    lines = (
        X + f'%a = "top.Reshape"(%s) {{shape = [1, 24]}} : ({T}) -> {FLAT} loc("a")\n'
        f'%y = "top.Reshape"(%a) {{shape = [2, 12]}} : ({FLAT}) -> tensor<2x12xf32> loc("y")\nreturn %y : tensor<2x12xf32>'
    )
    result = apply(lines, MergeReshapes())
    assert result.layers() == ["top.Sigmoid s", "top.Reshape y"]
    assert "shape = [2, 12]" in result.text


def test_permutes_in_a_row_compose(apply: Callable[..., Any]) -> None:
    mid, out = "tensor<1x3x4x2xf32>", "tensor<1x2x4x3xf32>"
    lines = (
        X + f'%a = "top.Permute"(%s) {{order = [0, 2, 3, 1]}} : ({T}) -> {mid} loc("a")\n'
        f'%y = "top.Permute"(%a) {{order = [0, 3, 2, 1]}} : ({mid}) -> {out} loc("y")\nreturn %y : {out}'
    )
    assert "order = [0, 1, 3, 2]" in apply(lines, MergePermutes()).text


def test_permutes_that_undo_each_other_vanish_when_swept_together(apply: Callable[..., Any]) -> None:
    mid = "tensor<1x3x4x2xf32>"
    lines = (
        X + f'%a = "top.Permute"(%s) {{order = [0, 2, 3, 1]}} : ({T}) -> {mid} loc("a")\n'
        f'%y = "top.Permute"(%a) {{order = [0, 3, 1, 2]}} : ({mid}) -> {T} loc("y")\nreturn %y : {T}'
    )
    assert apply(lines, RemoveIdentityPermute(), MergePermutes()).layers() == ["top.Sigmoid y"]


def test_slices_compose_along_one_axis(apply: Callable[..., Any]) -> None:
    mid, out = "tensor<1x2x3x2xf32>", "tensor<1x2x3x1xf32>"
    first = "offset = [0, 0, 0, 1], ends = [1, 2, 3, 4], steps = [1, 1, 1, 2], axes = []"
    second = "offset = [0, 0, 0, 1], ends = [1, 2, 3, 2], steps = [1, 1, 1, 1], axes = []"
    lines = (
        X + f'%a = "top.Slice"(%s, %none, %none, %none) {{{first}}} : ({T}, none, none, none) -> {mid} loc("a")\n'
        f'%y = "top.Slice"(%a, %none, %none, %none) {{{second}}} : ({mid}, none, none, none) -> {out} loc("y")\nreturn %y : {out}'
    )
    assert "offset = [0, 0, 0, 3], ends = [1, 2, 3, 4], steps = [1, 1, 1, 2]" in apply(lines, MergeSlices()).text


def test_ops_that_nobody_reads_vanish_with_what_only_they_read(apply: Callable[..., Any]) -> None:
    lines = X + f'%w = "top.Weight"() : () -> {T} loc("w")\n%d = "top.Add"(%s, %w) : ({T}, {T}) -> {T} loc("d")\nreturn %s : {T}'
    result = apply(lines, RemoveDeadOps())
    assert result.layers() == ["top.Sigmoid s"]
    assert "top.Weight" not in result.text
