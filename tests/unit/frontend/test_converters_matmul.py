"""Matrix products, layer normalization, GELU and the arithmetic with constants around them, each against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bmflow.errors import InputError
from bmflow.frontend.onnx import import_onnx
from bmflow.ir.module import Module
from onnx import NodeProto
from onnx_models import node, save

X = {"x": [2, 3, 4]}
Converted = Callable[..., Module]


def names(module: Module) -> list[str]:
    return [f"{op.name} {op.layer_name}" for op in module.layers() if op.name != "top.Input"]


def f32(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(4, 5), (2, 4, 5), (1, 4, 5)])
def test_product_with_a_constant_matrix(tmp_path: Path, rng: np.random.Generator, converted: Converted, shape: tuple[int, ...]) -> None:
    module = converted(save(tmp_path / "m.onnx", [node("MatMul", ["x", "w"], ["y"])], X, ["y"], {"w": f32(rng, *shape)}))
    assert names(module) == ["top.MatMul y_MatMul"]
    assert 'loc("w")' in str(module)


def test_product_with_a_constant_on_the_left(tmp_path: Path, rng: np.random.Generator, converted: Converted) -> None:
    module = converted(save(tmp_path / "m.onnx", [node("MatMul", ["w", "x"], ["y"])], X, ["y"], {"w": f32(rng, 5, 3)}))
    assert names(module) == ["top.MatMul y_MatMul"]


def test_product_of_two_computed_matrices_broadcasts(tmp_path: Path, converted: Converted) -> None:
    path = save(tmp_path / "m.onnx", [node("MatMul", ["x", "z"], ["y"])], {"x": [2, 1, 3, 4], "z": [5, 4, 2]}, ["y"])
    assert "tensor<2x5x3x2xf32>" in str(converted(path))


@pytest.mark.parametrize("left", [True, False], ids=["vector left", "vector right"])
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "computed"])
def test_vectors_become_matrices(tmp_path: Path, rng: np.random.Generator, converted: Converted, left: bool, constant: bool) -> None:
    shape = {"x": [2, 3, 4]}
    vector = f32(rng, 3 if left else 4)
    inputs = shape if constant else shape | {"v": list(vector.shape)}
    product = node("MatMul", ["v", "x"] if left else ["x", "v"], ["y"])
    module = converted(save(tmp_path / "m.onnx", [product], inputs, ["y"], {"v": vector} if constant else {}))
    assert names(module)[-2:] == ["top.MatMul y_MatMul_product", "top.Reshape y_MatMul"]


@pytest.mark.parametrize("bias", [(5,), (1, 5), (1,), (), (3, 5), (3, 1), None])
@pytest.mark.parametrize(("alpha", "beta", "transposed"), [(1.0, 1.0, 0), (1.0, 1.0, 1), (0.5, 2.0, 1), (2.0, 0.0, 0)])
def test_gemm(
    tmp_path: Path, rng: np.random.Generator, converted: Converted, bias: tuple[int, ...] | None, alpha: float, beta: float, transposed: int
) -> None:
    constants = {"w": f32(rng, 5, 4) if transposed else f32(rng, 4, 5)} | ({} if bias is None else {"b": np.array(f32(rng, *bias))})
    gemm = node("Gemm", ["x", *constants], ["y"], alpha=alpha, beta=beta, transB=transposed)
    module = converted(save(tmp_path / "m.onnx", [gemm], {"x": [3, 4]}, ["y"], constants))
    outside = bias in ((3, 5), (3, 1)) and beta != 0
    assert names(module) == (["top.MatMul y_Gemm_product", "top.Add y_Gemm"] if outside else ["top.MatMul y_Gemm"])
    assert ("coeff = [1.0, 2.0]" in str(module)) == (outside and beta == 2.0)


def test_gemm_of_two_computed_matrices_is_read_transposed(tmp_path: Path, converted: Converted) -> None:
    gemm = node("Gemm", ["x", "z"], ["y"], transB=1)
    assert "right_transpose = true" in str(converted(save(tmp_path / "m.onnx", [gemm], {"x": [3, 4], "z": [5, 4]}, ["y"])))


@pytest.mark.parametrize("axis", [-1, 1, -2])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_normalization(tmp_path: Path, rng: np.random.Generator, converted: Converted, axis: int, bias: bool) -> None:
    size = (3, 4)[axis:] if axis < 0 else (3, 4)
    constants = {"g": f32(rng, *size)} | ({"b": f32(rng, *size)} if bias else {})
    norm = node("LayerNormalization", ["x", *constants], ["y"], axis=axis, epsilon=0.01)
    module = converted(save(tmp_path / "m.onnx", [norm], X, ["y"], constants, opset=17))
    assert names(module) == ["top.LayerNorm y_LayerNormalization"]
    assert f"axis = {3 - len(size)} : i64, normalized_shape = {list(size)}" in str(module)


def test_gelu(tmp_path: Path, converted: Converted) -> None:
    module = converted(save(tmp_path / "m.onnx", [node("Gelu", ["x"], ["y"])], X, ["y"], opset=20))
    assert names(module) == ["top.GELU y_Gelu"]


@pytest.mark.parametrize("shape", [(), (4,), (3, 1)])
def test_quotient_by_a_constant_is_a_product_by_its_reciprocal(
    tmp_path: Path, rng: np.random.Generator, converted: Converted, shape: tuple[int, ...]
) -> None:
    divisor = np.asarray(rng.uniform(0.5, 2.0, shape), np.float32)
    module = converted(save(tmp_path / "m.onnx", [node("Div", ["x", "c"], ["y"])], X, ["y"], {"c": divisor}))
    assert names(module) == ["top.Mul y_Div"]
    np.testing.assert_allclose(module.weights["y_Div_reciprocal"], 1 / divisor.reshape(divisor.shape or (1,)), rtol=1e-7)


def test_differences(tmp_path: Path, rng: np.random.Generator, converted: Converted) -> None:
    nodes = [node("Sub", ["x", "c"], ["a"]), node("Sub", ["c", "a"], ["b"]), node("Sub", ["b", "x"], ["y"])]
    module = converted(save(tmp_path / "m.onnx", nodes, X, ["y"], {"c": f32(rng, 4)}))
    assert names(module) == ["top.Add a_Sub", "top.Add b_Sub", "top.Add y_Sub"]
    assert str(module).count("coeff = [1.0, -1.0]") == 2
    np.testing.assert_array_equal(module.weights["a_Sub_negated"], -module.weights["c"])


@pytest.mark.parametrize("index", [0, 2, -1])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_by_a_number_cuts_and_drops_the_axis(tmp_path: Path, converted: Converted, index: int, axis: int) -> None:
    gather = node("Gather", ["x", "i"], ["y"], axis=axis)
    module = converted(save(tmp_path / "m.onnx", [gather], {"x": [3, 3, 4]}, ["y"], {"i": np.array(index)}))
    assert names(module) == ["top.Slice y_Gather_slice", "top.Reshape y_Gather"]


@pytest.mark.parametrize("indices", [[1], [-1], [0, 1, 2], [0, 2]])
def test_gather_by_a_list_with_equal_distances_is_a_slice(tmp_path: Path, converted: Converted, indices: list[int]) -> None:
    gather = node("Gather", ["x", "i"], ["y"], axis=2)
    module = converted(save(tmp_path / "m.onnx", [gather], X, ["y"], {"i": np.array(indices)}))
    assert names(module) == ["top.Slice y_Gather"]


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (3, 4)])
@pytest.mark.parametrize("axes", [[0], [1], [-1], [-2, -1], [0, 1], None])
@pytest.mark.parametrize("keep", [0, 1])
def test_mean_is_an_average_pool(tmp_path: Path, converted: Converted, shape: tuple[int, ...], axes: list[int] | None, keep: int) -> None:
    mean = node("ReduceMean", ["x"], ["y"], keepdims=keep) if axes is None else node("ReduceMean", ["x"], ["y"], axes=axes, keepdims=keep)
    if not keep and (axes is None or len(axes) == len(shape)):
        with pytest.raises(InputError, match=r"ReduceMean x1 \(its result is a single number"):
            import_onnx(save(tmp_path / "m.onnx", [mean], {"x": list(shape)}, ["y"]), "net")
        return
    module = converted(save(tmp_path / "m.onnx", [mean], {"x": list(shape)}, ["y"]))
    assert [op.name for op in module.layers()].count("top.AvgPool") == 1


def test_mean_over_the_picture_is_a_global_pool(tmp_path: Path, converted: Converted) -> None:
    mean = node("ReduceMean", ["x", "axes"], ["y"])
    module = converted(save(tmp_path / "m.onnx", [mean], {"x": [1, 3, 6, 8]}, ["y"], {"axes": np.array([2, 3])}, opset=18))
    assert names(module) == ["top.AvgPool y_ReduceMean"]
    assert "kernel_shape = [6, 8]" in str(module)


CONSTANTS = {"w": np.ones((4, 5), np.float32), "v": np.ones(4, np.float32), "zero": np.zeros(1, np.float32), "i": np.array([0, 2, 1])}
REFUSED = {
    "transA": (node("Gemm", ["m", "w"], ["y"], transA=1), r"Gemm x1 \(transA; only its second matrix"),
    "alpha": (node("Gemm", ["m", "m"], ["y"], alpha=0.5), r"Gemm x1 \(alpha 0.5 with a computed second matrix"),
    "mean": (node("LayerNormalization", ["x", "v"], ["y", "mean"]), r"LayerNormalization x1 \(its mean or its deviation is used"),
    "tanh": (node("Gelu", ["x"], ["y"], approximate="tanh"), r"Gelu x1 \(approximate tanh; only the exact form"),
    "divisor": (node("Div", ["x", "x"], ["y"]), r"Div x1 \(what it divides by is not constant"),
    "zero": (node("Div", ["x", "zero"], ["y"]), r"Div x1 \(it divides by 0"),
    "scale": (node("LayerNormalization", ["x", "u"], ["y"]), r"LayerNormalization x1 \(its scale is not constant"),
    "two vectors": (node("MatMul", ["u", "v"], ["y"]), r"MatMul x1 \(the product of two vectors is a single number"),
    "order": (node("Gather", ["x", "i"], ["y"], axis=2), r"Gather x1 \(indices \[0, 2, 1\]; only one, or several at equal distances"),
    "number": (node("Gather", ["u", "first"], ["y"]), r"Gather x1 \(its result is a single number"),
    "root alone": (node("Sqrt", ["x"], ["y"]), r"Sqrt x1 \(only inside layer normalization"),
    "axes apart": (node("ReduceMean", ["x", "apart"], ["y"]), r"ReduceMean x1 \(axes \[0, 2\]; only neighbouring ones"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_says_so(tmp_path: Path, case: str) -> None:
    refused, message = REFUSED[case]
    inputs: dict[str, Any] = {"x": [2, 3, 4], "m": [4, 4], "u": [4]}
    constants = CONSTANTS | {"first": np.array(0), "apart": np.array([0, -1])}
    path = save(tmp_path / "m.onnx", [refused], inputs, [name for name in refused.output if name], constants, opset=20)
    with pytest.raises(InputError, match=message):
        import_onnx(path, "net")


def test_shapes_that_do_not_fit_name_the_layer(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [node("MatMul", ["x", "w"], ["y"])], X, ["y"], {"w": np.ones((3, 5), np.float32)})
    with pytest.raises(InputError, match=r"y_MatMul: its inputs \(x \[2, 3, 4\], w \[3, 5\]\) do not fit"):
        import_onnx(path, "net")


def test_a_name_the_file_uses_is_not_taken_for_a_new_constant(tmp_path: Path, rng: np.random.Generator, converted: Converted) -> None:
    nodes: list[NodeProto] = [node("Div", ["x", "c"], ["y"]), node("Add", ["y", "y_Div_reciprocal"], ["z"])]
    constants = {"c": f32(rng, 4), "y_Div_reciprocal": f32(rng, 4)}
    module = converted(save(tmp_path / "m.onnx", nodes, X, ["z"], constants))
    assert 'loc("y_Div_reciprocal_0")' in str(module)
