"""What every op of the top and tpu dialects shares: a layer name in its location and attributes read as Python values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

from xdsl.dialects.builtin import ArrayAttr, FusedLoc, NameLoc, NoneAttr, StringAttr, UnknownLoc
from xdsl.ir import Attribute, Operation, OpResult, SSAValue
from xdsl.irdl import IRDLOperation

from bmflow.ir.attributes import Python, to_attributes, to_python


class LayerOp(IRDLOperation):
    """Base of all ops that produce a named tensor.

    `DEFAULTS` names every optional attribute with the value it has when absent; `op["strides"]` reads an attribute or
    its default as a Python value. A KeyError there is a defect of the caller, not bad input.
    """

    DEFAULTS: ClassVar[Mapping[str, Python]] = {}

    @classmethod
    def make(
        cls,
        name: str,
        operands: Sequence[SSAValue],
        result_type: Attribute,
        attributes: Mapping[str, Python] | None = None,
    ) -> Self:
        """Build the op with its layer name, operands in declared order, one result, and Python attribute values."""
        op = cls.create(operands=list(operands), result_types=[result_type], attributes=to_attributes(attributes or {}))
        op.location = NameLoc(StringAttr(name), NoneAttr())
        return op

    def __getitem__(self, name: str) -> Python:
        attribute = self.attributes.get(name)
        return self.DEFAULTS[name] if attribute is None else to_python(attribute)

    def ints(self, name: str) -> list[int]:
        """Read a list-of-integers attribute (or its default)."""
        value = self[name]
        assert isinstance(value, list)
        return [int(item) for item in value]  # pyright: ignore[reportArgumentType]

    def settings(self) -> dict[str, Python]:
        """All attributes, defaults filled in, as Python values."""
        return dict(self.DEFAULTS) | {name: to_python(value) for name, value in self.attributes.items()}

    @property
    def layer_name(self) -> str:
        """The layer name; for an op with several results, the first one."""
        return layer_names(self)[0]


def layer_names(op: Operation) -> list[str]:
    """Names in an op's location: one per result for `fused["a","b"]`, empty when the location is unknown."""
    match op.location:
        case NameLoc():
            return [op.location.desc.data]
        case FusedLoc():
            assert isinstance(op.location.locations, ArrayAttr)
            return [part.desc.data for part in op.location.locations.data if isinstance(part, NameLoc)]
        case UnknownLoc() | _:
            return []


def layer_name(value: SSAValue) -> str:
    """Layer name of the op that produces `value`: the key of every table, npz and report."""
    assert isinstance(value, OpResult), f"not an op result: {value}"
    names = layer_names(value.op)
    return names[value.index if len(names) > 1 else 0] if names else ""


def set_layer_name(op: Operation, name: str) -> None:
    """Rename a one-result op."""
    op.location = NameLoc(StringAttr(name), NoneAttr())
