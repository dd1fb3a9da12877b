"""Attributes as plain Python values: bool, int, float, str, lists of them, and MLIR enums such as `#tpu<rq_mode X>`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

from xdsl.dialects.builtin import ArrayAttr, BoolAttr, FloatAttr, IntegerAttr, IntegerType, Signedness, StringAttr, f64, i64
from xdsl.ir import Attribute, OpaqueSyntaxAttribute, ParametrizedAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.parser import AttrParser
from xdsl.printer import Printer

Python: TypeAlias = "bool | int | float | str | list[bool] | list[int] | list[float] | list[str] | Attribute"
_SI32 = IntegerType(32, Signedness.SIGNED)


def _tpu_enum(kind: str) -> type[ParametrizedAttribute]:
    """Make the attribute class of `#tpu<kind Word>`."""

    @irdl_attr_definition
    class TpuEnum(ParametrizedAttribute, OpaqueSyntaxAttribute):
        name = f"tpu.{kind}"
        word: StringAttr = param_def()

        @classmethod
        def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
            return [StringAttr(parser.parse_identifier(f"{kind} name"))]

        def print_parameters(self, printer: Printer) -> None:
            printer.print_string(f" {self.word.data}")

    return TpuEnum


RequantMode = _tpu_enum("rq_mode")
PoolMode = _tpu_enum("pool_mode")
ActiveMode = _tpu_enum("active_mode")
RoundMode = _tpu_enum("round_mode")
TPU_ENUMS = (RequantMode, PoolMode, ActiveMode, RoundMode)


def enum_attribute(kind: type[ParametrizedAttribute], word: str) -> Attribute:
    """Build an enum attribute, e.g. `enum_attribute(PoolMode, "Avg")` for `#tpu<pool_mode Avg>`."""
    return kind(StringAttr(word))


def si32(value: int) -> Attribute:
    """An integer attribute printed as `57 : si32`, the form of multipliers, shifts and axes of tpu ops."""
    return IntegerAttr(value, _SI32)


def to_attribute(value: Python) -> Attribute:
    """Turn a Python value into the attribute form of existing files: int -> i64, float -> f64, bool -> true/false."""
    match value:
        case Attribute():
            return value
        case bool():
            return BoolAttr.from_bool(value)
        case int():
            return IntegerAttr(value, i64)
        case float():
            return FloatAttr(value, f64)
        case str():
            return StringAttr(value)
        case list() | tuple():
            return ArrayAttr([to_attribute(item) for item in value])
    raise TypeError(f"no attribute form for {value!r}")


def to_python(attribute: Attribute) -> Python:
    """Inverse of `to_attribute`; an enum gives its word, anything unknown comes back as it is."""
    match attribute:
        case IntegerAttr():
            is_bool = isinstance(attribute.type, IntegerType) and attribute.type.width.data == 1
            return bool(attribute.value.data) if is_bool else attribute.value.data
        case FloatAttr():
            return attribute.value.data
        case StringAttr():
            return attribute.data
        case ArrayAttr():
            return cast(Python, [to_python(item) for item in attribute.data])
        case ParametrizedAttribute() if isinstance(attribute, TPU_ENUMS):
            return cast(StringAttr, attribute.parameters[0]).data
    return attribute


def to_attributes(values: Mapping[str, Python]) -> dict[str, Attribute]:
    """`to_attribute` over a dictionary."""
    return {name: to_attribute(value) for name, value in values.items()}
