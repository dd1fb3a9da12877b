"""Matrix products, layer normalization, GELU: kernels and simulator agree; integers bit for bit, floats within the stated units."""

from __future__ import annotations

from dataclasses import dataclass
from math import erfc, log2, prod, sqrt

import numpy as np
import pytest
from bmflow import target
from bmflow.codegen.generate import generate
from bmflow.dialects.tpu.compute import TpuActiveOp, TpuAddOp, TpuMulOp, TpuSoftmaxOp
from bmflow.dialects.tpu.matmul import TpuLayerNormOp, TpuMatMulOp
from bmflow.errors import CompileError
from bmflow.ir.attributes import ActiveMode, enum_attribute
from bmflow.ir.types import DType
from bmflow.ir.values import SSAValue
from harness import Network, element, exact

FLOATS = [DType.F32, DType.F16, DType.BF16]


@dataclass(frozen=True)
class Product:
    """One case; `left` and `right` are batch dimensions, `constant` the side that is a weight (or none)."""

    id: str
    m: int
    k: int
    n: int
    left: tuple[int, ...] = ()
    right: tuple[int, ...] = ()
    transposed: bool = False
    constant: str = "right"
    bias: bool = True
    relu: bool = False
    x: tuple[DType, int] = (DType.I8, 0)
    r: DType = DType.I8
    y: tuple[DType, int] = (DType.I8, 0)

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Shapes of left, right and result."""
        right = (self.n, self.k) if self.transposed else (self.k, self.n)
        return (*self.left, self.m, self.k), (*self.right, *right), (*np.broadcast_shapes(self.left, self.right), self.m, self.n)


INTEGERS = [
    Product("one", 1, 1, 1),
    Product("below the lanes", 63, 63, 63, relu=True),
    Product("the lanes", 64, 64, 64, (2,), transposed=True),
    Product("beyond the lanes", 65, 65, 65, (1, 3), y=(DType.U8, 0), relu=True),
    Product("two rows of lanes", 130, 130, 130, (2,), transposed=True, bias=False),
    Product("a row", 1, 130, 300, (1,)),
    Product("unsigned", 33, 70, 20, x=(DType.U8, 0), r=DType.U8, y=(DType.U8, 0)),
    Product("zero points", 65, 63, 40, (2,), x=(DType.I8, -13), y=(DType.I8, 9), relu=True),
    Product("zero points of unsigned", 65, 63, 40, x=(DType.U8, 200), y=(DType.U8, 7), transposed=True),
    Product("16 bits", 20, 65, 33, y=(DType.I16, 0)),
    Product("scores of heads", 65, 63, 65, (1, 3), (1, 3), True, "", bias=False),
    Product("weighted values", 65, 65, 63, (1, 3), (1, 3), False, "", bias=False, x=(DType.U8, 0)),
    Product("batches of both sides", 5, 20, 6, (3, 1), (1, 4), False, "", bias=False),
    Product("one left for all", 70, 20, 6, (), (4,), True, "", bias=False, relu=True),
    Product("one right for some", 7, 20, 6, (2, 3), (2, 1), False, "", bias=False, y=(DType.U8, 3)),
    Product("tiles of rows and columns", 700, 130, 5000, bias=True),
    Product("a sum of several pieces", 3, 140000, 5),
    Product("a sum of several pieces, transposed", 3, 66000, 5, (2,), (2,), True, "", bias=False),
]  # fmt: skip


def integer_operands(net: Network, case: Product) -> list[SSAValue]:
    left, right, _ = case.shapes
    weights = net.rng.integers(*case.r.limits, right, endpoint=True)
    column_sums = weights.sum(-1 if case.transposed else -2)
    bias = net.rng.integers(-3000, 3000, case.n) - (case.x[1] * column_sums if not case.right else 0)
    return [
        net.input("x", left, *case.x),
        net.weight("right", weights, case.r) if case.constant else net.input("r", right, case.r),
        net.weight("bias", bias, DType.I32) if case.bias else net.none,
    ]


@pytest.mark.parametrize("case", INTEGERS, ids=lambda case: case.id)
def test_integer_matrix_products_are_identical(case: Product, rng: np.random.Generator) -> None:
    net = Network(rng)
    spread = case.k * 100 if case.x[0] is case.r is DType.U8 else case.k**0.5 * 100
    shift = 30 + round(log2(spread)) - 8 * (case.y[0].itemsize - 1)
    attributes = {"multipliers": [int(rng.integers(1 << 29, 1 << 30))], "rshifts": [shift], "right_transpose": case.transposed}
    result = net.op(TpuMatMulOp, "y", integer_operands(net, case), case.shapes[2], element(case.y[0], zero_point=case.y[1]),
                    do_relu=case.relu, **attributes)  # fmt: skip
    found = net.check(result)
    assert len(np.unique(found.expected["y"])) > min(10, prod(case.shapes[2]) // 2)


REFUSED = [
    (Product("zero point", 4, 5, 6, constant="", bias=False, x=(DType.I8, 3)), {}, "a zero point that no bias accounts for"),
    (Product("16 bits", 4, 5, 6, y=(DType.I16, 3)), {}, "into si16 with a zero point"),
    (Product("float", 4, 5, 6, y=(DType.F16, 0)), {}, "si8, si8, f16, integers and floats at once"),
    (Product("columns", 4, 5, 2), {"multipliers": [3, 4], "rshifts": [1, 1]}, "a requantization for every column"),
    (Product("left", 4, 5, 6), {"left_transpose": True}, "with left_transpose"),
]


@pytest.mark.parametrize(("case", "attributes", "reason"), REFUSED, ids=lambda value: value.id if isinstance(value, Product) else "")
def test_what_no_command_does_is_refused(case: Product, attributes: dict, reason: str, rng: np.random.Generator) -> None:
    net = Network(rng)
    y = net.op(TpuMatMulOp, "y", integer_operands(net, case), case.shapes[2], element(case.y[0], zero_point=case.y[1]), **attributes)
    with pytest.raises(CompileError, match=f"y: tpu.MatMul .*{reason}; this version cannot compile it"):
        generate(net.builder.finish([y]), target.load("bm1684x"))


LOADED_ONCE = [
    Product("constant", 300, 500, 2000),
    Product("constant, transposed", 2000, 300, 500, transposed=True),
    Product("batches of one constant", 65, 300, 1000, (4,), bias=False),
    Product("heads", 65, 70, 65, (2, 3), (2, 3), True, "", bias=False),
]


@pytest.mark.parametrize("case", LOADED_ONCE, ids=lambda case: case.id)
def test_operands_hardly_cross_the_memory_bus_more_than_once(case: Product, rng: np.random.Generator) -> None:
    net = Network(rng)
    result = net.op(TpuMatMulOp, "y", integer_operands(net, case), case.shapes[2], element(DType.I8),
                    multipliers=[1 << 29], rshifts=[40], right_transpose=case.transposed)  # fmt: skip
    [layer] = [layer for layer in net.check(result).simulation.estimate.layers if layer.name == "y"]
    once = sum(prod(shape) for shape in case.shapes) + (4 * case.n if case.bias else 0)
    assert once <= layer.ddr_bytes <= 1.15 * once
    assert layer.macs == prod(case.shapes[2]) * case.k


PRODUCTS = [
    Product("rows of a batch", 65, 63, 40, (2,), relu=True),
    Product("transposed", 33, 130, 65, transposed=True),
    Product("scores of heads", 65, 63, 65, (1, 3), (1, 3), True, "", bias=False),
    Product("weighted values", 65, 65, 63, (1, 3), (1, 3), False, "", bias=False, relu=True),
    Product("weight on the left", 20, 65, 33, (), (4,), False, "left", bias=True),
    Product("a sum of several pieces", 3, 70000, 5, bias=True),
    Product("a sum of several pieces, transposed", 3, 70000, 5, (), (), True, ""),
]  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.value)
@pytest.mark.parametrize("case", PRODUCTS, ids=lambda case: case.id)
def test_float_matrix_products_agree_but_for_the_order_of_sums(case: Product, dtype: DType, rng: np.random.Generator) -> None:
    net = Network(rng)
    left, right, shape = case.shapes
    operands = [
        net.weight("w", exact(rng.normal(size=size).astype(np.float32), dtype), dtype) if side == case.constant else net.input(side, size, dtype)
        for side, size in (("left", left), ("right", right))
    ]  # fmt: skip
    bias = net.weight("bias", exact(rng.normal(size=case.n).astype(np.float32), dtype), dtype) if case.bias else net.none
    y = net.op(TpuMatMulOp, "y", [*operands, bias], shape, dtype, right_transpose=case.transposed, do_relu=case.relu)
    net.check(y, units=64 if dtype is DType.F32 else 1)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.value)
@pytest.mark.parametrize(
    ("shape", "axis", "operands"),
    [((2, 197, 192), 2, "wb"), ((1, 5, 7, 9), 1, "wb"), ((3, 70, 33), 2, "w"), ((70, 65), 1, "b"), ((1, 2, 3), 2, "")],
    ids=str,
)
def test_layer_normalizations_agree(dtype: DType, shape: tuple[int, ...], axis: int, operands: str, rng: np.random.Generator) -> None:
    """Results are below 20 and the sums of kernels and processor differ in order: within 32 units of f32, one of the narrow types."""
    net, size = Network(rng), shape[axis:]
    given = {name: net.weight(name, exact(rng.normal(size=size).astype(np.float32), dtype), dtype) for name in operands}
    x = net.input("x", shape, dtype)
    net.inputs["x"] = exact(net.inputs["x"] * 3 + 2, dtype)
    y = net.op(TpuLayerNormOp, "y", [x, *(given.get(name, net.none) for name in "wb")], shape, dtype,
               axis=axis, normalized_shape=list(size), eps=1e-5)  # fmt: skip
    net.check(y, units=32 if dtype is DType.F32 else 1)


def test_a_layer_normalization_of_too_many_elements_is_refused(rng: np.random.Generator) -> None:
    net = Network(rng)
    shape = (1, 40000)
    y = net.op(TpuLayerNormOp, "y", [net.input("x", shape, DType.F32), net.none, net.none], shape, DType.F32,
               axis=1, normalized_shape=[40000], eps=1e-5)  # fmt: skip
    with pytest.raises(CompileError, match=r"y: tpu\.LayerNorm .*does not fit local memory"):
        net.check(y)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.value)
@pytest.mark.parametrize("shape", [(2, 197, 12), (1, 10)], ids=str)
def test_gelu_agrees(dtype: DType, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    net = Network(rng)
    x = net.input("x", shape, dtype)
    net.inputs["x"] = exact(net.inputs["x"] * 2, dtype)
    net.check(net.op(TpuActiveOp, "y", [x], shape, dtype, mode=enum_attribute(ActiveMode, "GELU")), units=4 if dtype is DType.F32 else 1)


def test_gelu_is_within_a_few_units_of_its_definition_everywhere() -> None:
    """Absolute error below 3e-7 up to 6, and the tail below zero keeps its digits: relative error below 1e-5 down to -9."""
    net = Network(np.random.default_rng(0))
    points = np.linspace(-9, 6, 15001).astype(np.float32)
    x = net.input("x", points.shape, DType.F32)
    net.inputs["x"] = points
    found = net.check(net.op(TpuActiveOp, "y", [x], points.shape, DType.F32, mode=enum_attribute(ActiveMode, "GELU")), units=8)
    defined = np.array([value / 2 * erfc(-value / sqrt(2)) for value in points.tolist()])
    error = np.abs(found.simulation.outputs["y"] - defined)
    assert error.max() < 3e-7
    tail = points < -1
    assert (error[tail] / np.abs(defined[tail])).max() < 1e-5


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.value)
def test_softmax_over_the_last_axis_of_scores_agrees(dtype: DType, rng: np.random.Generator) -> None:
    net, shape = Network(rng), (1, 3, 65, 197)
    operands = [net.input("x", shape, dtype), *[net.none] * 5]
    net.check(net.op(TpuSoftmaxOp, "y", operands, shape, dtype, axis=3), units=64 if dtype is DType.F32 else 1)


@pytest.mark.parametrize("dtype", [DType.I8, DType.F16], ids=lambda dtype: dtype.value)
@pytest.mark.parametrize("shape", [(2, 65, 48), (3, 7), (1, 2, 3, 5, 7)], ids=str)
def test_constants_are_added_and_multiplied_in_any_rank(dtype: DType, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    net = Network(rng)
    x = net.input("x", shape, dtype)
    row, number = (net.weight(name, np.round(rng.normal(size=size) * 20), dtype) for name, size in (("row", shape[-1:]), ("number", (1,))))
    scaled = {} if dtype.is_float else {"multiplier": 77, "rshift": 11}
    weighted = {} if dtype.is_float else {"multipliers": [100, 50], "rshifts": [7, 6]}
    net.check(
        net.op(TpuAddOp, "sum", [x, row], shape, element(dtype), **weighted),
        net.op(TpuMulOp, "product", [x, number], shape, element(dtype), **scaled),
        units=1,
    )
