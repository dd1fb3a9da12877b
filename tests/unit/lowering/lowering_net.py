"""Small top modules with ranges, and what lowering makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from bmflow import target
from bmflow.dialects.top.conv import TopConvOp
from bmflow.ir.attributes import Python
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.text import parse
from bmflow.ir.types import Quantization, dtype_of, quantization_of, tensor_type
from bmflow.ir.values import SSAValue
from bmflow.passes.lowering import LoweringOptions, explain_modes, lower
from bmflow.tables.calibration import CalibrationTable, Range
from bmflow.tables.precision import PrecisionTable

Bounds = float | tuple[float, float] | None


@dataclass
class Net:
    """A top module under construction; bounds are (min, max), or one number t for -t..t."""

    builder: ModuleBuilder = field(default_factory=lambda: ModuleBuilder("net", "ONNX"))
    ranges: dict[str, Range] = field(default_factory=dict[str, Range])

    def input(self, name: str, shape: Sequence[int], bounds: Bounds = None) -> SSAValue:
        """A network input."""
        self.note(name, bounds)
        return self.builder.input(name, shape)

    def weight(self, name: str, array: np.ndarray | Sequence) -> SSAValue:
        """A constant."""
        return self.builder.weight(name, np.asarray(array, np.float32))

    def op(
        self,
        kind: type[LayerOp],
        name: str,
        operands: Sequence[SSAValue],
        shape: Sequence[int],
        bounds: Bounds = None,
        /,
        **settings: Python,
    ) -> SSAValue:
        """An op with one result."""
        self.note(name, bounds)
        return self.builder.append(kind.make(name, operands, tensor_type(shape), settings)).results[0]

    def conv(
        self, name: str, x: SSAValue, weights: np.ndarray, bias: Sequence[float] | None, bounds: Bounds = None, **settings: Python
    ) -> SSAValue:
        """A convolution with stride 1 that keeps h and w."""
        n, _, h, w = x.type.get_shape()  # pyright: ignore[reportAttributeAccessIssue]
        window = {"kernel_shape": list(weights.shape[2:]), "strides": [1, 1], "pads": [weights.shape[2] // 2, weights.shape[3] // 2] * 2}
        operands = [x, self.weight(f"{name}_w", weights), self.builder.none if bias is None else self.weight(f"{name}_b", bias)]
        return self.op(TopConvOp, name, operands, (n, len(weights), h, w), bounds, **(window | settings))

    def note(self, name: str, bounds: Bounds) -> None:
        """Set the range of a layer."""
        if bounds is not None:
            low, high = bounds if isinstance(bounds, tuple) else (-bounds, bounds)
            self.ranges[name] = Range(max(abs(low), abs(high)), low, high)

    def finish(self, *outputs: SSAValue) -> Module:
        """The top module."""
        return self.builder.finish(outputs)

    def lower(self, *outputs: SSAValue, mode: str = "INT8", qtable: str = "", table: CalibrationTable | None = None, **options) -> Lowered:
        """Lower; INT8 gets the bounds given so far as its table."""
        module = self.finish(*outputs)
        found = options_of(mode, table or (CalibrationTable(self.ranges) if self.ranges else None), qtable, **options)
        before = str(module)
        result = lower(module, found)
        assert str(module) == before, "the top module is left as it is"
        assert str(parse_again(result)) == str(result)
        return Lowered(result, explain_modes(module, found))


def options_of(mode: str, table: CalibrationTable | None, qtable: str = "", **options) -> LoweringOptions:
    """Options for the bm1684x."""
    return LoweringOptions(target.load("bm1684x"), mode, table=table, precision=PrecisionTable.load(qtable) if qtable else None, **options)


def parse_again(module: Module) -> Module:
    """The module from its own text."""
    return Module(parse(str(module)), module.weights)


@dataclass(frozen=True)
class Lowered:
    """A lowered module with short ways to look into it."""

    module: Module
    reasons: dict[str, str]

    def op(self, name: str) -> LayerOp:
        """The op of a layer."""
        return next(op for op in self.module.layers() if op.layer_name == name)

    def layers(self) -> list[str]:
        """`op name:type` of every layer but inputs."""
        ops = [op for op in self.module.layers() if op.name != "top.Input"]
        return [f"{op.name.removeprefix('tpu.')} {op.layer_name}:{dtype_of(op.results[0]).value}" for op in ops]

    def quantization(self, name: str) -> Quantization:
        """Scale and zero point of a layer."""
        found = quantization_of(self.op(name).results[0])
        assert found is not None
        return found

    def constant(self, name: str, index: int) -> np.ndarray:
        """Array of a constant operand."""
        return self.module.weights[layer_name(self.op(name).operands[index])]
