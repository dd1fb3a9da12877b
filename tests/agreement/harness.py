"""Do kernels and the simulated bmodel agree? Builds a small lowered module, runs it both ways and compares.

Every network input is f32 and is cast to the type under test; inputs are exact multiples of a power-of-two scale, so that
the cast gives back the integers that were drawn. Integer results must be identical. Float results may differ by rounding in
another order of additions: at most `units` units in the last place of the result's type at the size of the largest result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from bmflow import target
from bmflow.codegen.generate import generate
from bmflow.container.bmodel import write
from bmflow.dialects.tpu.convert import TpuCastOp
from bmflow.ir.attributes import Python
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import ModuleBuilder
from bmflow.ir.structure import TopWeightOp
from bmflow.ir.types import DType, UniformType, dtype_of, tensor_type
from bmflow.ir.values import Attribute, SSAValue
from bmflow.isa.program import Program
from bmflow.kernels import Executable
from bmflow.numerics.formats import bf16_bits, to_bf16, to_f16
from bmflow.simulator import Simulation, simulate

SCALE = 1 / 16
DIGITS = {DType.F32: 23, DType.F16: 10, DType.BF16: 7}
"""Bits of the fraction of each float type."""


@dataclass
class Result:
    """What one check saw, for tests that look further than equality."""

    program: Program
    simulation: Simulation
    expected: Mapping[str, np.ndarray]


@dataclass
class Network:
    """A lowered module under construction with the numbers it will be fed."""

    rng: np.random.Generator
    builder: ModuleBuilder = field(default_factory=lambda: ModuleBuilder("agreement", "ONNX"))
    inputs: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])

    def __post_init__(self) -> None:
        self.builder.module.set("module.state", "TPU_LOWERED")
        self.builder.module.set("module.chip", "BM1684X")

    @property
    def none(self) -> SSAValue:
        """The absent operand."""
        return self.builder.none

    def input(self, name: str, shape: Sequence[int], dtype: DType, zero_point: int = 0, scale: float = SCALE) -> SSAValue:
        """A tensor of random values: the whole range of an integer type, normal numbers of a float type."""
        source = self.builder.input(name, shape)
        if dtype.is_float:
            self.inputs[name] = exact(self.rng.normal(size=shape).astype(np.float32), dtype)
        else:
            low, high = dtype.limits
            integers = self.rng.integers(low, high, shape, endpoint=True)
            self.inputs[name] = ((integers - zero_point) * np.float32(scale)).astype(np.float32)
        if dtype is DType.F32:
            return source
        return self.op(TpuCastOp, f"{name}_cast", [source], shape, element(dtype, scale, zero_point))

    def weight(self, name: str, array: np.ndarray, dtype: DType) -> SSAValue:
        """A constant, stored as a lowered module stores it."""
        stored = {DType.F16: lambda a: a.astype(np.float16), DType.BF16: bf16_bits}.get(dtype, lambda a: a.astype(dtype.numpy))
        self.builder.module.weights[name] = stored(array)
        return self.builder.append(TopWeightOp.make(name, [], tensor_type(array.shape, dtype))).results[0]

    def op(
        self, kind: type[LayerOp], name: str, operands: Sequence[SSAValue], shape: Sequence[int], result: DType | Attribute, /,
        **attributes: Python,
    ) -> SSAValue:  # fmt: skip
        """Append an op with one result."""
        return self.builder.append(kind.make(name, operands, tensor_type(shape, result), attributes)).results[0]

    def check(self, *outputs: SSAValue, units: float = 4, allow_lsb: int = 0) -> Result:
        """Compile, simulate, run the kernels, and assert that they agree and that the simulator found nothing to complain about.

        Args:
            units: bound for float results, see the module text.
            allow_lsb: bound for integer results that are defined by float arithmetic.
        """
        module = self.builder.finish(outputs)
        expected = Executable(module).run(self.inputs)
        program = generate(module, target.load("bm1684x"))
        simulation = simulate(write(program), self.inputs)
        assert not simulation.problems, simulation.problems[:3]
        for value in outputs:
            compare(value, simulation.outputs[layer_name(value)], expected[layer_name(value)], units, allow_lsb)
        return Result(program, simulation, expected)


def element(dtype: DType, scale: float = SCALE, zero_point: int = 0) -> DType | Attribute:
    """Element type of an activation."""
    return dtype if dtype.is_float else UniformType.get(dtype, scale, zero_point)


def exact(values: np.ndarray, dtype: DType) -> np.ndarray:
    """Round to numbers of a float type."""
    return {DType.F32: np.float32, DType.F16: to_f16, DType.BF16: to_bf16}[dtype](values)


def compare(value: SSAValue, simulated: np.ndarray, expected: np.ndarray, units: float, allow_lsb: int) -> None:
    """Assert agreement of one result."""
    dtype = dtype_of(value)
    assert simulated.shape == expected.shape
    if dtype.is_float:
        bound = units * 2.0 ** -DIGITS[dtype] * max(float(np.abs(expected).max()), 1e-30)
        assert float(np.abs(simulated.astype(np.float64) - expected).max()) <= bound
        return
    assert simulated.dtype == expected.dtype
    difference = np.abs(simulated.astype(np.int64) - expected)
    assert difference.max() <= allow_lsb, f"{layer_name(value)}: {(difference > allow_lsb).sum()} of {difference.size} values differ"
