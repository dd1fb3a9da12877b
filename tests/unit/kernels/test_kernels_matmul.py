"""Matrix products in integers and floats, layer normalization, GELU."""

from __future__ import annotations

from dataclasses import dataclass
from math import erf, sqrt

import meaning
import numpy as np
import pytest
from bmflow.dialects.top.elementwise import TopGELUOp
from bmflow.dialects.top.matmul import TopLayerNormOp, TopMatMulOp
from bmflow.dialects.tpu.compute import TpuActiveOp
from bmflow.dialects.tpu.matmul import TpuLayerNormOp, TpuMatMulOp
from bmflow.errors import CompileError
from bmflow.ir.attributes import ActiveMode, enum_attribute
from bmflow.ir.types import DType
from one_op import FLOATS, Kind, OneOp, draw, exact

I8, U8 = Kind(DType.I8), Kind(DType.U8)


@dataclass(frozen=True)
class Product:
    """Operands and the requantization (multiplier, rshift); `constant` says whether the right one is a weight."""

    id: str
    x: tuple[int, ...]
    right: tuple[int, ...]
    kinds: tuple[Kind, Kind] = (I8, I8)
    y: Kind = I8
    form: tuple[int, int] = (1_234_567_890, 38)
    constant: bool = True
    bias: bool = True
    transposed: bool = False
    relu: bool = False


PRODUCTS = [
    Product("rank 2", (3, 17), (17, 5)),
    Product("tokens", (2, 3, 17), (17, 5), (U8, I8), U8, relu=True),
    Product("no bias", (1, 7, 33), (33, 6), bias=False),
    Product("zero points", (2, 3, 17), (17, 5), (Kind(DType.I8, -37), I8), Kind(DType.I8, 12), relu=True),
    Product("unsigned zero points", (4, 9), (9, 5), (Kind(DType.U8, 201), I8), Kind(DType.U8, 99)),
    Product("heads", (1, 2, 4, 8), (1, 2, 8, 4), constant=False, bias=False, form=(1_777_777_777, 39)),
    Product("keys read transposed", (2, 4, 8), (2, 6, 8), constant=False, bias=False, transposed=True),
    Product("probabilities", (2, 4, 8), (2, 8, 3), (U8, I8), constant=False, bias=False),
    Product("signed by unsigned", (4, 8), (8, 3), (I8, U8), constant=False),
    Product("broadcast", (3, 1, 4, 8), (2, 8, 3), constant=False, bias=False),
    Product("a constant that is transposed", (3, 17), (5, 17), transposed=True),
    Product("left shift", (2, 3), (3, 2), form=(3, -1), bias=False),
    Product("ties", (40, 1), (1, 40), form=(1, 3), bias=False),
]


