"""Constant sums and products, relu and transpositions around matrix products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bmflow.passes.canonical.remove_identity_permute import RemoveIdentityPermute
from bmflow.passes.fusion.fold_add_into_matmul import FoldAddIntoMatMul
from bmflow.passes.fusion.fold_mul_into_matmul import FoldMulIntoMatMul
from bmflow.passes.fusion.fuse_permute_into_matmul import FusePermuteIntoMatMul
from bmflow.passes.fusion.fuse_relu_into_producer import FuseReluIntoProducer
from bmflow.passes.rewrite import Rewrite

IN, OUT, MATRIX = "tensor<2x5x4xf32>", "tensor<2x5x6xf32>", "tensor<4x6xf32>"
X = f'%x = "top.Input"(%arg0) : ({IN}) -> {IN} loc("x")\n'
W = f'%w = "top.Weight"() : () -> {MATRIX} loc("w")\n'
PLAIN = X + W + f'%m = "top.MatMul"(%x, %w, %none) : ({IN}, {MATRIX}, none) -> {OUT} loc("m_MatMul")\n'
BIASED = (
    X + W + '%b = "top.Weight"() : () -> tensor<6xf32> loc("b")\n'
    f'%m = "top.MatMul"(%x, %w, %b) : ({IN}, {MATRIX}, tensor<6xf32>) -> {OUT} loc("m_MatMul")\n'
)
TRANSPOSED = (
    X + '%w = "top.Weight"() : () -> tensor<6x4xf32> loc("w")\n%b = "top.Weight"() : () -> tensor<6xf32> loc("b")\n'
    f'%m = "top.MatMul"(%x, %w, %b) {{right_transpose = true}} : ({IN}, tensor<6x4xf32>, tensor<6xf32>) -> {OUT} loc("m_MatMul")\n'
)
RETURN = f"return %y : {OUT}"


def with_constant(kind: str, shape: str, settings: str = "") -> str:
    return (
        f'%c = "top.Weight"() : () -> tensor<{shape}xf32> loc("c")\n'
        f'%y = "top.{kind}"(%c, %m){settings} : (tensor<{shape}xf32>, {OUT}) -> {OUT} loc("y_{kind}")\n'
    )


@pytest.mark.parametrize("before", [PLAIN, BIASED, TRANSPOSED], ids=["no bias", "bias", "transposed"])
@pytest.mark.parametrize("shape", ["6", "1", "1x1x6"])
def test_sum_by_column_becomes_the_bias(apply: Callable[..., Any], before: str, shape: str) -> None:
    result = apply(before + with_constant("Add", shape, " {do_relu = true}") + RETURN, FoldAddIntoMatMul())
    assert result.layers() == ["top.MatMul y_Add"]
    assert 'tensor<6xf32> loc("y_Add_bias")' in result.text
    assert "do_relu = true" in result.text


def test_sum_that_differs_from_row_to_row_stays(apply: Callable[..., Any]) -> None:
    result = apply(PLAIN + with_constant("Add", "5x6") + RETURN, FoldAddIntoMatMul())
    assert result.trace.why_not("y_Add") == ["fold-add-into-matmul: the constant c is not one number per column"]


def test_sum_with_coefficients_stays(apply: Callable[..., Any]) -> None:
    result = apply(PLAIN + with_constant("Add", "6", " {coeff = [1.0, -1.0]}") + RETURN, FoldAddIntoMatMul())
    assert "it has coefficients" in result.trace.text()


def test_sum_behind_a_relu_or_a_second_reader_stays(apply: Callable[..., Any]) -> None:
    relu = BIASED.replace('"top.MatMul"(%x, %w, %b)', '"top.MatMul"(%x, %w, %b) {do_relu = true}')
    assert "m_MatMul ends in a relu" in apply(relu + with_constant("Add", "6") + RETURN, FoldAddIntoMatMul()).trace.text()
    twice = apply(PLAIN + with_constant("Add", "6") + f"return %y, %m : {OUT}, {OUT}", FoldAddIntoMatMul())
    assert "m_MatMul is read 2 times" in twice.trace.text()


@pytest.mark.parametrize("before", [PLAIN, BIASED, TRANSPOSED], ids=["no bias", "bias", "transposed"])
def test_product_by_a_number_goes_into_the_matrix(apply: Callable[..., Any], before: str) -> None:
    result = apply(before + with_constant("Mul", "1") + RETURN, FoldMulIntoMatMul())
    assert result.layers() == ["top.MatMul y_Mul"]
    assert 'loc("y_Mul_right")' in result.text
    assert 'loc("w")' not in result.text


def test_product_by_numbers_of_columns_stays(apply: Callable[..., Any]) -> None:
    result = apply(PLAIN + with_constant("Mul", "6") + RETURN, FoldMulIntoMatMul())
    assert result.trace.why_not("y_Mul") == ["fold-mul-into-matmul: its factors differ from column to column"]


@pytest.mark.parametrize(("kind", "rewrite"), [("Mul", FoldMulIntoMatMul()), ("Add", FoldAddIntoMatMul())])
def test_constants_behind_a_product_of_computed_matrices_stay(apply: Callable[..., Any], kind: str, rewrite: Rewrite) -> None:
    square = "tensor<2x4x4xf32>"
    lines = (
        f'%x = "top.Input"(%arg0) : ({square}) -> {square} loc("x")\n%c = "top.Weight"() : () -> tensor<1xf32> loc("c")\n'
        f'%m = "top.MatMul"(%x, %x, %none) : ({square}, {square}, none) -> {square} loc("m")\n'
        f'%y = "top.{kind}"(%m, %c) : ({square}, tensor<1xf32>) -> {square} loc("y")\nreturn %y : {square}'
    )
    assert "the right operand of m is not constant" in apply(lines, rewrite).trace.text()


def test_relu_becomes_an_attribute_of_the_product(apply: Callable[..., Any]) -> None:
    relu = f'%y = "top.Relu"(%m) : ({OUT}) -> {OUT} loc("y_Relu")\n'
    weights = {"w": np.linspace(-1, 1, 24).reshape(4, 6).astype(np.float32)}
    result = apply(PLAIN + relu + RETURN, FuseReluIntoProducer(), weights=weights)
    assert result.layers() == ["top.MatMul y_Relu"]


def attention(shape: str, order: str, moved: str, settings: str = "", more: str = "") -> str:
    """x times its own transposition."""
    kind, result, rows = f"tensor<{shape}xf32>", f"tensor<{moved}xf32>", "tensor<2x5x3x4xf32>"
    return (
        f'%x = "top.Input"(%arg0) : ({kind}) -> {kind} loc("x")\n'
        f'%q = "top.Permute"(%x) {{order = [0, 2, 1, 3]}} : ({kind}) -> {rows} loc("q")\n'
        f'%k = "top.Permute"(%x) {{order = [{order}]}} : ({kind}) -> {result} loc("k_Transpose")\n'
        f'%y = "top.MatMul"(%q, %k, %none){settings} : ({rows}, {result}, none) -> tensor<2x5x3x3xf32> loc("y")\n'
        f"return %y{', %k' if more else ''} : tensor<2x5x3x3xf32>{', ' + result if more else ''}"
    )


def test_transposed_keys_keep_their_rows_and_are_read_transposed(apply: Callable[..., Any]) -> None:
    result = apply(attention("2x3x5x4", "0, 2, 3, 1", "2x5x4x3"), FusePermuteIntoMatMul())
    assert result.layers() == ["top.Permute q", "top.Permute k_Transpose_r_Permute", "top.MatMul y"]
    assert "right_transpose = true" in result.text
    assert result.text.count("order = [0, 2, 1, 3]") == 2


def scaled(order: str, moved: str, constant: str = "1") -> str:
    """x times its own transposition by a constant."""
    mul = (
        f'%c = "top.Weight"() : () -> tensor<{constant}xf32> loc("c")\n'
        f'%s = "top.Mul"(%k, %c) : (tensor<{moved}xf32>, tensor<{constant}xf32>) -> tensor<{moved}xf32> loc("s_Mul")\n'
    )
    return attention("2x3x5x4", order, moved).replace('%y = "top.MatMul"(%q, %k', mul + '%y = "top.MatMul"(%q, %s')


def test_scaled_and_transposed_keys_are_scaled_as_they_lie(apply: Callable[..., Any]) -> None:
    result = apply(scaled("0, 2, 3, 1", "2x5x4x3"), FusePermuteIntoMatMul())
    assert result.layers() == ["top.Permute q", "top.Permute k_Transpose_r_Permute", "top.Mul s_Mul_r_Mul", "top.MatMul y"]
    assert result.text.count("tensor<2x5x3x4xf32> loc(") == 3


def test_keys_with_a_factor_for_each_stay_transposed(apply: Callable[..., Any]) -> None:
    assert "its right operand is no transposition" in apply(scaled("0, 2, 3, 1", "2x5x4x3", "4x1"), FusePermuteIntoMatMul()).trace.text()


def test_transposition_of_the_last_two_axes_vanishes(apply: Callable[..., Any]) -> None:
    kind, moved = "tensor<2x3x4xf32>", "tensor<2x4x3xf32>"
    lines = (
        f'%x = "top.Input"(%arg0) : ({kind}) -> {kind} loc("x")\n'
        f'%k = "top.Permute"(%x) {{order = [0, 2, 1]}} : ({kind}) -> {moved} loc("k")\n'
        f'%y = "top.MatMul"(%x, %k, %none) : ({kind}, {moved}, none) -> tensor<2x3x3xf32> loc("y")\nreturn %y : tensor<2x3x3xf32>'
    )
    result = apply(lines, FusePermuteIntoMatMul(), RemoveIdentityPermute())
    assert result.layers() == ["top.MatMul y"]


def test_transposition_of_a_transposed_operand_makes_it_plain(apply: Callable[..., Any]) -> None:
    settings = " {right_transpose = true}"
    result = apply(attention("2x3x5x4", "0, 2, 1, 3", "2x5x3x4", settings), FusePermuteIntoMatMul())
    assert "k_Transpose does not make rows of columns" in result.trace.text()
    kind, moved = "tensor<2x4x4xf32>", "tensor<2x4x4xf32>"
    lines = (
        f'%x = "top.Input"(%arg0) : ({kind}) -> {kind} loc("x")\n'
        f'%k = "top.Permute"(%x) {{order = [0, 2, 1]}} : ({kind}) -> {moved} loc("k")\n'
        f'%y = "top.MatMul"(%x, %k, %none){settings} : ({kind}, {moved}, none) -> {kind} loc("y")\nreturn %y : {kind}'
    )
    result = apply(lines, FusePermuteIntoMatMul())
    assert result.layers() == ["top.MatMul y"]
    assert "right_transpose = false" in result.text


def test_transposition_that_others_read_stays(apply: Callable[..., Any]) -> None:
    result = apply(attention("2x3x5x4", "0, 2, 3, 1", "2x5x4x3", more="k"), FusePermuteIntoMatMul())
    assert "k_Transpose is read 2 times" in result.trace.text()
