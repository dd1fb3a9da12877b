"""Results of integer convolutions in 16 bits: the last convolutions of a detector, behind which everything is float (quantization notes, 7.2).

A head holds numbers of very different size (coordinates, logits), of which 8 bits with one scale lose half a step each. The sum
is there in 32 bits anyway, so 16 bits of it cost a second byte to store.
"""

from __future__ import annotations

from collections.abc import Mapping

from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.elementwise import TopScaledActiveOp, TopSiLUOp
from bmflow.dialects.top.shape import TopConcatOp, TopReshapeOp
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.ir.types import DType, Quantization
from bmflow.passes.rewrite import producer, users

FLOAT_TYPES = ("F32", "F16", "BF16")


def is_head(op: LayerOp) -> bool:
    """Whether a layer is a head convolution: fed by an activation, used once, by a Concat or Reshape no convolution follows."""
    if not isinstance(op, TopConvOp) or not isinstance(producer(op.input), TopSiLUOp | TopScaledActiveOp):
        return False
    readers = _readers(op)
    return (
        len(readers) == 1
        and isinstance(readers[0], TopConcatOp | TopReshapeOp)
        and not any(isinstance(reader, TopConvOp) for reader in _readers(readers[0]))
    )


def wide_results(module: Module, modes: Mapping[str, str]) -> frozenset[str]:
    """Head convolutions whose result is to have 16 bits: those that only layers read to which `modes` gives a float type by name.

    A Reshape has the type of its input whatever it is given, so its readers must be float, too.
    """
    heads = (op for op in module.layers() if is_head(op) and modes.get(op.layer_name) not in FLOAT_TYPES)
    return frozenset(op.layer_name for op in heads if _read_as_float(op, modes))


def wide_quantization(threshold: float) -> Quantization:
    """16 bits, zero point 0, one step a 257th of the symmetric 8-bit one of a threshold (7.2); never unsigned."""
    return Quantization(DType.I16, threshold / DType.I8.limits[1] * 255 / 65535)


def _read_as_float(op: LayerOp, modes: Mapping[str, str]) -> bool:
    readers = _readers(op)
    if not all(modes.get(reader.layer_name) in FLOAT_TYPES for reader in readers):
        return False
    return all(_read_as_float(reader, modes) for reader in readers if isinstance(reader, TopReshapeOp))


def _readers(op: LayerOp) -> list[LayerOp]:
    return [reader for reader in users(op.results[0]) if isinstance(reader, LayerOp)]
