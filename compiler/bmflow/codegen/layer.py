"""What the code of one layer is made from, and the form every layer takes between planning and emission.

A layer is planned first (tiles chosen, constants put into the weight image); when all are, the end of the weight image and
with it the address of every activation is known, and the layers are emitted in order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod

import numpy as np

from bmflow.codegen.assembler import Assembler
from bmflow.codegen.coefficients import WeightImage, storage_bits
from bmflow.codegen.operand import Ddr, Shape
from bmflow.errors import CompileError
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.types import DType, dtype_of, quantization_of, shape_of
from bmflow.ir.values import SSAValue
from bmflow.passes.memory.lifetimes import is_activation
from bmflow.target import Memory, Rates, Target


@dataclass(frozen=True)
class Tensor:
    """A dense tensor in DDR."""

    address: int
    shape: tuple[int, ...]
    dtype: DType

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def view(self, shape: Shape, strides: Shape, offset: int = 0) -> Ddr:
        """A strided view that starts `offset` elements in; strides in elements."""
        return Ddr(self.address + offset * self.dtype.itemsize, shape, self.dtype, strides)


@dataclass
class Build:
    """The network being compiled, and where its tensors lie once DDR is planned."""

    module: Module
    target: Target
    memory: Memory
    image: WeightImage
    addresses: dict[str, int]

    def tensor(self, value: SSAValue) -> Tensor:
        """Where an activation or a dense constant lies (activations: only after DDR is planned)."""
        if is_activation(value):
            return Tensor(self.addresses[layer_name(value)], shape_of(value), dtype_of(value))
        return Tensor(self.constant(value), shape_of(value), dtype_of(value))

    @property
    def rates(self) -> Rates:
        """Figures of the time estimate that tilings are weighed by."""
        assert self.target.rates is not None, "a target with a memory description has rates too"
        return self.target.rates

    def reserve(self, value: SSAValue) -> None:
        """Put an operand into the weight image if it is a constant; needed while layers are planned, before addresses are final."""
        if not is_activation(value):
            self.constant(value)

    def constant(self, value: SSAValue) -> int:
        """Put a weight into the image as it is, dense, and return its address."""
        return self.image.add(layer_name(value), storage_bits(self.weight(value), dtype_of(value)).tobytes())

    def weight(self, value: SSAValue) -> np.ndarray:
        """Values of a weight.

        Raises:
            CompileError: the value is computed at run time.
        """
        if is_activation(value):
            raise CompileError(f"{layer_name(value)}: used where a constant is required; this version cannot compile it")
        return self.module.weight(value)


class Layer(ABC):
    """A planned layer."""

    @abstractmethod
    def emit(self, asm: Assembler) -> None:
        """Emit its commands; tensors have addresses by now."""


@dataclass(frozen=True)
class NoCommands(Layer):
    """A layer whose result is another name for memory that is written already."""

    def emit(self, asm: Assembler) -> None:
        """Emit nothing."""


@dataclass(frozen=True)
class Sequel(Layer):
    """Layers one after the other that make one result."""

    parts: tuple[Layer, ...]

    def emit(self, asm: Assembler) -> None:
        """Emit them in order."""
        for part in self.parts:
            part.emit(asm)


def zero_point(value: SSAValue) -> int:
    """Zero point of an integer activation, 0 for anything else."""
    quantization = quantization_of(value)
    return quantization.zero_point if quantization else 0


def refuse(op: LayerOp, reason: str) -> CompileError:
    """The error of a layer this version cannot compile."""
    return CompileError(f"{op.layer_name}: {op.name} {reason}; this version cannot compile it for this processor")
