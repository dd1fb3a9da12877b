"""A linear op behind a matrix product, y = x * scale + shift with one shift per column, folded into its right operand and bias.

Products are computed in float64 and rounded once.
"""

from __future__ import annotations

import numpy as np

from bmflow.dialects.top.matmul import TopMatMulOp
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.structure import TopWeightOp
from bmflow.ir.types import DType, is_none, shape_of
from bmflow.ir.values import SSAValue
from bmflow.passes.fusion.linear import split_constant
from bmflow.passes.rewrite import insert_before, merge_into, producer, replace, single_user


def check_constant_operand(op: LayerOp, module: Module) -> str:
    """Say why an Add or Mul is no linear op by one number per column behind a product with a constant matrix; empty when it is.

    What is added to the product of two computed matrices stays: scores of attention and their mask have nothing in common but a shape.
    """
    operands = split_constant(op)
    if operands is None:
        return "it has not exactly one constant operand"
    if reason := _foldable(operands[0]):
        return reason
    if per_column(module, operands[1], op.results[0]) is None or shape_of(operands[0]) != shape_of(op.results[0]):
        return f"the constant {layer_name(operands[1])} is not one number per column"
    return ""


def _foldable(value: SSAValue) -> str:
    matmul = producer(value)
    if not isinstance(matmul, TopMatMulOp):
        return "its input is no matrix product"
    if matmul["do_relu"]:
        return f"{matmul.layer_name} ends in a relu"
    if not isinstance(producer(matmul.right), TopWeightOp):
        return f"the right operand of {matmul.layer_name} is not constant"
    if not is_none(matmul.bias) and not isinstance(producer(matmul.bias), TopWeightOp):
        return f"the bias of {matmul.layer_name} is not constant"
    return single_user(value)


def per_column(module: Module, constant: SSAValue, result: SSAValue) -> np.ndarray | None:
    """A constant that broadcasts over all but the last axis of `result` (..., n), as (n) float64; else None."""
    columns, array = shape_of(result)[-1], module.weight(constant).astype(np.float64)
    if array.size not in (1, columns) or array.size != array.shape[-1]:
        return None
    return np.broadcast_to(array.ravel(), (columns,))


def fold_into_matmul(module: Module, op: LayerOp, scale: float = 1.0, shift: np.ndarray | None = None) -> None:
    """Replace `op`, which computes activation * scale + shift (n), by the matrix product that makes the activation.

    Requires: `check_constant_operand` has no objection.
    """
    operands = split_constant(op)
    old = producer(operands[0]) if operands else None
    assert isinstance(old, TopMatMulOp)
    right, bias = old.right, old.bias
    if scale != 1.0:
        right = _constant(module, op, "right", module.weight(right).astype(np.float64) * scale)
    if shift is not None or (scale != 1.0 and not is_none(bias)):
        present = np.zeros(1) if is_none(bias) else module.weight(bias).astype(np.float64) * scale
        bias = _constant(module, op, "bias", present if shift is None else present + shift)
    relu = {name: op[name] for name in ("do_relu", "relu_limit")}
    new = TopMatMulOp.make(op.layer_name, [old.input, right, bias], op.results[0].type, old.settings() | relu)
    insert_before(op, new)
    replace(old, new.results[0])
    merge_into(op, new)


def _constant(module: Module, op: LayerOp, what: str, array: np.ndarray) -> SSAValue:
    return module.new_weight(f"{op.layer_name}_{what}", array.astype(np.float32), DType.F32, op)
