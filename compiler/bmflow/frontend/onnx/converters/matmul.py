"""Matrix products and layer normalization."""

from __future__ import annotations

import numpy as np

from bmflow.dialects.top.elementwise import TopAddOp
from bmflow.dialects.top.matmul import TopLayerNormOp, TopMatMulOp
from bmflow.dialects.top.shape import TopReshapeOp
from bmflow.frontend.onnx.fuse import LAYER_NORM
from bmflow.frontend.onnx.graph import Converter, Node, Unsupported
from bmflow.frontend.onnx.resolve import Shape
from bmflow.ir.attributes import Python
from bmflow.ir.values import SSAValue


def convert_matmul(node: Node) -> None:
    """MatMul -> top.MatMul; vectors become matrices of one row or column, between top.Reshape."""
    left, right, result = node.shape(0), node.shape(1), node.output_shape()
    if len(left) > 1 and len(right) > 1:
        node.bind(node.emit(TopMatMulOp, [node.value(0), node.value(1), node.none]))
        return
    if not result:
        raise Unsupported("the product of two vectors is a single number")
    operands = [_matrix(node, 0, (1, *left)), _matrix(node, 1, (*right, 1))]
    shape = (*result[: len(result) - (len(right) > 1)], *([1] if len(left) == 1 else []), *(result[-1:] if len(right) > 1 else [1]))
    product = node.emit(TopMatMulOp, [*operands, node.none], {}, shape, f"{node.name}_product")
    node.bind(node.emit(TopReshapeOp, [product], {"shape": list(result)}))


def _matrix(node: Node, index: int, shape: Shape) -> SSAValue:
    """An operand as it is, or a vector under the shape of a matrix."""
    if len(node.shape(index)) > 1:
        return node.value(index)
    side = ("left", "right")[index]
    if node.is_constant(index):
        return node.new_weight(side, node.constant(index, side).reshape(shape))
    return node.emit(TopReshapeOp, [node.value(index)], {"shape": list(shape)}, shape, f"{node.name}_{side}")


def convert_gemm(node: Node) -> None:
    """Gemm -> top.MatMul with alpha, beta and transB inside its constants; a top.Add behind where the addend is no vector of constants."""
    if node.int("transA"):
        raise Unsupported("transA; only its second matrix can be transposed")
    alpha, beta = node.float("alpha", 1.0), node.float("beta", 1.0)
    right, attributes = _gemm_right(node, alpha)
    columns = node.output_shape()[1]
    added = node.has(2) and beta != 0
    inside = added and node.is_constant(2) and node.shape(2)[-2:-1] in ((), (1,))
    bias = _gemm_bias(node, beta, columns) if inside else node.none
    name = f"{node.name}_product" if added and not inside else node.name
    product = node.emit(TopMatMulOp, [node.value(0), right, bias], attributes, name=name)
    if added and not inside:
        product = node.emit(TopAddOp, [product, node.value(2)], {} if beta == 1.0 else {"coeff": [1.0, beta]})
    node.bind(product)


def _gemm_right(node: Node, alpha: float) -> tuple[SSAValue, dict[str, Python]]:
    """The second matrix and attributes: constants take the factor and the transposition, computed ones can be transposed only."""
    transposed = bool(node.int("transB"))
    if not node.is_constant(1):
        if alpha != 1.0:
            raise Unsupported(f"alpha {alpha:g} with a computed second matrix")
        return node.value(1), {"right_transpose": transposed}
    if not transposed and alpha == 1.0:
        return node.value(1), {}
    array = node.constant(1, "its second matrix").astype(np.float64) * alpha
    return node.new_weight("right", array.T if transposed else array), {}


def _gemm_bias(node: Node, beta: float, columns: int) -> SSAValue:
    array = node.constant(2, "its addend")
    if beta == 1.0 and array.shape == (columns,):
        return node.value(2)
    return node.new_weight("bias", np.broadcast_to(array.astype(np.float64).reshape(-1) * beta, (columns,)))


def convert_layer_normalization(node: Node) -> None:
    """LayerNormalization (and the chain of nodes that is one) -> top.LayerNorm; scale and bias of the normalized shape."""
    if node.used(1) or node.used(2):
        raise Unsupported("its mean or its deviation is used, too; only its first output is supported")
    shape = node.shape()
    axis = node.int("axis", -1) % len(shape)
    size = shape[axis:]
    operands = [node.reshaped_weight(i, what, size) if node.has(i) else node.none for i, what in ((1, "its scale"), (2, "its bias"))]
    settings: dict[str, Python] = {"axis": axis, "normalized_shape": list(size), "eps": node.float("epsilon", 1e-5)}
    node.bind(node.emit(TopLayerNormOp, [node.value(), *operands], settings))


CONVERTERS: dict[str, Converter] = {
    "MatMul": convert_matmul,
    "Gemm": convert_gemm,
    LAYER_NORM: convert_layer_normalization,
}
