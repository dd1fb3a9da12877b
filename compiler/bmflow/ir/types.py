"""Element types of the IR: MLIR's quant types, and plain-Python readings of a tensor's type.

`!quant.calibrated<f32<min:max>>` is a float activation with a calibrated range; `!quant.uniform<i8:f32, scale:zp>`
an integer one, whose real value is `(q - zp) * scale`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from xdsl.dialects.builtin import (
    BFloat16Type,
    Float16Type,
    Float32Type,
    FloatAttr,
    IntAttr,
    IntegerType,
    NoneType,
    Signedness,
    TensorType,
    bf16,
    f16,
    f32,
    f64,
)
from xdsl.ir import Attribute, Dialect, ParametrizedAttribute, SSAValue, TypeAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.parser import AttrParser
from xdsl.printer import Printer

FloatType = Float32Type | Float16Type | BFloat16Type


class DType(Enum):
    """How one element is stored; the value is the suffix users know from layer names."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    I8 = "si8"
    U8 = "ui8"
    I16 = "si16"
    U16 = "ui16"
    I32 = "si32"
    U32 = "ui32"

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return {"8": 1, "6": 2, "2": 4}[self.value[-1]]

    @property
    def is_float(self) -> bool:
        """Whether this is F32, F16 or BF16."""
        return self in (DType.F32, DType.F16, DType.BF16)

    @property
    def signed(self) -> bool:
        """Whether negative numbers can be stored."""
        return self.is_float or self.value.startswith("s")

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer of an integer type."""
        bits = 8 * self.itemsize
        return (-(1 << bits - 1), (1 << bits - 1) - 1) if self.signed else (0, (1 << bits) - 1)

    @property
    def numpy(self) -> np.dtype:
        """The array type whose values kernels and npz files use; F16 and BF16 values travel as float32."""
        if self.is_float:
            return np.dtype(np.float32)
        return np.dtype(f"{'int' if self.signed else 'uint'}{8 * self.itemsize}")


@irdl_attr_definition
class CalibratedType(ParametrizedAttribute, TypeAttribute):
    """`!quant.calibrated<f32<min:max>>`: a float with the range seen in calibration, real units."""

    name = "quant.calibrated"
    expressed: Attribute = param_def()
    low: FloatAttr = param_def()
    high: FloatAttr = param_def()

    @staticmethod
    def get(low: float, high: float, expressed: FloatType = f32) -> CalibratedType:
        """Build the type; `low <= high`."""
        return CalibratedType(expressed, FloatAttr(low, f64), FloatAttr(high, f64))

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            expressed = parser.parse_type()
            with parser.in_angle_brackets():
                low = parser.parse_number()
                parser.parse_punctuation(":")
                high = parser.parse_number()
        return [expressed, FloatAttr(float(low), f64), FloatAttr(float(high), f64)]

    def print_parameters(self, printer: Printer) -> None:
        printer.print_string("<")
        printer.print_attribute(self.expressed)
        printer.print_string(f"<{float_text(self.low.value.data)}:{float_text(self.high.value.data)}>>")


@irdl_attr_definition
class UniformType(ParametrizedAttribute, TypeAttribute):
    """`!quant.uniform<i8:f32, scale:zero_point>`; storage `i8` -128..127 or `u8` 0..255 (16 bits alike)."""

    name = "quant.uniform"
    storage: IntegerType = param_def()
    expressed: Attribute = param_def()
    scale: FloatAttr = param_def()
    zero_point: IntAttr = param_def()

    @staticmethod
    def get(dtype: DType, scale: float, zero_point: int = 0, expressed: FloatType = f32) -> UniformType:
        """Build the type from an integer `dtype`, the real value of one step, and the integer that means zero."""
        sign = Signedness.SIGNED if dtype.signed else Signedness.UNSIGNED
        return UniformType(IntegerType(8 * dtype.itemsize, sign), expressed, FloatAttr(scale, f64), IntAttr(zero_point))

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            word = parser.parse_identifier("storage type such as i8 or u8")
            if word[0] not in "iu" or word[1:] not in ("8", "16"):
                parser.raise_error(f"storage type must be i8, u8, i16 or u16, found {word}")
            parser.parse_punctuation(":")
            expressed = parser.parse_type()
            parser.parse_punctuation(",")
            scale = parser.parse_number()
            zero_point = parser.parse_integer() if parser.parse_optional_punctuation(":") else 0
        sign = Signedness.SIGNED if word[0] == "i" else Signedness.UNSIGNED
        return [IntegerType(int(word[1:]), sign), expressed, FloatAttr(float(scale), f64), IntAttr(zero_point)]

    def print_parameters(self, printer: Printer) -> None:
        letter = "i" if self.storage.signedness.data is Signedness.SIGNED else "u"
        printer.print_string(f"<{letter}{self.storage.width.data}:")
        printer.print_attribute(self.expressed)
        zero_point = f":{self.zero_point.data}" if self.zero_point.data else ""
        printer.print_string(f", {float_text(self.scale.value.data)}{zero_point}>")


Quant = Dialect("quant", [], [CalibratedType, UniformType])


@dataclass(frozen=True)
class Quantization:
    """Plain reading of a UniformType: real = (q - zero_point) * scale."""

    dtype: DType
    scale: float
    zero_point: int = 0


def float_text(value: float) -> str:
    """Write a float so that MLIR's lexer takes it (a dot is required) and the value survives the round trip."""
    text = repr(float(value))
    mantissa, _, exponent = text.partition("e")
    mantissa = mantissa if "." in mantissa else mantissa + ".0"
    return f"{mantissa}e{exponent}" if exponent else mantissa


