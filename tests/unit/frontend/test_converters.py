"""Each operator, in the forms that opsets 9 to 21 write it, agrees with onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bmflow.ir.module import Module
from onnx import TensorProto, helper
from onnx_models import node, save

X = {"x": [1, 4, 6, 8]}


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def names(module: Module) -> list[str]:
    return [f"{op.name} {op.layer_name}" for op in module.layers() if op.name != "top.Input"]


@pytest.mark.parametrize("pads", [{"pads": [1, 0, 2, 1]}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"auto_pad": "VALID"}])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_conv(tmp_path: Path, rng: np.random.Generator, converted: Callable[..., Module], pads: dict[str, Any], group: int) -> None:
    constants = {"w": rng.normal(size=(8, 4 // group, 3, 2)).astype(np.float32), "b": rng.normal(size=8).astype(np.float32)}
    conv = node("Conv", ["x", "w", "b"], ["y"], group=group, strides=[2, 1], **pads)
    module = converted(save(tmp_path / "m.onnx", [conv], X, ["y"], constants))
    assert names(module) == ["top.Conv y_Conv"]


def test_conv_with_dilation_and_no_bias(tmp_path: Path, rng: np.random.Generator, converted: Callable[..., Module]) -> None:
    conv = node("Conv", ["x", "w"], ["y"], dilations=[2, 1], kernel_shape=[2, 2])
    converted(save(tmp_path / "m.onnx", [conv], X, ["y"], {"w": rng.normal(size=(3, 4, 2, 2)).astype(np.float32)}))


def test_pad_before_conv_dissolves(tmp_path: Path, rng: np.random.Generator, converted: Callable[..., Module]) -> None:
    nodes = [node("Pad", ["x", "p"], ["q"]), node("Conv", ["q", "w"], ["y"], pads=[1, 1, 1, 1])]
    constants = {"p": i64(0, 0, 0, 1, 0, 0, 2, 1), "w": rng.normal(size=(3, 4, 3, 3)).astype(np.float32)}
    module = converted(save(tmp_path / "m.onnx", nodes, X, ["y"], constants))
    assert names(module) == ["top.Conv y_Conv"]
    assert "pads = [1, 2, 3, 2]" in str(module)


def test_pad_of_opset_9_before_pools_dissolves(tmp_path: Path, converted: Callable[..., Module]) -> None:
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("Pad", ["r"], ["q"], pads=[0, 0, 1, 0, 0, 0, 1, 1]),
        node("MaxPool", ["q"], ["y"], kernel_shape=[3, 3]),
        node("AveragePool", ["q"], ["z"], kernel_shape=[3, 3]),
    ]
    converted(save(tmp_path / "m.onnx", nodes, X, ["y", "z"], opset=9))


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
def test_pools(tmp_path: Path, converted: Callable[..., Module], kind: str, ceil: int) -> None:
    pool = node(kind, ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0], ceil_mode=ceil)
    converted(save(tmp_path / "m.onnx", [pool], X, ["y"], opset=12))


def test_average_pool_that_counts_its_pads(tmp_path: Path, converted: Callable[..., Module]) -> None:
    pool = node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    converted(save(tmp_path / "m.onnx", [pool], X, ["y"]))


def test_global_pools_take_the_whole_picture(tmp_path: Path, converted: Callable[..., Module]) -> None:
    nodes = [node("GlobalAveragePool", ["x"], ["y"]), node("GlobalMaxPool", ["x"], ["z"])]
    module = converted(save(tmp_path / "m.onnx", nodes, X, ["y", "z"]))
    assert names(module) == ["top.AvgPool y_GlobalAveragePool", "top.MaxPool z_GlobalMaxPool"]
    assert str(module).count("kernel_shape = [6, 8]") == 2


def test_batch_normalization_after_conv_and_alone(tmp_path: Path, rng: np.random.Generator, converted: Callable[..., Module]) -> None:
    stats = {n: rng.uniform(0.5, 1.5, 4).astype(np.float32) for n in ("g", "b", "m", "v")}
    nodes = [
        node("BatchNormalization", ["x", "g", "b", "m", "v"], ["n"], epsilon=1e-3),
        node("Conv", ["n", "w"], ["c"]),
        node("BatchNormalization", ["c", "g", "b", "m", "v"], ["k"]),
        node("Relu", ["k"], ["y"]),
    ]
    constants = stats | {"w": rng.normal(size=(4, 4, 1, 1)).astype(np.float32)}
    module = converted(save(tmp_path / "m.onnx", nodes, X, ["y"], constants))
    assert names(module) == ["top.Conv n_BatchNormalization", "top.Conv y_Relu"]


@pytest.mark.parametrize(("opset", "bounds"), [(9, None), (11, (0.0, 0.5)), (13, (0.0, None))])
def test_clip_from_zero_is_relu_with_a_limit(
    tmp_path: Path, converted: Callable[..., Module], opset: int, bounds: tuple[float | None, ...] | None
) -> None:
    if bounds is None:
        clip, constants = node("Clip", ["x"], ["y"], min=0.0, max=0.5), {}
    else:
        constants = {name: np.float32(value) for name, value in zip("ab", bounds, strict=True) if value is not None}
        clip = node("Clip", ["x", *constants], ["y"])
    module = converted(save(tmp_path / "m.onnx", [clip], X, ["y"], {n: np.array(v) for n, v in constants.items()}, opset))
    assert names(module) == ["top.Relu y_Clip"]


def test_arithmetic_broadcasts_and_takes_constants(tmp_path: Path, rng: np.random.Generator, converted: Callable[..., Module]) -> None:
    nodes = [
        node("Mul", ["x", "k"], ["a"]),
        node("Add", ["s", "a"], ["b"]),
        node("Sum", ["a", "b", "x"], ["c"]),
        node("Mul", ["c", "c"], ["y"]),
    ]
    converted(
        save(tmp_path / "m.onnx", nodes, X, ["y"], {"k": rng.normal(size=(4, 1, 1)).astype(np.float32), "s": np.array(np.float32(2))})
    )


@pytest.mark.parametrize(("opset", "axis", "count"), [(11, 1, 3), (11, 3, 1), (11, -1, 1), (13, 1, 1), (13, -1, 1), (21, 2, 1)])
def test_softmax_before_opset_13_flattens(tmp_path: Path, converted: Callable[..., Module], opset: int, axis: int, count: int) -> None:
    module = converted(save(tmp_path / "m.onnx", [node("Softmax", ["x"], ["y"], axis=axis)], X, ["y"], opset=opset))
    assert len(names(module)) == count
    assert module.output_names == ["y_Softmax"]


def test_concat_counts_negative_axes(tmp_path: Path, converted: Callable[..., Module]) -> None:
    module = converted(save(tmp_path / "m.onnx", [node("Concat", ["x", "x"], ["y"], axis=-3)], X, ["y"]))
    assert "axis = 1" in str(module)


@pytest.mark.parametrize(
    ("start", "end", "axis", "step"), [(1, 2**63 - 1, 3, 2), (-3, -1, 2, 1), (-100, 100, 1, 1), (0, -2, -1, 3), (2, 2**31, 1, 1)]
)
def test_slice_resolves_its_bounds(tmp_path: Path, converted: Callable[..., Module], start: int, end: int, axis: int, step: int) -> None:
    constants = {"s": i64(start), "e": i64(end), "a": i64(axis), "t": i64(step)}
    nodes = [node("Slice", ["x", "s", "e", "a", "t"], ["c"]), node("Sigmoid", ["c"], ["y"])]
    converted(save(tmp_path / "m.onnx", nodes, X, ["y"], constants), optimize=False)


def test_slice_of_opset_9(tmp_path: Path, converted: Callable[..., Module]) -> None:
    converted(save(tmp_path / "m.onnx", [node("Slice", ["x"], ["y"], starts=[1, 0], ends=[3, -1], axes=[1, 2])], X, ["y"], opset=9))


@pytest.mark.parametrize(("opset", "sizes"), [(11, None), (11, [1, 3]), (13, [1, 3])])
def test_split_becomes_slices(tmp_path: Path, converted: Callable[..., Module], opset: int, sizes: list[int] | None) -> None:
    constants = {"s": i64(*sizes)} if sizes and opset >= 13 else {}
    attributes = {"split": sizes} if sizes and opset < 13 else {}
    split = node("Split", ["x", *constants], ["a", "b"], axis=1, **attributes)
    module = converted(save(tmp_path / "m.onnx", [split], X, ["a", "b"], constants, opset))
    assert names(module) == ["top.Slice a_Split", "top.Slice b_Split"]


@pytest.mark.parametrize("opset", [11, 13])
def test_squeeze_unsqueeze_flatten_are_reshapes(tmp_path: Path, converted: Callable[..., Module], opset: int) -> None:
    axes = {"axes": [0]} if opset < 13 else {}
    inputs = [] if opset < 13 else ["i"]
    nodes = [
        node("Squeeze", ["x", *inputs], ["a"], **axes),
        node("Sigmoid", ["a"], ["b"]),
        node("Unsqueeze", ["b", *inputs], ["c"], **axes),
        node("Flatten", ["c"], ["y"], axis=2),
    ]
    module = converted(save(tmp_path / "m.onnx", nodes, X, ["y"], {"i": i64(0)} if inputs else {}, opset))
    assert names(module) == ["top.Reshape a_Squeeze", "top.Sigmoid b_Sigmoid", "top.Reshape y_Flatten"]


def test_transpose_without_order_reverses(tmp_path: Path, converted: Callable[..., Module]) -> None:
    assert "order = [3, 2, 1, 0]" in str(converted(save(tmp_path / "m.onnx", [node("Transpose", ["x"], ["y"])], X, ["y"])))


RESIZES = {
    "upsample of opset 9": (9, node("Upsample", ["x", "s"], ["y"])),
    "resize of opset 10": (10, node("Resize", ["x", "s"], ["y"])),
    "asymmetric floor": (11, node("Resize", ["x", "r", "s"], ["y"], coordinate_transformation_mode="asymmetric", nearest_mode="floor")),
    "half pixel, default rounding": (13, node("Resize", ["x", "", "s"], ["y"])),
    "sizes": (13, node("Resize", ["x", "", "", "z"], ["y"], coordinate_transformation_mode="asymmetric", nearest_mode="floor")),
}


@pytest.mark.parametrize("form", RESIZES)
def test_resize_by_whole_factors_is_upsample(tmp_path: Path, converted: Callable[..., Module], form: str) -> None:
    opset, resize = RESIZES[form]
    constants = {"s": f32(1, 1, 2, 3), "r": f32(), "z": i64(1, 4, 12, 24)}
    used = {name: array for name, array in constants.items() if name in resize.input}
    module = converted(save(tmp_path / "m.onnx", [resize], X, ["y"], used, opset))
    assert names(module) == [f"top.Upsample y_{resize.op_type}"]
    assert "scale_h = 2 : i64, scale_w = 3 : i64" in str(module)


def test_skipped_nodes_leave_no_op(tmp_path: Path, converted: Callable[..., Module]) -> None:
    nodes = [
        node("Identity", ["x"], ["a"]),
        node("Dropout", ["a"], ["b"]),
        node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
        node("AveragePool", ["c"], ["d"], kernel_shape=[1, 1]),
        node("Relu", ["d"], ["y"]),
    ]
    assert names(converted(save(tmp_path / "m.onnx", nodes, X, ["y"]))) == ["top.Relu y_Relu"]


def test_shape_arithmetic_folds(tmp_path: Path, converted: Callable[..., Module]) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Unsqueeze", ["n", "axes"], ["u"]),
        node("Constant", [], ["minus"], value=helper.make_tensor("v", TensorProto.INT64, [1], [-1])),
        node("Concat", ["u", "minus"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["y"]),
    ]
    constants = {"zero": np.array(0, np.int64), "axes": i64(0)}
    module = converted(save(tmp_path / "m.onnx", nodes, X, ["y"], constants))
    assert names(module) == ["top.Reshape y_Reshape"]
    assert "shape = [1, 192]" in str(module)
