"""A transformer block in both spellings of exporters, and the first encoder layer of a real network, against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attention_network
import numpy as np
import onnx
import pytest
from bmflow.frontend.onnx import import_onnx
from bmflow.frontend.onnx.reference import run_onnx
from bmflow.ir.module import Module
from bmflow.ir.types import is_none, shape_of
from bmflow.kernels import Executable
from bmflow.passes import optimize_top
from onnx import TensorProto, helper

Converted = Callable[..., Module]


def saved(path: Path, **spelling: object) -> Path:
    onnx.save(attention_network.attention_model(**spelling), str(path))  # pyright: ignore[reportArgumentType]
    return path


@pytest.mark.parametrize("decomposed", [False, True], ids=["operators", "chains"])
@pytest.mark.parametrize("optimize", [False, True])
def test_every_layer_agrees_with_onnxruntime(tmp_path: Path, converted: Converted, decomposed: bool, optimize: bool) -> None:
    converted(saved(tmp_path / "m.onnx", decomposed=decomposed), optimize=optimize)


def test_both_spellings_give_the_same_module(tmp_path: Path) -> None:
    modules = []
    for decomposed in (False, True):
        modules.append(import_onnx(saved(tmp_path / "m.onnx", decomposed=decomposed), "net").module)
        optimize_top(modules[-1])
    forms = [[(op.name, shape_of(op.results[0]), sum(map(is_none, op.operands))) for op in module.layers()] for module in modules]
    assert forms[0] == forms[1]
    renamed = {"scaled_scores_Mul": "scaled_scores_Div", "active_Gelu": "active_GELU"}
    assert [renamed.get(op.layer_name, op.layer_name) for op in modules[0].layers()] == [op.layer_name for op in modules[1].layers()]
    kinds = [op.name for op in modules[0].layers()]
    assert (kinds.count("top.MatMul"), kinds.count("top.LayerNorm"), kinds.count("top.Add")) == (7, 2, 2)


def test_outliers_leave_the_function_as_it_is(tmp_path: Path) -> None:
    x = attention_network.samples(1)[0]
    plain, with_outliers = (_logits(saved(tmp_path / "m.onnx", outlier=factor), x) for factor in (1.0, 30.0))
    np.testing.assert_allclose(plain, with_outliers, rtol=1e-4, atol=1e-5)


def _logits(path: Path, x: np.ndarray) -> np.ndarray:
    module = import_onnx(path, "net").module
    optimize_top(module)
    y = Executable(module, threads=1).run({"x": x})["logits_Gemm"]
    np.testing.assert_allclose(y, run_onnx(path, {"x": x}, threads=1)["logits"], rtol=1e-5, atol=1e-5)
    return y


def encoder_layer(path: Path) -> onnx.ModelProto:
    """Nodes of LSTR (lane detection) from its tokens 492 and positions 501, both (240, 1, 32), to the result 680 of the first layer.

    Its mask hides nothing in a picture of the network's own size, so the scores go around the Where.
    """
    model = onnx.load(str(path))
    nodes, needed = [], {"680"}
    for node in reversed(model.graph.node):
        if needed & set(node.output) and node.op_type != "Where":
            nodes.insert(0, node)
            node.input[:] = ["626" if name == "631" else name for name in node.input]
            needed |= set(node.input) - {"492", "501"}
    tokens = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [240, 1, 32]) for name in ("492", "501")]
    constants = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    result = helper.make_tensor_value_info("680", TensorProto.FLOAT, [240, 1, 32])
    graph = helper.make_graph(nodes, "encoder", tokens, [result], constants)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def test_encoder_layer_of_a_real_network(tmp_path: Path, test_data: Path, converted: Converted) -> None:
    onnx.save(encoder_layer(test_data / "models" / "lstr_360x640.onnx"), str(tmp_path / "m.onnx"))
    module = converted(tmp_path / "m.onnx")
    kinds = [op.name.removeprefix("top.") for op in module.layers()]
    assert {kind: kinds.count(kind) for kind in ("MatMul", "LayerNorm", "Softmax", "Add", "Mul", "Relu")} == {
        "MatMul": 8, "LayerNorm": 2, "Softmax": 1, "Add": 3, "Mul": 0, "Relu": 0,
    }  # fmt: skip
    assert [op.layer_name for op in module.layers() if op.name == "top.LayerNorm"] == ["661_LayerNormalization", "680_LayerNormalization"]