_ELEMENTS: dict[DType, Attribute] = {
    DType.F32: f32, DType.F16: f16, DType.BF16: bf16,
    DType.I8: IntegerType(8, Signedness.SIGNED), DType.U8: IntegerType(8, Signedness.UNSIGNED),
    DType.I16: IntegerType(16, Signedness.SIGNED), DType.U16: IntegerType(16, Signedness.UNSIGNED),
    DType.I32: IntegerType(32), DType.U32: IntegerType(32, Signedness.UNSIGNED),
}  # fmt: skip


def float_type(dtype: DType) -> FloatType:
    """The MLIR type of a float `dtype`, for `CalibratedType.get` and `UniformType.get`."""
    element = _ELEMENTS[dtype]
    assert isinstance(element, FloatType)
    return element


def tensor_type(shape: Sequence[int], element: DType | Attribute = DType.F32) -> TensorType:
    """Build `tensor<...>` from a shape and either a plain element kind or a quant type."""
    return TensorType(_ELEMENTS[element] if isinstance(element, DType) else element, list(shape))


def with_shape(value_type: Attribute, shape: Sequence[int]) -> TensorType:
    """The same element type with another shape."""
    assert isinstance(value_type, TensorType)
    return TensorType(value_type.element_type, list(shape))


def is_none(value: SSAValue) -> bool:
    """Whether a value is the placeholder of an absent operand (the result of top.None)."""
    return isinstance(value.type, NoneType)


def shape_of(value: SSAValue) -> tuple[int, ...]:
    """Shape of a tensor value."""
    assert isinstance(value.type, TensorType), f"not a tensor: {value.type}"
    return value.type.get_shape()


def element_of(value: SSAValue) -> Attribute:
    """Element type of a tensor value (a float, an integer or a quant type)."""
    assert isinstance(value.type, TensorType), f"not a tensor: {value.type}"
    return value.type.element_type


def dtype_of(value: SSAValue) -> DType:
    """How the elements of a tensor value are stored; a calibrated float counts as its float type."""
    element = element_of(value)
    if isinstance(element, CalibratedType):
        element = element.expressed
    if isinstance(element, UniformType):
        element = element.storage
    for dtype, known in _ELEMENTS.items():
        if element == known:
            return dtype
    if isinstance(element, IntegerType):
        return DType(("ui" if element.signedness.data is Signedness.UNSIGNED else "si") + str(element.width.data))
    raise AssertionError(f"no storage type for {element}")


def quantization_of(value: SSAValue) -> Quantization | None:
    """Scale and zero point of an integer activation; None for floats and plain integers."""
    element = element_of(value)
    if not isinstance(element, UniformType):
        return None
    return Quantization(dtype_of(value), element.scale.value.data, element.zero_point.data)


def range_of(value: SSAValue) -> tuple[float, float] | None:
    """Calibrated (min, max) in real units; None when the value is not calibrated."""
    element = element_of(value)
    return (element.low.value.data, element.high.value.data) if isinstance(element, CalibratedType) else None
