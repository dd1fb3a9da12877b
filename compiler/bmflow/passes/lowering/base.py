"""The base of every lowering, what lowerings may look at, and how the one for an op is chosen.

A lowering serves one kind of top op and some modes. Those of one kind stand in a table in the order they are tried: the first
whose `check` has no objection is taken, so that a float form after an integer form is what the op falls back to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.types import Quantization
from bmflow.ir.values import SSAValue
from bmflow.passes.lowering.heads import wide_quantization
from bmflow.passes.lowering.options import LoweringOptions
from bmflow.passes.lowering.ranges import Interval, Ranges, quantize

if TYPE_CHECKING:
    from bmflow.passes.lowering.writer import Writer

INT8, AS_INPUT = "INT8", ""
FLOATS = {"F32": "F32", "F16": "F16", "BF16": "BF16"}
"""The usual float form: computes in the mode asked for."""


@dataclass(frozen=True)
class Analysis:
    """The top module as it was, and what its values will be quantized with; results of the layers in `wide` have 16 bits.

    Layers in `narrow` compute in float and give 8 bits.
    """

    module: Module
    options: LoweringOptions
    ranges: Ranges
    asymmetric: frozenset[str]
    weight_readers: Mapping[str, int]
    wide: Mapping[str, float] = field(default_factory=dict[str, float])
    narrow: frozenset[str] = frozenset()

    def interval(self, name: str) -> Interval | None:
        """Range of a layer; None when it is not calibrated."""
        return self.ranges.get(name)

    def quantization(self, name: str) -> Quantization:
        """Storage type, scale and zero point a layer has as an integer.

        Raises:
            KeyError: the layer is not calibrated.
        """
        if name not in self.wide:
            return quantize(self.ranges[name], name in self.asymmetric)
        row = self.options.table.ranges.get(name) if self.options.table else None
        seen = (row.threshold, abs(row.low), abs(row.high)) if row else (self.ranges[name].threshold,)
        return wide_quantization(max(seen) * self.wide[name])  # 16 bits have room for all that calibration saw

    def quantizations(self, op: LayerOp, values: list[SSAValue]) -> tuple[list[Quantization], Quantization] | None:
        """Of some operands and of the result; None when a range is missing, which is reported for all layers at once elsewhere."""
        names = [layer_name(value) for value in values]
        if any(name not in self.ranges for name in (*names, op.layer_name)):
            return None
        return [self.quantization(name) for name in names], self.quantization(op.layer_name)


class Lowering(ABC):
    """One way to lower one kind of op; its docstring shows what becomes of it.

    `computes` gives, for each mode it serves, the type it computes in: a float mode, INT8, or AS_INPUT for the type of its input.
    `note` says why that differs from the mode asked for, where no `check` of an earlier row does.
    """

    pattern: ClassVar[type[LayerOp]]
    computes: ClassVar[Mapping[str, str]] = FLOATS
    note: ClassVar[str] = ""

    def check(self, op: LayerOp, analysis: Analysis) -> str:
        """Say why the op cannot be lowered this way; empty when it can."""
        return ""

    @abstractmethod
    def lower(self, op: LayerOp, writer: Writer, compute: str) -> SSAValue:
        """Write the op in the tpu dialect and return its result, which carries the op's layer name."""


@dataclass(frozen=True)
class Choice:
    """How an op is lowered, the type it computes in, and why."""

    lowering: Lowering
    compute: str
    reason: str

    def __str__(self) -> str:
        return f"{self.compute or 'type of its input'}: {self.reason}"


Lowerings = tuple[Lowering, ...]


def choose(op: LayerOp, mode: str, why: str, analysis: Analysis, table: Lowerings) -> Choice | str:
    """The first lowering of a table that takes the op in a mode; the objections when there is none.

    Args:
        why: where the mode comes from, for the reason.
    """
    objections: list[str] = []
    rows = [row for row in table if isinstance(op, row.pattern) and mode in row.computes]
    for row in rows:
        if objection := row.check(op, analysis):
            objections.append(objection)
            continue
        compute = row.computes[mode]
        note = "; ".join(dict.fromkeys(objections)) or row.note
        return Choice(row, compute, why if compute == mode or not note else f"{why}; {note}")
    return "; ".join(dict.fromkeys(objections)) or f"{op.name} has no lowering to {mode}"
