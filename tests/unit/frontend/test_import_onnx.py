"""Shapes, outputs, names and bad input of the ONNX front end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from bmflow.errors import InputError
from bmflow.frontend.onnx import import_onnx
from bmflow.frontend.onnx.reference import run_onnx
from bmflow.ir.module import Module
from onnx_models import node, save

X = {"x": [1, 4, 8, 8]}
HEAD = [node("Sigmoid", ["x"], ["s"]), node("Reshape", ["s", "t"], ["r"]), node("Transpose", ["r"], ["y"], perm=[0, 1, 3, 4, 2])]
FROZEN = {"t": np.array([1, 2, 2, 8, 8], np.int64)}


def shape_text(module: Module) -> str:
    return str(module).split("->")[1].split("{")[0]


@pytest.mark.parametrize("shape", [[2, 4, 8, 8], [1, 4, 4, 6], [3, 4, 16, 2]])
def test_frozen_reshape_follows_an_overridden_input_shape(tmp_path: Path, converted: Callable[..., Module], shape: list[int]) -> None:
    module = converted(save(tmp_path / "m.onnx", HEAD, X, ["y"], FROZEN), input_shapes=[shape])
    n, _, h, w = shape
    assert f"tensor<{n}x2x{h}x{w}x2xf32>" in shape_text(module)


def test_flattened_reshape_takes_the_rest(tmp_path: Path, converted: Callable[..., Module]) -> None:
    nodes = [node("Sigmoid", ["x"], ["s"]), node("Reshape", ["s", "t"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, X, ["y"], {"t": np.array([1, 4, 64], np.int64)})
    assert "tensor<2x4x24xf32>" in shape_text(converted(path, input_shapes=[[2, 4, 4, 6]]))


def test_frozen_resize_keeps_its_factor(tmp_path: Path, converted: Callable[..., Module]) -> None:
    resize = node("Resize", ["x", "", "", "z"], ["y"], coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    path = save(tmp_path / "m.onnx", [resize], X, ["y"], {"z": np.array([1, 4, 16, 16], np.int64)})
    assert "tensor<2x4x8x12xf32>" in shape_text(converted(path, input_shapes=[[2, 4, 4, 6]]))


def test_dynamic_input_needs_a_shape(tmp_path: Path, converted: Callable[..., Module]) -> None:
    path = save(tmp_path / "m.onnx", [node("Relu", ["x"], ["y"])], {"x": ["batch", 3, 4, 4]}, ["y"])
    with pytest.raises(InputError, match=r"input x has the dynamic shape \[batch,3,4,4\].*--input_shapes"):
        import_onnx(path, "net")
    assert "tensor<2x3x4x4xf32>" in shape_text(converted(path, input_shapes=[[2, 3, 4, 4]]))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [([[1, 4, 8, 8]] * 2, "expected 1 shapes"), ([[1, 4, 8]], "has 4 dimensions"), ([[1, 4, 0, 8]], "at least 1")],
)
def test_shapes_must_fit_the_inputs(tmp_path: Path, shapes: list[list[int]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_onnx(save(tmp_path / "m.onnx", HEAD, X, ["y"], FROZEN), "net", shapes)


def test_output_names_cut_the_graph_in_the_given_order(tmp_path: Path, converted: Callable[..., Module]) -> None:
    nodes = [*HEAD, node("Gather", ["y", "i"], ["dead"])]
    path = save(tmp_path / "m.onnx", nodes, X, ["dead"], FROZEN | {"i": np.array([0], np.int64)})
    assert converted(path, output_names=["r", "s"]).output_names == ["r_Reshape", "s_Sigmoid"]


def test_unknown_output_name_lists_the_nearest(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [node("Relu", ["x"], ["boxes_out"])], X, ["boxes_out"])
    with pytest.raises(InputError, match="no tensor named boxes_ou; did you mean boxes_out"):
        import_onnx(path, "net", output_names=["boxes_ou"])


def test_unsupported_operators_are_listed_all_at_once(tmp_path: Path) -> None:
    nodes = [
        node("Erf", ["x"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Erf", ["b"], ["c"]),
        node("Clip", ["c"], ["d"]),
        node("Tan", ["d"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, X, ["y"])
    with pytest.raises(
        InputError, match=r"4 nodes.*Erf x2 \(only inside GELU .*\): a_Erf, c_Erf; Clip x1 \(range -inf.*\): d_Clip; Tan x1: y_Tan"
    ):
        import_onnx(path, "net")


@pytest.mark.parametrize("opset", [8, 22])
def test_opset_outside_the_range_is_refused(tmp_path: Path, opset: int) -> None:
    path = save(tmp_path / "m.onnx", [node("Relu", ["x"], ["y"])], X, ["y"], opset=opset)
    with pytest.raises(InputError, match=f"opset {opset}; expected 9 to 21"):
        import_onnx(path, "net")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        import_onnx(tmp_path / "none.onnx", "net")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x07", bytes(range(256))])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"m\.onnx"):
        import_onnx(path, "net")


def test_truncation_anywhere_is_refused_or_harmless(tmp_path: Path, rng: np.random.Generator) -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, X, ["y"], {"w": rng.normal(size=(4, 4, 3, 3)).astype(np.float32)})
    data = path.read_bytes()
    for length in range(0, len(data) - 8, 7):
        path.write_bytes(data[:length])
        with pytest.raises(InputError):
            import_onnx(path, "net")


def test_misfit_between_tensors_names_the_layer(tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("Concat", ["r", "z"], ["y"], axis=1)]
    path = save(tmp_path / "m.onnx", nodes, {"x": [1, 4, 8, 8], "z": [1, 4, 7, 8]}, ["y"])
    with pytest.raises(InputError, match="y_Concat"):
        import_onnx(path, "net")


def test_record_is_asked_for_every_input(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [node("Add", ["x", "z"], ["y"])], {"x": [1, 4], "z": [1, 4]}, ["y"])
    asked = []
    imported = import_onnx(path, "net", record=lambda number, shape: asked.append((number, shape)) or {"pad_value": number})
    assert asked == [(1, (1, 4)), (2, (1, 4))]
    assert [op["pad_value"] for op in imported.module.inputs] == [1, 2]


def test_reference_names_every_layer(tmp_path: Path, rng: np.random.Generator) -> None:
    path = save(tmp_path / "m.onnx", HEAD, X, ["y"], FROZEN)
    x = rng.normal(size=(1, 4, 8, 8)).astype(np.float32)
    assert list(run_onnx(path, {"x": x}, all_tensors=True)) == ["x", "s_Sigmoid", "r_Reshape", "y_Transpose"]
    np.testing.assert_allclose(run_onnx(path, {"x": x})["y"].ravel()[0], 1 / (1 + np.exp(-x.ravel()[0])), rtol=1e-6)


def test_reference_refuses_missing_inputs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no array for the input x"):
        run_onnx(save(tmp_path / "m.onnx", HEAD, X, ["y"], FROZEN), {})


def test_imported_graph_is_a_valid_model_without_shape_arithmetic(tmp_path: Path) -> None:
    imported = import_onnx(save(tmp_path / "m.onnx", HEAD, X, ["y"], FROZEN), "net", [[2, 4, 8, 8]])
    onnx.checker.check_model(imported.model, full_check=True)
    assert [n.op_type for n in imported.model.graph.node] == ["Sigmoid", "Reshape", "Transpose"]


def test_frozen_reshape_of_a_model_with_dynamic_batch_follows_too(tmp_path: Path, converted: Callable[..., Module]) -> None:
    target = {"t": np.array([-1, 2, 2, 8, 8], np.int64)}
    path = save(tmp_path / "m.onnx", HEAD, {"x": ["batch", 4, 8, 8]}, ["y"], target)
    assert "tensor<2x2x4x4x2xf32>" in shape_text(converted(path, input_shapes=[[2, 4, 4, 4]]))


@pytest.mark.parametrize(
    ("target", "shape", "expected"),
    [
        ([1, -1, 2], [2, 4, 4, 6], "2x48x2"),
        ([1, 128, 2], [1, 4, 4, 6], "1x48x2"),
        ([-1, 32, 8], [2, 4, 4, 6], "2x16x6"),
        ([0, 4, -1], [3, 4, 8, 2], "3x4x16"),
        ([4, 8, 8, 1, 1], [2, 4, 8, 8], "8x8x8x1x1"),
    ],
)
def test_frozen_reshape_regroups_as_it_was_exported(
    tmp_path: Path, converted: Callable[..., Module], target: list[int], shape: list[int], expected: str
) -> None:
    nodes = [node("Sigmoid", ["x"], ["s"]), node("Reshape", ["s", "t"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, X, ["y"], {"t": np.array(target, np.int64)})
    assert f"tensor<{expected}xf32>" in shape_text(converted(path, input_shapes=[shape]))


def test_frozen_reshape_that_cannot_follow_names_the_layer(tmp_path: Path) -> None:
    nodes = [node("Sigmoid", ["x"], ["s"]), node("Reshape", ["s", "t"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, X, ["y"], {"t": np.array([16, 16], np.int64)})
    with pytest.raises(InputError, match=r"y_Reshape: cannot bring \[1, 4, 3, 3\] into the shape \[16, 16\]"):
        import_onnx(path, "net", [[1, 4, 3, 3]])
