"""Element by element: sums, products, relu and the smooth activations."""

from __future__ import annotations

from functools import reduce
from math import prod

import numpy as np

from bmflow.ir.types import is_none, shape_of
from bmflow.kernels.emission import Emission, Emitter
from bmflow.kernels.graph import DOUBLE, FLOAT
from bmflow.kernels.lookup import look_up, map_bytes
from bmflow.kernels.requant import narrow, quantize, requantize
from bmflow.numerics.rounding import rshift_round, saturate

_EXACT_FLOAT, _EXACT_DOUBLE, _TERM = 1 << 24, 1 << 53, 1 << 27


def emit_add(e: Emission) -> str:
    """Weighted sum."""
    return _emit_float_add(e) if e.result.is_float else _emit_integer_add(e)


def _emit_float_add(e: Emission) -> str:
    coefficients = e.op["coeff"] or [1.0] * len(e.op.operands)
    assert isinstance(coefficients, list)
    terms = [x if c == 1.0 else e.node("Mul", x, e.constant(np.float32(c))) for c, x in zip(coefficients, e.inputs, strict=True)]
    return e.finish(reduce(lambda x, y: e.node("Add", x, y), terms))


def _emit_integer_add(e: Emission) -> str:
    """Each term is a function of one integer: a table, or a constant; the zero point rides on the first."""
    multipliers, rshifts = e.ints("multipliers"), e.ints("rshifts")
    e.require(len(multipliers) == len(rshifts) == len(e.op.operands), "with a list of multipliers or rshifts of another length")
    zeros = [e.result.zero] + [0] * (len(multipliers) - 1)
    terms = [_term(e, i, *form) for i, form in enumerate(zip(multipliers, rshifts, zeros, strict=True))]
    return narrow(e, reduce(lambda x, y: e.node("Add", x, y), terms))


def _term(e: Emission, index: int, multiplier: int, rshift: int, zero: int) -> str:
    x, array = e.held(index), e.weight(index)
    stored = x.stored() if array is None else array.astype(np.int64)
    values = rshift_round((stored - x.zero_point) * multiplier, rshift) + zero
    e.require(int(np.abs(values).max()) < _TERM, f"with a term of {multiplier} / 2^{rshift} times its operand")
    return look_up(e, index, values) if array is None else e.constant(values.astype(np.int32))


def emit_mul(e: Emission) -> str:
    """Product; integers exactly in the narrowest float type that holds it."""
    if e.result.is_float:
        return e.finish(reduce(lambda x, y: e.node("Mul", x, y), e.inputs))
    count = len(e.op.operands)
    bound = prod(e.held(i).reach for i in range(count))
    e.require(bound < _EXACT_DOUBLE, f"of {count} integer tensors")
    factors = [_centred(e, i, FLOAT if bound < _EXACT_FLOAT else DOUBLE) for i in range(count)]
    product = reduce(lambda x, y: e.node("Mul", x, y), factors)
    return requantize(e, product, [bound], [e.integer("multiplier")], [e.integer("rshift")], [0])


def _centred(e: Emission, index: int, to: int) -> str:
    """x - zp_x as a float."""
    x, array = e.held(index), e.weight(index)
    if array is not None:
        return e.constant(array.astype(np.float32 if to == FLOAT else np.float64))
    if x.numpy == np.uint8:
        real = e.node("DequantizeLinear", e.input(index), e.constant(np.float32(1)), e.constant(np.uint8(x.zero)))
    else:
        real = e.node("Cast", e.node("Sub", e.input(index), e.constant(np.int32(x.zero))), to=FLOAT)
    return real if to == FLOAT else e.node("Cast", real, to=DOUBLE)


def emit_relu(e: Emission) -> str:
    """max(x, 0); integers keep their value where the result can store it."""
    if e.result.is_float:
        return e.rounded(e.clamped(e.input()))
    x = e.held()
    e.require(x.zero_point == e.result.zero_point == 0, "with a zero point")
    return map_bytes(e, saturate(np.maximum(x.stored(), 0), *e.result.dtype.limits))


def emit_sigmoid(e: Emission) -> str:
    """1 / (1 + exp(-x))."""
    return e.finish(e.node("Sigmoid", e.input()))


def emit_silu(e: Emission) -> str:
    """x / (1 + exp(-x))."""
    return e.finish(e.node("Mul", e.input(), e.node("Sigmoid", e.input())))


def emit_gelu(e: Emission) -> str:
    """x / 2 * (1 + erf(x / sqrt(2)))."""
    e.require("approx_mode" not in e.op.DEFAULTS or e.op["approx_mode"] == "normal", "in an approximation")
    return e.finish(e.node("Gelu", e.input()))


def emit_active(e: Emission) -> str:
    """tpu.Active by its mode."""
    e.require(e.result.is_float and e.held().is_float, "on integers")
    modes: dict[object, Emitter] = {"SIGMOID": emit_sigmoid, "SILU": emit_silu, "GELU": emit_gelu}
    mode = e.op["mode"]
    e.require(mode in modes, f"of mode {mode}")
    return modes[mode](e)


def emit_lut(e: Emission) -> str:
    """tpu.Lut: table[raw byte], or tables[channel][raw byte]."""
    table = e.weight(1)
    e.require(table is not None and not is_none(e.op.operands[1]) and table.shape[-1] == 256, "without a constant table of 256 entries")
    e.require(e.held().numpy == np.uint8 and e.result.numpy == np.uint8, "on other types than 8-bit integers")
    assert table is not None
    if table.size > 256:
        channels = shape_of(e.op.operands[0])[1]
        e.require(table.size == 256 * channels, f"with tables for {table.size // 256} of {channels} channels")
    tables = table.reshape(-1, 256) if table.size > 256 else table.reshape(-1)
    return map_bytes(e, tables[..., e.held().stored() & 0xFF].astype(e.result.dtype.numpy))


def emit_scaled_active(e: Emission) -> str:
    """f(x * scale_in + shift_in) * scale_out."""
    x, scale_in, shift_in, scale_out = e.inputs
    if not e.held().is_float:
        x = e.node("Sub", e.node("Cast", x, to=FLOAT), e.constant(np.float32(e.held().offset)))
    argument = e.node("Add", e.node("Mul", x, scale_in), shift_in)
    sigmoid = e.node("Sigmoid", argument)
    value = e.node("Mul", argument, sigmoid) if e.op["mode"] == "SILU" else sigmoid
    product = e.node("Mul", value, scale_out)
    return e.finish(product) if e.result.is_float else quantize(e, product)


EMITTERS: dict[str, Emitter] = {
    "top.Add": emit_add,
    "top.Mul": emit_mul,
    "top.Relu": emit_relu,
    "top.Sigmoid": emit_sigmoid,
    "top.SiLU": emit_silu,
    "top.GELU": emit_gelu,
    "top.ScaledActive": emit_scaled_active,
    "tpu.Add": emit_add,
    "tpu.Mul": emit_mul,
    "tpu.Relu": emit_relu,
    "tpu.Active": emit_active,
    "tpu.ScaledActive": emit_scaled_active,
    "tpu.Lut": emit_lut,
}
