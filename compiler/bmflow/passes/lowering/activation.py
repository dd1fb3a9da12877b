"""Relu, Sigmoid, SiLU, GELU and Softmax: tables of 256 entries for integers, F32 or half types otherwise (quantization notes, 7.4 and 9.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from bmflow.dialects.top.elementwise import TopGELUOp, TopReluOp, TopScaledActiveOp, TopSigmoidOp, TopSiLUOp, TopSoftmaxOp
from bmflow.dialects.tpu.compute import TpuActiveOp, TpuLutOp, TpuReluOp, TpuScaledActiveOp, TpuSoftmaxOp
from bmflow.dialects.tpu.shape import TpuReshapeOp
from bmflow.ir.attributes import ActiveMode, Python, enum_attribute, si32
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.types import DType, Quantization, dtype_of, element_of, quantization_of, shape_of
from bmflow.ir.values import SSAValue
from bmflow.numerics.rounding import Rounding, round_real
from bmflow.passes.lowering.base import FLOATS, INT8, Analysis, Lowering
from bmflow.passes.lowering.writer import FLOAT_TYPES, Writer, kept_attributes, quantized, uniform
from bmflow.passes.memory.lifetimes import is_activation
from bmflow.target import Target

Function = Callable[[np.ndarray], np.ndarray]
TABLE_SHAPE = (1, 1, 1, 256)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) in float64."""
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-x))


def silu(x: np.ndarray) -> np.ndarray:
    """x / (1 + exp(-x)) in float64."""
    with np.errstate(over="ignore"):
        return x / (1.0 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    """x / 2 * (1 + erf(x / sqrt(2))) in float64."""
    return x / 2 * (1.0 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)))


FUNCTIONS: dict[str, Function] = {"SILU": silu, "SIGMOID": sigmoid}


def lookup_table(function: Function, source: Quantization, to: Quantization) -> np.ndarray:
    """256 integers of type `to`, at the raw byte of every input: round_half_away(f((i - zp_x) * s_x) / s_y + zp_y), clamped.

    A function that gives (c, 256) for 256 inputs makes c tables.
    """
    low, high = source.dtype.limits
    inputs = np.arange(low, high + 1)
    outputs = round_real(function((inputs - source.zero_point) * source.scale) / to.scale + to.zero_point, Rounding.HALF_AWAY)
    table = np.empty(outputs.shape, to.dtype.numpy)
    table[..., inputs & 0xFF] = np.clip(outputs, *to.dtype.limits).astype(to.dtype.numpy)
    return table


def exponential_table(scale: float, beta: float) -> np.ndarray:
    """float32 exp(-scale * d * beta) for the distances d = 0..255 to the largest value."""
    return np.exp(-scale * np.arange(256) * beta).astype(np.float32)


class LowerReluInt8(Lowering):
    """Relu(x) -> Relu(x) in the type of x, which has no zero point."""

    pattern = TopReluOp
    computes = {INT8: INT8}

    def check(self, op: LayerOp, analysis: Analysis) -> str:
        """See `Lowering.check`."""
        return "by itself it has no form with zero points" if layer_name(op.operands[0]) in analysis.asymmetric else ""

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        x = writer.operand(op, op.operands[0], INT8)
        return writer.emit(op, TpuReluOp, [x], uniform(quantized(x)), kept_attributes(op, quantized_form=True))


class LowerReluFloat(Lowering):
    """Relu(x) -> Relu(x) in a float type."""

    pattern = TopReluOp
    computes = FLOATS | {INT8: "F32"}

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        x = writer.operand(op, op.operands[0], compute)
        return writer.emit(op, TpuReluOp, [x], writer.element(op, compute), kept_attributes(op))


class _LowerByTable(Lowering):
    """f(x) -> Lut(x, table)."""

    computes = {INT8: INT8}
    function: ClassVar[Function]

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        x, to = writer.operand(op, op.operands[0], INT8), writer.analysis.quantization(op.layer_name)
        table = lookup_table(type(self).function, quantized(x), to)
        constant = writer.constant(op, f"{op.layer_name}_table", table.reshape(TABLE_SHAPE), to.dtype)
        return writer.emit(op, TpuLutOp, [x, constant], writer.element(op, INT8))


class LowerSigmoidInt8(_LowerByTable):
    """Sigmoid(x) -> Lut(x, table)."""

    pattern = TopSigmoidOp
    function = staticmethod(sigmoid)


class LowerSiLUInt8(_LowerByTable):
    """SiLU(x) -> Lut(x, table)."""

    pattern = TopSiLUOp
    function = staticmethod(silu)


