"""A small network taken through every tool once, for tests that start where a user would be."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS = ("x", "a_Relu", "p_MaxPool", "y_Conv")


def run(tool: str, *arguments: str) -> int:
    """Call a tool as its console script does."""
    return import_module(f"bmflow.cli.{tool}").main(list(arguments))


def build(folder: Path) -> None:
    """In the current folder `folder`: pictures, net.onnx, module, inputs and outputs, table, and net_int8.bmodel."""
    rng = np.random.default_rng(1684)
    (folder / "pictures").mkdir()
    for number in range(4):
        cv2.imwrite(str(folder / "pictures" / f"{number}.png"), rng.integers(0, 256, (16, 16, 3), np.uint8))
    onnx.save(network(rng), str(folder / "net.onnx"))
    assert run("model_transform", *TRANSFORM) == 0
    assert run("run_calibration", *CALIBRATE) == 0
    assert run("model_deploy", *DEPLOY) == 0


def network(rng: np.random.Generator) -> onnx.ModelProto:
    """x (1,3,16,16) -> Conv 3x3 to 8 channels -> Relu -> MaxPool 2x2 -> Conv 1x1 to 4 channels -> y (1,4,8,8)."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["a"]),
        helper.make_node("MaxPool", ["a"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w2"], ["y"], kernel_shape=[1, 1]),
    ]
    weights = {"w1": rng.normal(size=(8, 3, 3, 3)), "b1": rng.normal(size=8), "w2": rng.normal(size=(4, 8, 1, 1))}
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 3, 16, 16]), ("y", [1, 4, 8, 8])))
    graph = helper.make_graph(nodes, "net", [x], [y], [numpy_helper.from_array(np.float32(a), name) for name, a in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


PICTURE = ("--pixel_format", "rgb", "--mean", "0,0,0", "--scale", "0.01,0.01,0.01")
TRANSFORM = (
    "--model_name", "net", "--model_def", "net.onnx", "--mlir", "net.mlir", *PICTURE,
    "--test_input", "pictures/0.png", "--test_result", "net_top_outputs.npz",
)  # fmt: skip
CALIBRATE = ("net.mlir", "--dataset", "pictures", "--input_num", "4", "-o", "net_table")
DEPLOY = (
    "--mlir", "net.mlir", "--processor", "bm1684x", "--quantize", "INT8", "--calibration_table", "net_table",
    "--test_input", "net_in_f32.npz", "--test_reference", "net_top_outputs.npz", "--tolerance", "0.9,0.5", "--model", "net_int8.bmodel",
)  # fmt: skip
