"""One op being emitted: its operands as tensors, its attributes as plain numbers, and how every result ends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bmflow.errors import CompileError
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.structure import TopWeightOp
from bmflow.ir.types import DType, dtype_of, is_none, shape_of
from bmflow.ir.values import SSAValue
from bmflow.kernels.graph import BFLOAT16, FLOAT, FLOAT16, Graph
from bmflow.kernels.held import Held

BF16_SMALLEST_NORMAL = 2.0**-126


class Emission:
    """What an emitter works with. `tensors` maps the values emitted so far to tensor names; a result has the form of its `Held`."""

    def __init__(self, graph: Graph, module: Module, op: LayerOp, tensors: dict[SSAValue, str]):
        self.graph, self.module, self.op, self.tensors = graph, module, op, tensors
        graph.scope = op.layer_name
        self.node, self.constant = graph.node, graph.constant
        self.shape = shape_of(op.results[0])
        self.result = Held.of(op.results[0])

    @property
    def inputs(self) -> list[str]:
        """Tensors of all operands."""
        return [self.input(i) for i in range(len(self.op.operands))]

    def input(self, index: int = 0) -> str:
        """Tensor of one operand in held form; a weight becomes a constant."""
        value = self.op.operands[index]
        if value not in self.tensors:
            array = self.weight(index)
            assert array is not None, f"{self.op.layer_name}: operand {index} is neither computed nor a weight"
            self.tensors[value] = self.constant(Held.of(value).hold(array))
        return self.tensors[value]

    def held(self, index: int = 0) -> Held:
        """Form of one operand."""
        return Held.of(self.op.operands[index])

    def weight(self, index: int) -> np.ndarray | None:
        """Array of a constant operand, F16 and BF16 as float32; None for an absent operand or an activation."""
        value = self.op.operands[index]
        if is_none(value) or not isinstance(value.owner, TopWeightOp):
            return None
        if layer_name(value) not in self.module.weights:
            raise CompileError(
                f"{self.op.layer_name}: the array of its weight {layer_name(value)} is missing; load the weight file as well"
            )
        return self.module.weight(value)

    def dtype(self, index: int) -> DType:
        """Storage type of one operand."""
        return dtype_of(self.op.operands[index])

    def flag(self, name: str) -> bool:
        """A true or false attribute."""
        return bool(self.op[name])

    def number(self, name: str) -> float:
        """A numeric attribute."""
        return float(self.op[name])  # pyright: ignore[reportArgumentType]

    @property
    def has_relu(self) -> bool:
        """Whether the op clamps its result."""
        return "do_relu" in self.op.DEFAULTS and self.flag("do_relu")

    def integer(self, name: str) -> int:
        """An integer attribute."""
        return int(self.op[name])  # pyright: ignore[reportArgumentType]

    def ints(self, name: str) -> list[int]:
        """An attribute that lists integers."""
        return self.op.ints(name)

    def refuse(self, reason: str) -> CompileError:
        """The error of an op that has no kernel in this form."""
        return CompileError(
            f"{self.op.layer_name}: {self.op.name} {reason} has no kernel in this version; give the layer another type or form"
        )

    def require(self, condition: bool, reason: str) -> None:
        """Refuse unless `condition` holds; `reason` says what it is that has no kernel."""
        if not condition:
            raise self.refuse(reason)

    def reshape(self, tensor: str, shape: tuple[int, ...] | list[int]) -> str:
        """The same values under another shape."""
        return self.node("Reshape", tensor, self.constant(np.array(shape, np.int64)))

    def finish(self, y: str) -> str:
        """End a float result: clamp as the op's attributes say, then round to its type."""
        return self.rounded(self.clamped(y) if self.has_relu else y)

    def clamped(self, y: str) -> str:
        """max(y, 0), and min with relu_limit where that is positive."""
        limit = self.number("relu_limit")
        if limit <= 0:
            return self.node("Relu", y)
        return self.node("Clip", y, self.constant(np.float32(0)), self.constant(np.float32(limit)))

    def moved(self, y: str) -> str:
        """End a result that holds values of the operand unchanged but for relu."""
        if not self.has_relu:
            return y
        if self.result.is_float:
            return self.rounded(self.clamped(y))
        return self.node("Clip", y, self.constant(np.array(self.result.zero, self.result.numpy)))

    def rounded(self, y: str, dtype: DType | None = None) -> str:
        """Round float32 to numbers of a float type, the result's unless given, as `numerics.formats` does."""
        match dtype or self.result.dtype:
            case DType.F16:
                return self.node("Cast", self.node("Cast", y, to=FLOAT16), to=FLOAT)
            case DType.BF16:
                return self._flushed(self.node("Cast", self.node("Cast", y, to=BFLOAT16), to=FLOAT))
        return y

    def _flushed(self, y: str) -> str:
        """Numbers below the smallest normal one become zero and keep their sign; NaN stays."""
        normal = self.node("GreaterOrEqual", self.node("Abs", y), self.constant(np.float32(BF16_SMALLEST_NORMAL)))
        return self.node("Mul", y, self.node("Cast", normal, to=FLOAT))


Emitter = Callable[[Emission], str]
