"""From one number type or scale to another."""

from __future__ import annotations

import numpy as np

from bmflow.ir.types import DType
from bmflow.kernels.emission import Emission, Emitter
from bmflow.kernels.graph import FLOAT
from bmflow.kernels.lookup import map_bytes
from bmflow.kernels.requant import quantize
from bmflow.numerics.formats import to_bf16, to_f16
from bmflow.numerics.rounding import Rounding, rshift_round, saturate


def emit_cast(e: Emission) -> str:
    """One of the directions, by the types."""
    match e.held().is_float, e.result.is_float:
        case True, True:
            return e.rounded(e.input()) if e.held().dtype is not e.result.dtype else e.input()
        case True, False:
            return _emit_quantize(e)
        case False, True:
            return _emit_dequantize(e)
    raise e.refuse(f"of {e.held().dtype.value} to {e.result.dtype.value}")


def _in_type(value: np.ndarray | np.generic, dtype: DType) -> np.float32:
    """A float32 number as a float type holds it."""
    narrow = {DType.F16: to_f16, DType.BF16: to_bf16}.get(dtype, lambda a: a)
    return np.float32(narrow(np.asarray(value, np.float32)))


def _emit_quantize(e: Emission) -> str:
    """sat(round_half_away(x * 1/scale) + zp_y), reciprocal and product in the type of x; clamping before rounding is the same."""
    source, to = e.held().dtype, e.result
    product = e.node("Mul", e.input(), e.constant(_in_type(np.float32(1.0 / to.scale), source)))
    return quantize(e, e.rounded(product, source))


def _emit_dequantize(e: Emission) -> str:
    """scale * (x - zp_x); for 16-bit results the scale, the difference and the product are each rounded."""
    x, to = e.held(), e.result.dtype
    scale = _in_type(np.float32(x.scale), to)
    if to is DType.F32 and x.numpy == np.uint8:
        return e.node("DequantizeLinear", e.input(), e.constant(scale), e.constant(np.uint8(x.zero)))
    if x.numpy == np.uint8:
        difference = e.node("DequantizeLinear", e.input(), e.constant(np.float32(1)), e.constant(np.uint8(x.zero)))
    else:
        difference = e.node("Cast", e.node("Sub", e.input(), e.constant(np.int32(x.zero))), to=FLOAT)
    return e.rounded(e.node("Mul", e.rounded(difference), e.constant(scale)))


def emit_mul_shift(e: Emission) -> str:
    """Half up."""
    return _emit_rescale(e, Rounding.HALF_UP)


def emit_requant_int(e: Emission) -> str:
    """Half away from zero."""
    return _emit_rescale(e, Rounding.HALF_AWAY)


def _emit_rescale(e: Emission, rounding: Rounding) -> str:
    x, y = e.held(), e.result
    e.require(not x.is_float and not y.is_float, "on floats")
    product = (x.stored() - x.zero_point) * e.integer("multiplier")
    return map_bytes(e, saturate(rshift_round(product, e.integer("rshift"), rounding) + y.zero_point, *y.dtype.limits))


EMITTERS: dict[str, Emitter] = {
    "tpu.Cast": emit_cast,
    "tpu.MulShift": emit_mul_shift,
    "tpu.RequantInt": emit_requant_int,
}
