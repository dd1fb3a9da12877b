"""Writes tpu ops in front of the top op they replace: types, casts between types, constants of storage type.

Names follow existing files: a cast is `<producer><consumer>_<type>`, named after the first consumer that needs the type;
constants are `<layer>_<what>_<type>`, copies of a constant in another type `<weight>_<type>`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bmflow.dialects.tpu.convert import TpuCastOp
from bmflow.errors import CompileError
from bmflow.ir.attributes import Python
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.structure import TopNoneOp
from bmflow.ir.types import (
    CalibratedType,
    DType,
    Quantization,
    UniformType,
    dtype_of,
    float_type,
    is_none,
    quantization_of,
    shape_of,
    tensor_type,
)
from bmflow.ir.values import Attribute, SSAValue
from bmflow.numerics.formats import bf16_bits, f16_bits
from bmflow.passes.lowering.base import INT8, Analysis
from bmflow.passes.memory.lifetimes import is_activation
from bmflow.passes.rewrite import insert_before, producer

Element = DType | Attribute
FLOAT_TYPES = {"F32": DType.F32, "F16": DType.F16, "BF16": DType.BF16}

STORED_AS = {DType.I8: "i8", DType.U8: "u8"}
"""Ends of the names of 8-bit constants."""


class Writer:
    """Turns a copy of the top module into the lowered one, op by op in program order."""

    def __init__(self, module: Module, analysis: Analysis):
        """`module` is rewritten in place; `analysis` is of the module it was copied from."""
        self.module, self.analysis = module, analysis
        self.none = _none(module)
        self._casts: dict[tuple[SSAValue, DType], SSAValue] = {}
        self._weights: dict[str, SSAValue] = {}
        self._names = {op.layer_name for op in module.layers()}

    def element(self, op: LayerOp, compute: str) -> Element:
        """Element type of an op's result."""
        if compute == INT8:
            return uniform(self.analysis.quantization(op.layer_name))
        dtype, interval = FLOAT_TYPES[compute], self.analysis.interval(op.layer_name)
        return CalibratedType.get(interval.low, interval.high, float_type(dtype)) if interval else dtype

    def emit(
        self, op: LayerOp, kind: type[LayerOp], operands: Sequence[SSAValue], element: Element,
        attributes: Mapping[str, Python] | None = None, name: str = "", shape: Sequence[int] | None = None,
    ) -> SSAValue:  # fmt: skip
        """Write a tpu op; without `name` and `shape` it has those of the top op."""
        result = tensor_type(shape_of(op.results[0]) if shape is None else shape, element)
        return insert_before(op, kind.make(name or op.layer_name, operands, result, attributes)).results[0]

    def operand(self, op: LayerOp, value: SSAValue, compute: str) -> SSAValue:
        """An activation in the type `compute`, through a cast where it is of another one; a constant in the float type."""
        if is_none(value):
            return value
        if not is_activation(value):
            return self.float_weight(op, value, compute)
        source = dtype_of(value)
        if compute != INT8:
            dtype = FLOAT_TYPES[compute]
            return value if source is dtype else self._cast(op, value, dtype, dtype)
        if not source.is_float:
            return value
        quantization = self.analysis.quantization(layer_name(value))
        return self._cast(op, value, quantization.dtype, uniform(quantization, source))

    def _cast(self, op: LayerOp, value: SSAValue, dtype: DType, element: Element) -> SSAValue:
        if (value, dtype) not in self._casts:
            name = self.free_name(f"{layer_name(value)}{op.layer_name}_{dtype.value}")
            self._casts[value, dtype] = self.emit(op, TpuCastOp, [value], element, name=name, shape=shape_of(value))
        return self._casts[value, dtype]

    def free_name(self, name: str) -> str:
        """A layer name nobody has: `name`, or `name_1`, ..."""
        candidates = (f"{name}_{i}" if i else name for i in range(len(self._names) + 1))
        free = next(candidate for candidate in candidates if candidate not in self._names)
        self._names.add(free)
        return free

    def constant(self, op: LayerOp, name: str, array: np.ndarray, dtype: DType) -> SSAValue:
        """A new constant of storage type."""
        return self.module.new_weight(name, np.ascontiguousarray(array), dtype, op)

    def float_weight(self, op: LayerOp, value: SSAValue, compute: str) -> SSAValue:
        """A constant in a float type: itself in F32, else its rounded copy, one for all readers where only one op reads it.

        Raises:
            CompileError: a number is beyond what F16 holds.
        """
        if compute == "F32":
            return value
        dtype, weight = FLOAT_TYPES[compute], layer_name(value)
        shared = self.analysis.weight_readers[weight] > 1
        name = f"{op.layer_name if shared else ''}{weight}_{dtype.value}"
        if name not in self._weights:
            array = self.module.weight(value)
            bits = f16_bits(array) if dtype is DType.F16 else bf16_bits(array)
            stored = bits.view(np.float16) if dtype is DType.F16 else bits
            if dtype is DType.F16 and not np.isfinite(stored[np.isfinite(array)]).all():
                raise CompileError(
                    f"{op.layer_name}: its constant {weight} reaches {np.abs(array).max():g}, more than F16 holds; give it F32 or BF16"
                )
            self._weights[name] = self.constant(op, name, stored, dtype)
        return self._weights[name]


def uniform(quantization: Quantization, source: DType = DType.F32) -> UniformType:
    """The element type of an integer activation; `source` is the float type it was cast from."""
    return UniformType.get(quantization.dtype, quantization.scale, quantization.zero_point, float_type(source))


def quantized(value: SSAValue) -> Quantization:
    """Scale and zero point of an integer operand."""
    found = quantization_of(value)
    assert found is not None, f"{layer_name(value)} is no quantized integer"
    return found


def kept_attributes(op: LayerOp, quantized_form: bool = False) -> dict[str, Python]:
    """All attributes of a top op; an integer form clamps above by saturation alone."""
    attributes: dict[str, Python] = dict(op.attributes)
    if quantized_form and "relu_limit" in attributes:
        attributes["relu_limit"] = -1.0
    return attributes


def _none(module: Module) -> SSAValue:
    for op in module.block.ops:
        if isinstance(op, TopNoneOp):
            return op.output
    new, first = TopNoneOp.create(result_types=[TopNoneOp.RESULT]), module.block.first_op
    assert first is not None
    module.block.insert_op_before(new, first)
    return new.results[0]


def insert_behind(value: SSAValue, op: LayerOp) -> SSAValue:
    """Put an op right behind the one that makes `value`; returns its result."""
    source = producer(value)
    assert source is not None
    block = source.parent_block()
    assert block is not None
    block.insert_op_after(op, source)
    return op.results[0]