@pytest.mark.parametrize("case", PRODUCTS, ids=lambda case: case.id)
def test_integer_products(case: Product, rng: np.random.Generator) -> None:
    net, x, right = OneOp(), draw(rng, case.x, case.kinds[0].dtype), draw(rng, case.right, case.kinds[1].dtype)
    matrix = np.swapaxes(right, -1, -2) if case.transposed else right
    columns, sums = matrix.shape[-1], matrix.astype(np.int64).sum(-2)
    bias = rng.integers(-40000, 40000, columns) - (case.kinds[0].zero * sums if case.constant else 0)
    weight = net.weight("w", right, case.kinds[1].dtype) if case.constant else net.given(right, case.kinds[1])
    exact_sum = np.einsum("...mk,...kn->...mn", x.astype(object), matrix.astype(object)) + (bias if case.bias else 0)
    operands = [net.given(x, case.kinds[0]), weight, net.weight("b", bias, DType.I32) if case.bias else net.none]
    y = net.run(net.op(
        TpuMatMulOp, "y", operands, exact_sum.shape, case.y,
        multipliers=[case.form[0]], rshifts=[case.form[1]], right_transpose=case.transposed, do_relu=case.relu,
    ))  # fmt: skip
    np.testing.assert_array_equal(
        y, meaning.saturate(meaning.half_up(exact_sum * case.form[0], case.form[1]), case.y.dtype, case.y.zero, case.relu)
    )


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.value)
@pytest.mark.parametrize("transposed", [False, True])
def test_float_products_are_rounded_once(rng: np.random.Generator, dtype: DType, transposed: bool) -> None:
    net, x, w, b = OneOp(), draw(rng, (2, 3, 8), dtype), draw(rng, (8, 5), dtype), draw(rng, (5,), dtype)
    operands = [net.given(x, Kind(dtype)), net.weight("w", w.T if transposed else w, dtype), net.weight("b", b, dtype)]
    y = net.run(net.op(TpuMatMulOp, "y", operands, (2, 3, 5), Kind(dtype), right_transpose=transposed, do_relu=True))
    expected = np.maximum(x.astype(np.float64) @ w + b, 0)
    step = {DType.F32: 2.0**-22, DType.F16: 2.0**-10, DType.BF16: 2.0**-7}[dtype]
    np.testing.assert_allclose(y, expected, rtol=step, atol=step)
    np.testing.assert_array_equal(y, exact(y, dtype))


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("affine", ["both", "weight", "bias", "none"])
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.value)
def test_layer_normalization(rng: np.random.Generator, axis: int, affine: str, dtype: DType) -> None:
    net, x, size = OneOp(), draw(rng, (2, 6, 5), dtype), (6, 5)[axis - 1 :]
    weight, bias = (draw(rng, size, dtype) if affine in ("both", name) else None for name in ("weight", "bias"))
    constants = [net.none if a is None else net.weight(n, a, dtype) for n, a in (("w", weight), ("b", bias))]
    kind = TopLayerNormOp if dtype is DType.F32 else TpuLayerNormOp
    operands = [net.given(x, Kind(dtype)), *constants]
    y = net.run(net.op(kind, "y", operands, (2, 6, 5), Kind(dtype), axis=axis, normalized_shape=list(size), eps=0.01))
    rows = x.astype(np.float64).reshape(-1, np.prod(size))
    normal = ((rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 0.01)).reshape(x.shape)
    expected = normal * (1 if weight is None else weight) + (0 if bias is None else bias)
    step = {DType.F32: 2.0**-20, DType.F16: 2.0**-10, DType.BF16: 2.0**-7}[dtype]
    np.testing.assert_allclose(y, expected, rtol=step, atol=step)


@pytest.mark.parametrize("kind", [TopGELUOp, TpuActiveOp])
def test_gelu(rng: np.random.Generator, kind: type) -> None:
    net, x = OneOp(), np.concatenate([rng.normal(0, 3, 50), [0, -9, 9, 1e-4, -40, 40]])
    settings = {"mode": enum_attribute(ActiveMode, "GELU")} if kind is TpuActiveOp else {}
    y = net.run(net.op(kind, "y", [net.given(x)], x.shape, **settings))
    np.testing.assert_allclose(y, [v / 2 * (1 + erf(v / sqrt(2))) for v in x], rtol=1e-5, atol=1e-6)


def test_forms_that_no_front_end_makes_are_refused() -> None:
    net = OneOp()
    x = net.given(np.ones((2, 3)))
    with pytest.raises(CompileError, match=r"y: top\.MatMul with left_transpose, output_transpose, hdim_is_batch or without keep_dims"):
        net.run(net.op(TopMatMulOp, "y", [x, net.given(np.ones((2, 4))), net.none], (3, 4), left_transpose=True))
    net = OneOp()
    with pytest.raises(CompileError, match=r"y: top\.GELU in an approximation"):
        net.run(net.op(TopGELUOp, "y", [net.given(np.ones(3))], (3,), approx_mode="tanh"))


@pytest.mark.parametrize(("zero_x", "zero_right"), [(5, 0), (0, 5)])
def test_zero_points_of_two_computed_operands_are_refused(zero_x: int, zero_right: int) -> None:
    net, ones = OneOp(), np.ones((2, 2))
    operands = [net.given(ones, Kind(DType.I8, zero_x)), net.given(ones, Kind(DType.I8, zero_right)), net.none]
    with pytest.raises(CompileError, match=r"y: tpu\.MatMul with zero points other than that of its input"):
        net.run(net.op(TpuMatMulOp, "y", operands, (2, 2), I8))