class LowerGELUInt8(_LowerByTable):
    """GELU(x) -> Lut(x, table)."""

    pattern = TopGELUOp
    function = staticmethod(gelu)

    def check(self, op: LayerOp, analysis: Analysis) -> str:
        """See `Lowering.check`."""
        return _approximation(op)


class _LowerActive(Lowering):
    """f(x) -> Active(x, mode), computed in F32 whatever float type is asked for.

    Half types are read and written as they are stored, without the casts around an F32 Active that give the same numbers in three passes.
    Integers and what leaves the network stay F32, which a half type would round once more.
    """

    computes = FLOATS
    mode: ClassVar[str]

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        x = op.operands[0]
        if dtype_of(x) is not FLOAT_TYPES[compute] or op.layer_name in writer.analysis.module.output_names:
            compute = "F32"
        mode = {"mode": enum_attribute(ActiveMode, self.mode)}
        return writer.emit(op, TpuActiveOp, [writer.operand(op, x, compute)], writer.element(op, compute), mode)


class LowerSigmoidFloat(_LowerActive):
    """Sigmoid(x) -> Active(x, SIGMOID)."""

    pattern = TopSigmoidOp
    mode = "SIGMOID"


class LowerSiLUFloat(_LowerActive):
    """SiLU(x) -> Active(x, SILU)."""

    pattern = TopSiLUOp
    mode = "SILU"


class LowerGELUFloat(_LowerActive):
    """GELU(x) -> Active(x, GELU)."""

    pattern = TopGELUOp
    mode = "GELU"

    def check(self, op: LayerOp, analysis: Analysis) -> str:
        """See `Lowering.check`."""
        return _approximation(op)


def _approximation(op: LayerOp) -> str:
    return "" if op["approx_mode"] == "normal" else f"its approximation {op['approx_mode']} is not supported"


class _LowerScaledActive(Lowering):
    pattern = TopScaledActiveOp

    def check(self, op: LayerOp, analysis: Analysis) -> str:
        """See `Lowering.check`."""
        if op["mode"] not in FUNCTIONS:
            return f"its function {op['mode']} is none of {', '.join(FUNCTIONS)}"
        return "its scales are not constant" if any(is_activation(value) for value in op.operands[1:]) else ""


class LowerScaledActiveInt8(_LowerScaledActive):
    """ScaledActive(x; s, z, t) -> Lut(x, one table per channel)."""

    computes = {INT8: INT8}

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        x, to = writer.operand(op, op.operands[0], INT8), writer.analysis.quantization(op.layer_name)
        scale_in, shift_in, scale_out = (writer.module.weight(value).astype(np.float64).reshape(-1, 1) for value in op.operands[1:])
        function = FUNCTIONS[str(op["mode"])]
        table = lookup_table(lambda v: function(v * scale_in + shift_in) * scale_out, quantized(x), to)
        constant = writer.constant(op, f"{op.layer_name}_table", table.reshape(1, -1, 1, 256), to.dtype)
        return writer.emit(op, TpuLutOp, [x, constant], writer.element(op, INT8))


