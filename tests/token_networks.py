"""Small networks of tokens (1, tokens, channels) for the corrections of matrix products, and what 8 bits make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from bmflow import target
from bmflow.calibration.equalized import ranges_of_weights
from bmflow.dialects.top.elementwise import TopSoftmaxOp
from bmflow.dialects.top.matmul import TopLayerNormOp, TopMatMulOp
from bmflow.dialects.top.shape import TopPermuteOp, TopReshapeOp, TopSliceOp
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.types import shape_of, tensor_type
from bmflow.ir.values import SSAValue
from bmflow.kernels import Executable, to_real
from bmflow.passes.lowering import LoweringOptions, lower
from bmflow.tables.calibration import CalibrationTable, Range
from bmflow.tables.precision import PrecisionTable

Samples = list[dict[str, np.ndarray]]
CHANNELS, HEADS = 16, 2


class Net:
    """A network under construction; its input x is (1, tokens, channels)."""

    def __init__(self, rng: np.random.Generator, tokens: int = 12, channels: int = CHANNELS) -> None:
        self.rng, self.builder, self.tokens = rng, ModuleBuilder("net", "ONNX"), tokens
        self.x = self.builder.input("x", (1, tokens, channels))

    def op(self, kind: type[LayerOp], name: str, operands: Sequence[SSAValue], shape: Sequence[int] = (), **attributes: object) -> SSAValue:
        """An op; without `shape` it keeps that of its first operand."""
        result = tensor_type(shape or shape_of(operands[0]))
        return self.builder.append(kind.make(name, operands, result, attributes)).results[0]  # pyright: ignore[reportArgumentType]

    def norm(self, name: str, x: SSAValue, factor: np.ndarray | float = 1.0) -> SSAValue:
        """LayerNorm whose weight and bias are multiplied by `factor`."""
        size = shape_of(x)[-1]
        weight = self.builder.weight(f"{name}_g", np.ones(size) * factor)
        bias = self.builder.weight(f"{name}_b", self.rng.normal(0, 0.2, size) * factor)
        return self.op(TopLayerNormOp, name, [x, weight, bias], normalized_shape=[size], axis=len(shape_of(x)) - 1)

    def product(
        self, name: str, x: SSAValue, columns: int, divisor: np.ndarray | float = 1.0, transposed: bool = False, **more: object
    ) -> SSAValue:
        """MatMul by a constant with bias; row k of the constant is divided by divisor[k]."""
        rows = shape_of(x)[-1]
        weights = self.rng.normal(0, rows**-0.5, (rows, columns)) / np.reshape(divisor, (-1, 1))
        right = self.builder.weight(f"{name}_w", weights.T if transposed else weights)
        bias = self.builder.weight(f"{name}_c", self.rng.normal(0, 0.2, columns))
        shape = (*shape_of(x)[:-1], columns)
        return self.op(TopMatMulOp, name, [x, right, bias], shape, right_transpose=transposed, **more)

    def slice(self, name: str, x: SSAValue, first: int, last: int) -> SSAValue:
        """Channels first to last."""
        none, shape = self.builder.none, shape_of(x)
        ends, begins = [*shape[:-1], last], [*[0] * (len(shape) - 1), first]
        return self.op(
            TopSliceOp, name, [x, none, none, none], (*shape[:-1], last - first), offset=begins, ends=ends, steps=[1] * len(shape)
        )

    def heads(self, name: str, x: SSAValue) -> SSAValue:
        """(1, heads, tokens, channels / heads)."""
        channels = shape_of(x)[-1]
        split = self.op(TopReshapeOp, f"{name}_split", [x], (1, self.tokens, HEADS, channels // HEADS))
        return self.op(TopPermuteOp, name, [split], (1, HEADS, self.tokens, channels // HEADS), order=[0, 2, 1, 3])

    def attention(self, q: SSAValue, k: SSAValue, v: SSAValue) -> SSAValue:
        """Softmax(q k') v of two heads: `p` are the probabilities, `mixed` is the product by head, `joined` the result."""
        channels, tokens = shape_of(v)[-1], self.tokens
        q, k, v = self.heads("q", q), self.heads("k", k), self.heads("v", v)
        scores = self.op(TopMatMulOp, "scores", [q, k, self.builder.none], (1, HEADS, tokens, tokens), right_transpose=True)
        p = self.op(TopSoftmaxOp, "p", [scores], axis=3)
        mixed = self.op(TopMatMulOp, "mixed", [p, v, self.builder.none], (1, HEADS, tokens, channels // HEADS))
        turned = self.op(TopPermuteOp, "turned", [mixed], (1, tokens, HEADS, channels // HEADS), order=[0, 2, 1, 3])
        return self.op(TopReshapeOp, "joined", [turned], (1, tokens, channels))

    def finish(self, *outputs: SSAValue) -> Module:
        """The module."""
        return self.builder.finish(outputs)

    def samples(self, count: int = 4) -> Samples:
        """Normal inputs."""
        return [{"x": self.rng.normal(size=shape_of(self.x)).astype(np.float32)} for _ in range(count)]


def outliers(factor: float, *channels: int) -> np.ndarray:
    """`factor` for some channels, 1 for all others."""
    found = np.ones(CHANNELS)
    found[list(channels)] = factor
    return found


def calibrated(module: Module, samples: Samples, mode: str = "INT8", **modes: str) -> LoweringOptions:
    """Options of a lowering whose ranges reach to the extremes on the samples."""
    network = Executable(module, "all", 1)
    values = [network.run(one) for one in samples]
    ends = {name: (min(float(v[name].min()) for v in values), max(float(v[name].max()) for v in values)) for name in values[0]}
    found = {name: Range(max(-low, high), low, high) for name, (low, high) in ends.items()}
    table = CalibrationTable(ranges_of_weights(module, found))
    return LoweringOptions(target.load("bm1684x"), mode, table=table, precision=PrecisionTable(modes) if modes else None)


def noise(exact: Module, module: Module, samples: Samples, options: LoweringOptions | None = None, output: str = "") -> float:
    """Error power over power of an output of `module` in INT8, the first unless named; `exact` is the float network."""
    lowered, name = lower(module, options or calibrated(module, samples)), output or exact.output_names[0]
    value = next(v for v, top in zip(lowered.outputs, module.output_names, strict=True) if top == name)
    floats, integers = Executable(exact, [name], 1), Executable(lowered, "outputs", 1)
    pairs = [(floats.run(one)[name], to_real(value, integers.run(one)[layer_name(value)])) for one in samples]
    return sum(float(np.square(y - q).sum()) for y, q in pairs) / sum(float(np.square(y).sum()) for y, _ in pairs)


def assert_same_in_float(before: Module, after: Module, samples: Samples) -> None:
    """The outputs have the same names and, to 1e-5 of their largest magnitude, values."""
    assert after.output_names == before.output_names
    first, second = Executable(before, "outputs", 1), Executable(after, "outputs", 1)
    for one in samples:
        found = second.run(one)
        for name, expected in first.run(one).items():
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def without_table(options: LoweringOptions, **modes: str) -> LoweringOptions:
    """The same ranges with modes of single layers."""
    return replace(options, precision=PrecisionTable(modes))
