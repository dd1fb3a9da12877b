"""Small modules whose layers are fed in stored form, so that a test sees exactly one op."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from bmflow.dialects.tpu.convert import TpuCastOp
from bmflow.ir.attributes import Python
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.structure import TopWeightOp
from bmflow.ir.types import DType, UniformType, tensor_type
from bmflow.ir.values import Attribute, SSAValue
from bmflow.kernels import Executable
from bmflow.numerics.formats import bf16_bits, to_bf16, to_f16

INTEGERS = (DType.I8, DType.U8)
FLOATS = (DType.F32, DType.F16, DType.BF16)


@dataclass(frozen=True)
class Kind:
    """Element type of a value."""

    dtype: DType = DType.F32
    zero: int = 0
    scale: float = 0.5

    @property
    def element(self) -> DType | Attribute:
        """The type as the IR has it."""
        return self.dtype if self.dtype.is_float else UniformType.get(self.dtype, self.scale, self.zero)

    def __str__(self) -> str:
        return f"{self.dtype.value} zp {self.zero}" if self.zero else self.dtype.value


@dataclass
class OneOp:
    """A module under construction; `arrays` holds what its given layers are fed."""

    builder: ModuleBuilder = field(default_factory=lambda: ModuleBuilder("kernels", "ONNX"))
    arrays: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])

    @property
    def none(self) -> SSAValue:
        """The absent operand."""
        return self.builder.none

    def given(self, array: np.ndarray, kind: Kind | None = None) -> SSAValue:
        """An operand that is fed."""
        kind = kind or Kind()
        name = f"x{len(self.arrays)}"
        self.arrays[name] = array.astype(kind.dtype.numpy)
        source = self.builder.input(f"{name}_in", array.shape)
        return self.op(TpuCastOp, name, [source], array.shape, kind)

    def weight(self, name: str, array: np.ndarray, dtype: DType = DType.F32) -> SSAValue:
        """A constant, stored as modules store it."""
        stored = {DType.F16: lambda a: a.astype(np.float16), DType.BF16: bf16_bits}.get(dtype, lambda a: a.astype(dtype.numpy))
        self.builder.module.weights[name] = stored(array)
        return self.builder.append(TopWeightOp.make(name, [], tensor_type(array.shape, dtype))).results[0]

    def op(
        self, kind: type[LayerOp], name: str, operands: Sequence[SSAValue], shape: Sequence[int], result: Kind | None = None,
        **attributes: Python,
    ) -> SSAValue:  # fmt: skip
        """Append an op with one result."""
        element = (result or Kind()).element
        return self.builder.append(kind.make(name, operands, tensor_type(shape, element), attributes)).results[0]

    def finish(self, *outputs: SSAValue) -> Module:
        """The module."""
        return self.builder.finish(outputs)

    def run(self, output: SSAValue) -> np.ndarray:
        """Finish and compute one value."""
        name = layer_name(output)
        return Executable(self.finish(output), [name], threads=1, given=self.arrays).run(self.arrays)[name]


def draw(rng: np.random.Generator, shape: Sequence[int], dtype: DType) -> np.ndarray:
    """Random values: the whole range of an integer type, normal numbers that a float type holds."""
    if dtype.is_float:
        return exact(rng.normal(size=shape), dtype)
    low, high = dtype.limits
    return rng.integers(low, high, shape, endpoint=True)


def exact(values: np.ndarray, dtype: DType) -> np.ndarray:
    """Round to numbers of a float type, as float32."""
    return {DType.F32: np.float32, DType.F16: to_f16, DType.BF16: to_bf16}[dtype](values.astype(np.float32))
