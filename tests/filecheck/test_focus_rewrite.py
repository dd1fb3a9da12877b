"""Four strided slices and a Concat become one Depth2Space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bmflow.passes.canonical.merge_slices import MergeSlices
from bmflow.passes.fusion.fuse_focus_into_depth2space import FuseFocusIntoDepth2Space

BIG, HALF, QUARTER = "tensor<1x3x8x6xf32>", "tensor<1x3x4x6xf32>", "tensor<1x3x4x3xf32>"
ROW_MAJOR, YOLOX = [(0, 0), (0, 1), (1, 0), (1, 1)], [(0, 0), (1, 0), (0, 1), (1, 1)]


def cut(result: str, source: str, offset: str, ends: str, steps: str, types: tuple[str, str], name: str) -> str:
    settings = f"offset = [{offset}], ends = [{ends}], steps = [{steps}], axes = []"
    call = f'%{result} = "top.Slice"(%{source}, %none, %none, %none) {{{settings}}}'
    return f'{call} : ({types[0]}, none, none, none) -> {types[1]} loc("{name}")\n'


def focus(order: list[tuple[int, int]], group: int = 1) -> str:
    lines = f'%x = "top.Input"(%arg0) : ({BIG}) -> {BIG} loc("x")\n'
    for row, column in order:
        lines += cut(f"h{row}{column}", "x", f"0, 0, {row}, 0", "1, 3, 8, 6", "1, 1, 2, 1", (BIG, HALF), f"h{row}{column}")
        lines += cut(
            f"q{row}{column}", f"h{row}{column}", f"0, 0, 0, {column}", "1, 3, 4, 6", "1, 1, 1, 2", (HALF, QUARTER), f"q{row}{column}"
        )
    names = ", ".join(f"%q{row}{column}" for row, column in order)
    filter_type = f"tensor<4x{12 // group}x3x3xf32>"
    return (
        lines + f'%c = "top.Concat"({names}) {{axis = 1 : i64}} : ({", ".join([QUARTER] * 4)}) -> tensor<1x12x4x3xf32> loc("f_Concat")\n'
        f'%w = "top.Weight"() : () -> {filter_type} loc("w")\n'
        f'%y = "top.Conv"(%c, %w, %none) {{kernel_shape = [3, 3], strides = [1, 1], pads = [1, 1, 1, 1], group = {group} : i64}}'
        f' : (tensor<1x12x4x3xf32>, {filter_type}, none) -> tensor<1x4x4x3xf32> loc("y_Conv")\n'
        "return %y : tensor<1x4x4x3xf32>"
    )


def test_row_by_row_focus_keeps_name_and_filter(apply: Callable[..., Any]) -> None:
    result = apply(focus(ROW_MAJOR), MergeSlices(), FuseFocusIntoDepth2Space())
    assert result.layers() == ["top.Depth2Space f_Concat", "top.Conv y_Conv"]
    assert "block_h = 2 : i64, block_w = 2 : i64" in result.text
    assert "is_CRD = false, is_inversed = true, swap_cr = false" in result.text.replace("\n", "")
    assert 'loc("w")' in result.text


def test_yolox_order_reorders_the_filter_and_renames_the_op(apply: Callable[..., Any]) -> None:
    result = apply(focus(YOLOX), MergeSlices(), FuseFocusIntoDepth2Space())
    assert result.layers() == ["top.Depth2Space f_Concat_r_Depth2Space", "top.Conv y_Conv"]
    assert 'loc("y_Conv_filter_S2D")' in result.text
    assert 'loc("w")' not in result.text


def test_grouped_convolution_keeps_its_slices_in_yolox_order(apply: Callable[..., Any]) -> None:
    result = apply(focus(YOLOX, group=2), MergeSlices(), FuseFocusIntoDepth2Space())
    assert "cannot be reordered" in result.trace.text()


def test_the_same_quadrant_twice_is_no_focus(apply: Callable[..., Any]) -> None:
    doubled = focus(ROW_MAJOR).replace("%q00, %q01, %q10, %q11", "%q00, %q00, %q10, %q11")
    assert "not the four quadrants" in apply(doubled, MergeSlices(), FuseFocusIntoDepth2Space()).trace.text()
