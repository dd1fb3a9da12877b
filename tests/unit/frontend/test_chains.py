"""Layer normalization and GELU as exporters spelled them before there were operators for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bmflow.errors import InputError
from bmflow.frontend.onnx import import_onnx
from bmflow.ir.module import Module
from onnx import NodeProto
from onnx_models import node, save

X = {"x": [2, 5, 4]}
Converted = Callable[..., Module]
CONSTANTS = {
    "two": np.float32(2), "half": np.float32(0.5), "one": np.float32(1), "eps": np.float32(1e-3), "root2": np.float32(2**0.5),
    "inverse": np.array([2**-0.5], np.float32), "last": np.array([-1]), "last2": np.array([2, 1]),
    "gamma": np.linspace(0.5, 2, 4, dtype=np.float32), "beta": np.linspace(-1, 1, 4, dtype=np.float32).reshape(1, 1, 4),
    "gamma2": np.linspace(0.5, 2, 20, dtype=np.float32).reshape(5, 4), "number": np.array([3], np.float32),
}  # fmt: skip


def chain(*steps: str) -> list[NodeProto]:
    """Nodes from lines like `a = Sub x mean`."""
    nodes = []
    for step in steps:
        output, call = step.split(" = ")
        kind, *inputs = call.split()
        axes = {"axes": [-1]} if kind == "ReduceMean" and len(inputs) == 1 else {}
        nodes.append(node(kind, inputs, [output], **axes))
    return nodes


def used(nodes: list[NodeProto]) -> dict[str, np.ndarray]:
    read = {name for n in nodes for name in n.input}
    return {name: np.asarray(array) for name, array in CONSTANTS.items() if name in read}


def names(module: Module) -> list[str]:
    return [f"{op.name} {op.layer_name}" for op in module.layers() if op.name != "top.Input"]


NORM = ("mean = ReduceMean x", "c = Sub x mean", "s = Pow c two", "v = ReduceMean s", "g = Add v eps", "d = Sqrt g", "n = Div c d")
LAYER_NORM = ["top.LayerNorm y_LayerNormalization"]
NORMS: dict[str, tuple[int, list[str], list[str]]] = {
    "gamma and beta": (13, LAYER_NORM, [*NORM, "a = Mul n gamma", "y = Add a beta"]),
    "operands exchanged": (13, LAYER_NORM, [*NORM[:4], "g = Add eps v", *NORM[5:], "a = Mul gamma n", "y = Add beta a"]),
    "bare": (13, LAYER_NORM, [*NORM[:6], "y = Div c d"]),
    "beta alone": (13, LAYER_NORM, [*NORM, "y = Add n beta"]),
    "square as a product": (13, LAYER_NORM, [*NORM[:2], "s = Mul c c", *NORM[3:6], "y = Div c d"]),
    "two differences": (13, LAYER_NORM, [*NORM[:2], "m2 = ReduceMean x", "c2 = Sub x m2", "s = Pow c2 two", *NORM[3:6], "y = Div c d"]),
    "axes as an input": (18, LAYER_NORM, ["mean = ReduceMean x last", *NORM[1:3], "v = ReduceMean s last", *NORM[4:], "y = Mul n gamma"]),
    "two axes": (18, LAYER_NORM, ["mean = ReduceMean x last2", *NORM[1:3], "v = ReduceMean s last2", *NORM[4:], "y = Mul n gamma2"]),
    "product by a number": (13, ["top.LayerNorm n_LayerNormalization", "top.Mul y_Mul"], [*NORM, "y = Mul n number"]),
    "product read twice": (
        13, ["top.LayerNorm a_LayerNormalization", "top.Add b_Add", "top.Mul y_Mul"],
        [*NORM, "a = Mul n gamma", "b = Add a beta", "y = Mul a b"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NORMS)
def test_chain_of_a_layer_normalization_becomes_one_op(tmp_path: Path, converted: Converted, case: str) -> None:
    opset, expected, steps = NORMS[case]
    nodes = chain(*steps)
    assert names(converted(save(tmp_path / "m.onnx", nodes, X, ["y"], used(nodes), opset))) == expected


GELUS = {
    "x * (1 + erf) * .5": ("a = Div x root2", "e = Erf a", "p = Add e one", "b = Mul x p", "y = Mul b half"),
    ".5 * x first": ("h = Mul half x", "a = Mul x inverse", "e = Erf a", "p = Add one e", "y = Mul h p"),
    ".5 * (1 + erf) first": ("a = Mul inverse x", "e = Erf a", "p = Add e one", "b = Mul p half", "y = Mul b x"),
    "half as a quotient": ("a = Div x root2", "e = Erf a", "p = Add e one", "b = Mul p x", "y = Div b two"),
}


@pytest.mark.parametrize("case", GELUS)
@pytest.mark.parametrize("before", [(), ("x2 = Mul x half",)], ids=["input", "product before"])
def test_chain_of_a_gelu_becomes_one_op(tmp_path: Path, converted: Converted, case: str, before: tuple[str, ...]) -> None:
    steps = [step.replace(" x ", " x2 ") if before else step for step in (f"{s} " for s in GELUS[case])]
    nodes = chain(*before, *steps)
    assert names(converted(save(tmp_path / "m.onnx", nodes, X, ["y"], used(nodes)))) == [
        *(["top.Mul x2_Mul"] if before else []),
        "top.GELU y_GELU",
    ]


def test_gelu_times_another_value_is_still_one(tmp_path: Path, converted: Converted) -> None:
    nodes = chain(*GELUS["half as a quotient"], "z = Mul y x")
    assert names(converted(save(tmp_path / "m.onnx", nodes, X, ["z"], used(nodes)))) == ["top.GELU y_GELU", "top.Mul z_Mul"]


BARE, QUOTIENT = [*NORM[:6], "y = Div c d"], [*GELUS["half as a quotient"]]
REFUSED: dict[str, tuple[str, list[str], str]] = {
    "variance read twice": (
        "y", [*NORM, "y = Mul n v"], r"Pow x1 \(part of a LayerNormalization, but its inner value v is read by y_Mul, too\): s_Pow",
    ),
    "deviation is an output": ("d", BARE, r"Sqrt x1 \(part of a LayerNormalization, but its inner value d is an output of the network\)"),
    "cube": ("y", [*NORM[:2], "s = Pow c number", *BARE[3:]], r"Pow x1 \(only inside layer normalization .* is it supported\): s_Pow"),
    "erf read twice": ("z", [*QUOTIENT, "z = Add y e"], r"Erf x1 \(part of a GELU, but its inner value e is read by z_Add, too\)"),
    "another argument": ("y", ["a = Div x two", *QUOTIENT[1:]], r"Erf x1 \(only inside GELU .* is it supported\)"),
    "doubled": ("y", [*QUOTIENT[:3], "y = Mul p x"], r"Erf x1 \(only inside GELU"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_chain_that_is_none_stays_and_is_named(tmp_path: Path, case: str) -> None:
    output, steps, message = REFUSED[case]
    nodes = chain(*steps)
    path = save(tmp_path / "m.onnx", nodes, X, list(dict.fromkeys(["y", output])), used(nodes))
    with pytest.raises(InputError, match=message):
        import_onnx(path, "net")


def test_means_over_leading_axes_are_no_layer_normalization(tmp_path: Path) -> None:
    nodes = [
        node(n.op_type, n.input, n.output, **({"axes": [1]} if n.op_type == "ReduceMean" else {})) for n in chain(*NORM[:6], "y = Div c d")
    ]
    with pytest.raises(InputError, match=r"Pow x1 \(only inside layer normalization"):
        import_onnx(save(tmp_path / "m.onnx", nodes, X, ["y"], used(nodes)), "net")
