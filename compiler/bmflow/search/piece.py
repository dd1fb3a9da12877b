"""One layer, lowered and ready to run by itself: what candidates of a search are put together from.

Lowering is local: how a layer is written depends on the type it computes in, on the types of its operands, and, as an integer, on the
ranges of its operands and its result. A search of thousands of candidates meets only a few such situations a layer, so each is
lowered and prepared once. Layers run one after the other this way give bit for bit what the whole lowered module gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bmflow.dialects.tpu.convert import TpuCastOp
from bmflow.ir.layer import LayerOp, layer_name, set_layer_name
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.structure import TopInputOp, TopWeightOp
from bmflow.ir.types import DType, Quantization, dtype_of, is_none, quantization_of, shape_of, tensor_type
from bmflow.ir.values import Attribute, SSAValue
from bmflow.kernels import Executable, to_real
from bmflow.passes.lowering.base import INT8, Analysis, Choice
from bmflow.passes.lowering.propagate import activations
from bmflow.passes.lowering.ranges import WEIGHT_SCALE_SUFFIX
from bmflow.passes.lowering.writer import Writer, uniform
from bmflow.passes.rewrite import replace

Form = DType | Quantization
"""How numbers are stored: a float type, or an integer type with scale and zero point."""
Situation = tuple[object, ...]
ROUNDED = "rounded"
"""A mode of searches alone: computed in F32, then rounded to the 8-bit integers of the table and turned back."""


@dataclass(frozen=True)
class Piece:
    """A layer in one situation: `module` computes it from its operands, casts included. `index` tells pieces apart."""

    index: int
    layer: str
    compute: str
    operands: tuple[str, ...]
    module: Module

    @cached_property
    def executable(self) -> Executable:
        """Ready to run, on one thread: samples run side by side instead."""
        return Executable(self.module, [self.layer], 1, self.operands)

    @property
    def result(self) -> SSAValue:
        """The layer's value in `module`."""
        return self.module.outputs[0]

    @property
    def kind(self) -> Attribute:
        """Type of the layer's value."""
        return self.result.type

    @cached_property
    def form(self) -> Form:
        """What the type says about stored numbers."""
        return quantization_of(self.result) or dtype_of(self.result)

    @cached_property
    def casts(self) -> dict[str, tuple[str, DType]]:
        """Casts of operands in `module` by name: which operand, to which form. One cast serves every layer that needs it."""
        return {
            op.layer_name: (layer_name(op.operands[0]), dtype_of(op.results[0]))
            for op in self.module.layers()
            if op.name == "tpu.Cast" and layer_name(op.operands[0]) in self.operands
        }

    def real(self, raw: np.ndarray) -> np.ndarray:
        """Real float32 numbers of stored ones."""
        return to_real(self.result, raw)


def situation(
    op_name: str, operands: Sequence[str], choice: Choice, rounded: bool, forms: Mapping[str, Form], known: Quantizations, stored: Quantization | None
) -> Situation:  # fmt: skip
    """Everything that decides how a layer is written, with the same text in every run; `forms` are those of its operands.

    Args:
        stored: form of a 16-bit result, or of an 8-bit one computed in float.
    """
    written = (type(choice.lowering).__name__, choice.compute, *([stored] if stored else []))
    base: Situation = (op_name, rounded, *written, *[forms[name] for name in operands])
    if choice.compute != INT8 and not rounded:
        return base
    return (*base, known.weight_scales.get(op_name + WEIGHT_SCALE_SUFFIX), *[known[name] for name in (*operands, op_name)])


class Quantizations(dict[str, Quantization | None]):
    """How each layer is stored as an integer, None where it has no range; looked up once."""

    def __init__(self, analysis: Analysis):
        """`analysis` says it."""
        super().__init__()
        table = analysis.options.table
        self._analysis, self.weight_scales = analysis, table.weight_scales if table else {}

    def __missing__(self, name: str) -> Quantization | None:
        self[name] = self._analysis.quantization(name) if name in self._analysis.ranges else None
        return self[name]


def operand_names(op: LayerOp) -> tuple[str, ...]:
    """Layers that an op reads, each once."""
    return tuple(dict.fromkeys(layer_name(value) for value in activations(op)))


def make_piece(
    index: int, op: LayerOp, choice: Choice, rounded: bool, kinds: Mapping[str, Attribute], analysis: Analysis
) -> Piece:  # fmt: skip
    """Lower one layer of a top module in a module of its own, whose inputs are its operands in their lowered types.

    Raises:
        CompileError: as `lower`.
        KeyError: it is to be rounded, but has no range.
    """
    module = _alone(op, kinds, analysis.module)
    copy = next(other for other in module.layers() if other.layer_name == op.layer_name)
    replace(copy, choice.lowering.lower(copy, Writer(module, analysis), choice.compute))
    if rounded:
        _round(module, analysis.quantization(op.layer_name))
    module.refresh_signature()
    return Piece(index, op.layer_name, choice.compute, operand_names(op), module)


def cast_module(piece: Piece) -> Module:
    """The cast to F32 that follows a layer where it is a network output."""
    builder = ModuleBuilder("cast", "ONNX")
    argument = builder.block.insert_arg(piece.kind, 0)
    value = builder.append(TopInputOp.make(piece.layer, [argument], piece.kind)).results[0]
    cast = TpuCastOp.make(f"{piece.layer}_f32", [value], tensor_type(shape_of(value)))
    return builder.finish([builder.append(cast).results[0]])


def _round(module: Module, to: Quantization) -> None:
    """Send the output through integers; it keeps its layer name."""
    value, end = module.outputs[0], module.block.last_op
    assert end is not None
    name = layer_name(value)
    owner = value.owner
    assert isinstance(owner, LayerOp)
    set_layer_name(owner, f"{name}_exact")
    for step, kind in ((f"{name}_integer", uniform(to)), (name, DType.F32)):
        cast = TpuCastOp.make(step, [value], tensor_type(shape_of(value), kind))
        module.block.insert_op_before(cast, end)
        value = cast.output
    end.operands[0] = value


def _alone(op: LayerOp, kinds: Mapping[str, Attribute], source: Module) -> Module:
    builder = ModuleBuilder(source.name, "ONNX")
    values: dict[SSAValue, SSAValue] = {}
    for value in op.operands:
        if value not in values:
            values[value] = _stand_in(value, builder, kinds, source)
    copy = type(op).make(op.layer_name, [values[value] for value in op.operands], op.results[0].type, dict(op.attributes))
    return builder.finish([builder.append(copy).results[0]])


def _stand_in(value: SSAValue, builder: ModuleBuilder, kinds: Mapping[str, Attribute], source: Module) -> SSAValue:
    if is_none(value):
        return builder.none
    name = layer_name(value)
    if isinstance(value.owner, TopWeightOp):
        builder.module.weights[name] = source.weights[name]
        return builder.append(TopWeightOp.make(name, [], value.type, dict(value.owner.attributes))).results[0]
    argument = builder.block.insert_arg(kinds[name], len(builder.block.args))
    return builder.append(TopInputOp.make(name, [argument], kinds[name])).results[0]
