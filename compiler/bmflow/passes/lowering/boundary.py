"""The network's ends: float32 outside, whatever is computed in inside, unless the caller converts by himself."""

from __future__ import annotations

from bmflow.dialects.tpu.convert import TpuCastOp
from bmflow.errors import InputError
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.structure import TopInputOp
from bmflow.ir.types import CalibratedType, DType, dtype_of, shape_of, tensor_type
from bmflow.ir.values import SSAValue
from bmflow.passes.lowering.writer import Writer
from bmflow.passes.rewrite import insert_before, replace, users


def calibrate_inputs(writer: Writer) -> None:
    """Write the calibrated range of every network input into its type."""
    for op in writer.module.inputs:
        interval = writer.analysis.interval(op.layer_name)
        if interval is not None:
            element = CalibratedType.get(interval.low, interval.high)
            _retype(op, op.input, tensor_type(shape_of(op.output), element))


def cast_outputs(writer: Writer) -> None:
    """Return every output as F32, through a cast `<output>_f32` where it is of another type."""
    end = writer.module.block.last_op
    assert end is not None
    casts: dict[SSAValue, SSAValue] = {}
    for index, value in enumerate(writer.module.outputs):
        if dtype_of(value) is DType.F32:
            continue
        if value not in casts:
            name = writer.free_name(f"{layer_name(value)}_{DType.F32.value}")
            cast = TpuCastOp.make(name, [value], tensor_type(shape_of(value)))
            writer.module.block.insert_op_before(cast, end)
            casts[value] = cast.output
        end.operands[index] = casts[value]


def strip_input_casts(module: Module) -> None:
    """Let every input be of the type that its readers cast it to.

    Raises:
        InputError: the readers of an input use it in several types, so that no single one could be fed.
    """
    for op in module.inputs:
        readers = users(op.output)
        casts = [reader for reader in readers if isinstance(reader, TpuCastOp)]
        if not casts:
            continue
        if len(casts) != 1 or len(readers) != 1:
            kinds = sorted({dtype_of(cast.output).value for cast in casts} | ({"f32"} if len(casts) < len(readers) else set()))
            raise InputError(
                f"--quant_input: the layers behind the input {op.layer_name} read it as {' and '.join(kinds)}, "
                "so it can be fed in no single type; leave the option out"
            )
        kind = casts[0].output.type
        argument = module.block.insert_arg(kind, module.inputs.index(op))
        old = op.input
        replace(casts[0], _retype(op, argument, kind).results[0])
        module.block.erase_arg(old)  # pyright: ignore[reportArgumentType]


def _retype(op: TopInputOp, argument: SSAValue, kind: object) -> LayerOp:
    """The same input with another argument and type."""
    new = insert_before(op, TopInputOp.make(op.layer_name, [argument], kind, dict(op.attributes)))  # pyright: ignore[reportArgumentType]
    replace(op, new.results[0])
    return new
