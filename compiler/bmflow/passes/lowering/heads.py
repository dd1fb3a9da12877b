"""Results of integer convolutions in 16 bits: what is read in float only, and so need not be cut down to 8 bits before.

The last convolutions of a detector, behind which everything is float (quantization notes, 7.2): a head holds numbers of very different
size (coordinates, logits), of which 8 bits with one scale lose half a step each. And, our own addition, arguments of scaled activations
that compute in float between 8-bit convolutions. The sum is there in 32 bits anyway, so 16 bits of it cost a second byte to store.
"""

from __future__ import annotations

from collections.abc import Mapping

from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.elementwise import TopScaledActiveOp, TopSiLUOp
from bmflow.dialects.top.shape import TopConcatOp, TopReshapeOp
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.ir.types import DType, Quantization
from bmflow.passes.rewrite import producer, readers

FLOAT_TYPES = ("F32", "F16", "BF16")
ARGUMENT_ROOM = 4.0
"""16 bits for values up to four times those seen are still 64 times finer than 8 bits for those seen."""


def is_head(op: LayerOp) -> bool:
    """Whether a layer is a head convolution: fed by an activation, used once, by a Concat or Reshape no convolution follows."""
    if not isinstance(op, TopConvOp) or not isinstance(producer(op.input), TopSiLUOp | TopScaledActiveOp):
        return False
    found = readers(op)
    return (
        len(found) == 1
        and isinstance(found[0], TopConcatOp | TopReshapeOp)
        and not any(isinstance(reader, TopConvOp) for reader in readers(found[0]))
    )


class Heads:
    """Which results of a module can have another width than their neighbours' modes say; found once, for any number of tables."""

    def __init__(self, module: Module) -> None:
        ops, outputs = list(module.layers()), set(module.output_names)
        self._readers = {op.layer_name: [reader.layer_name for reader in readers(op)] for op in ops}
        self._reshapes = {op.layer_name for op in ops if isinstance(op, TopReshapeOp)}
        heads, arguments = (op.layer_name for op in ops if is_head(op)), (op.layer_name for op in ops if is_argument(op))
        self._room = dict.fromkeys(heads, 1.0) | dict.fromkeys(arguments, ARGUMENT_ROOM)
        self._actives = [op.layer_name for op in ops if isinstance(op, TopScaledActiveOp) and op.layer_name not in outputs]

    def wide(self, modes: Mapping[str, str]) -> dict[str, float]:
        """Convolutions whose result is to have 16 bits, and how many times what calibration saw these are to hold.

        They are heads and arguments of scaled activations that only layers read to which `modes` gives a float type by name. A Reshape has
        the type of its input whatever it is given, so its readers must be float, too.
        """
        return {name: room for name, room in self._room.items() if modes.get(name) not in FLOAT_TYPES and self._read_as_float(name, modes)}

    def narrow(self, modes: Mapping[str, str]) -> frozenset[str]:
        """Scaled activations that compute in float, but give 8 bits at once, since nothing but 8-bit layers reads them."""
        in_float = (name for name in self._actives if modes.get(name) in FLOAT_TYPES)
        return frozenset(name for name in in_float if not any(modes.get(reader) in FLOAT_TYPES for reader in self._readers[name]))

    def _read_as_float(self, name: str, modes: Mapping[str, str]) -> bool:
        readers = self._readers[name]
        if not all(modes.get(reader) in FLOAT_TYPES for reader in readers):
            return False
        return all(self._read_as_float(reader, modes) for reader in readers if reader in self._reshapes)


def is_argument(op: LayerOp) -> bool:
    """Whether a layer is a convolution that a scaled activation alone reads."""
    found = readers(op)
    return isinstance(op, TopConvOp) and len(found) == 1 and isinstance(found[0], TopScaledActiveOp)


def wide_quantization(threshold: float) -> Quantization:
    """16 bits, zero point 0, one step a 257th of the symmetric 8-bit one of a threshold (7.2); never unsigned."""
    return Quantization(DType.I16, threshold / DType.I8.limits[1] * 255 / 65535)