class LowerScaledActiveFloat(_LowerScaledActive):
    """ScaledActive(x; s, z, t) -> ScaledActive(x; s, z, t), computed in F32 from x as it is stored to what its readers want.

    Fewer channels than lanes: between reshapes that cut h into as many parts as fit, the last of which has the op's name.
    """

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        x = op.operands[0]
        scale_in, shift_in, scale_out = (writer.module.weight(value).astype(np.float64) for value in op.operands[1:])
        if source := quantization_of(x):
            scale_in, shift_in = scale_in * source.scale, shift_in - scale_in * source.scale * source.zero_point
        element = writer.element(op, compute)
        if op.layer_name in writer.analysis.narrow:
            to = writer.analysis.quantization(op.layer_name)
            element, scale_out = uniform(to), scale_out / to.scale
        mode, shape = {"mode": enum_attribute(ActiveMode, str(op["mode"]))}, shape_of(op.results[0])
        parts = _parts(shape, writer.analysis.options.target)
        numbers = {"scale_in": scale_in, "shift_in": shift_in, "scale_out": scale_out}
        weights = [
            writer.constant(op, f"{op.layer_name}_{name}_f32", array.repeat(parts, axis=1).astype(np.float32), DType.F32)
            for name, array in numbers.items()
        ]
        if parts == 1:
            return writer.emit(op, TpuScaledActiveOp, [x, *weights], element, mode)
        n, c, h, w = shape
        cut = (n, c * parts, h // parts, w)
        before, inner = writer.free_name(f"{layer_name(x)}_reshape"), writer.free_name(f"{op.layer_name}__active")
        x = writer.emit(op, TpuReshapeOp, [x], element_of(x), {"shape": list(cut)}, before, cut)
        y = writer.emit(op, TpuScaledActiveOp, [x, *weights], element, mode, inner, cut)
        return writer.emit(op, TpuReshapeOp, [y], element, {"shape": list(shape)})


def _parts(shape: tuple[int, ...], target: Target) -> int:
    """Into how many parts h is cut so that the channels times the parts come close to the number of lanes, but not beyond."""
    assert target.memory is not None, "lowering is refused for processors without a memory description"
    return max(d for d in range(1, max(target.memory.lanes // shape[1], 1) + 1) if shape[2] % d == 0)


class LowerSoftmaxInt8(Lowering):
    """Softmax(x) -> Softmax(x, table of exp); lower ranks between reshapes to rank 4, the last of which has the op's name."""

    pattern = TopSoftmaxOp
    computes = {INT8: INT8}

    def check(self, op: LayerOp, analysis: Analysis) -> str:
        """See `Lowering.check`."""
        if op["axis"] != 1:
            return f"as integers only over the channel axis 1, not over axis {op['axis']}"
        if len(shape_of(op.operands[0])) > 4:
            return f"as integers only up to 4 dimensions, not {len(shape_of(op.operands[0]))}"
        return "a logarithm of it has no integer form" if op["log"] else ""

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        x, element = writer.operand(op, op.operands[0], INT8), writer.element(op, INT8)
        source, shape = quantized(x), shape_of(op.results[0])
        table = writer.constant(op, f"{op.layer_name}_table", exponential_table(source.scale, _beta(op)).reshape(TABLE_SHAPE), DType.F32)
        rank4 = (*shape, 1, 1, 1)[:4]
        if len(shape) == 4:
            return writer.emit(op, TpuSoftmaxOp, [x, table, *[writer.none] * 4], element, _softmax_attributes(op))
        before = writer.free_name(f"{layer_name(op.operands[0])}_reshape")
        x = writer.emit(op, TpuReshapeOp, [x], uniform(source), {"shape": list(rank4)}, before, rank4)
        inner = writer.free_name(f"{op.layer_name}__softmax")
        y = writer.emit(op, TpuSoftmaxOp, [x, table, *[writer.none] * 4], element, _softmax_attributes(op), inner, rank4)
        return writer.emit(op, TpuReshapeOp, [y], element, {"shape": list(shape)})


class LowerSoftmaxFloat(Lowering):
    """Softmax(x) -> Softmax(x) in the float type asked for."""

    pattern = TopSoftmaxOp
    computes = FLOATS | {INT8: "F16"}

    def check(self, op: LayerOp, analysis: Analysis) -> str:
        """See `Lowering.check`."""
        memory, axis = analysis.options.target.memory, op["axis"]
        assert memory is not None, "lowering is refused for processors without a memory description"
        assert isinstance(axis, int)
        length, limit = shape_of(op.operands[0])[axis], memory.bank_bytes // 2
        return f"an axis of {length} elements exceeds {limit}, half a bank of local memory" if length > limit else ""

    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """See `Lowering.lower`."""
        x = writer.operand(op, op.operands[0], compute)
        return writer.emit(op, TpuSoftmaxOp, [x, *[writer.none] * 5], writer.element(op, compute), _softmax_attributes(op))


class LowerSoftmaxF32(LowerSoftmaxFloat):
    """Softmax(x) -> Softmax(x) in F32, whatever float type is asked for."""

    computes: ClassVar[Mapping[str, str]] = dict.fromkeys((*FLOATS, INT8), "F32")

    def check(self, op: LayerOp, analysis: Analysis) -> str:
        """See `Lowering.check`."""
        return ""


def _beta(op: LayerOp) -> float:
    beta = op["beta"]
    assert isinstance(beta, float)
    return beta


def _softmax_attributes(op: LayerOp) -> dict[str, Python]:
    axis = op["axis"]
    assert isinstance(axis, int)
    return {"axis": si32(axis), "log": op["log"], "beta": _beta(op)}


LOWERINGS = (
    LowerReluInt8(), LowerReluFloat(),
    LowerSigmoidInt8(), LowerSigmoidFloat(),
    LowerSiLUInt8(), LowerSiLUFloat(),
    LowerGELUInt8(), LowerGELUFloat(),
    LowerScaledActiveInt8(), LowerScaledActiveFloat(),
    LowerSoftmaxInt8(), LowerSoftmaxFloat(), LowerSoftmaxF32(),
)  # fmt: skip
