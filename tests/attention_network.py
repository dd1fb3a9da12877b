"""A transformer block as exporters write it: attention over eight tokens, a perceptron, a classifier on the first token.

Two spellings of one function with the same weights: the operators of opset 20, or their chains as PyTorch wrote them for opset 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

TOKENS, CHANNELS, HEADS, HIDDEN, CLASSES = 8, 16, 2, 32, 10
OUTLIERS = (3, 11)
"""Channels whose values `outlier` makes larger behind a normalization."""
EPSILON = 1e-5


class _Network:
    """Nodes and constants in the making; weights depend on the seed and on their name, not on the order they are asked for."""

    def __init__(self, decomposed: bool, seed: int):
        self.decomposed, self.seed = decomposed, seed
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, values: np.ndarray | Sequence[int] | float) -> str:
        array = np.asarray(values)
        self.constants[name] = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        return name

    def random(self, name: str, *shape: int, spread: float = 1.0) -> np.ndarray:
        return np.random.default_rng([self.seed, *name.encode()]).normal(0, spread, shape)

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def linear(self, x: str, name: str, rows: int, columns: int, divisor: np.ndarray | float = 1.0) -> str:
        """MatMul and the Add of its bias; row k of the weights is divided by divisor[k]."""
        weights = self.random(f"{name}_weight", rows, columns, spread=rows**-0.5) / np.reshape(divisor, (-1, 1))
        product = self.node("MatMul", [x, self.constant(f"{name}_weight", weights)], f"{name}_product")
        return self.node("Add", [self.constant(f"{name}_bias", self.random(f"{name}_bias", columns, spread=0.2)), product], name)

    def layer_norm(self, x: str, name: str, factor: np.ndarray) -> str:
        """Normalize the last axis; gamma and beta are multiplied by `factor`."""
        gamma = self.constant(f"{name}_gamma", (1 + self.random(f"{name}_gamma", CHANNELS, spread=0.2)) * factor)
        beta = self.constant(f"{name}_beta", self.random(f"{name}_beta", CHANNELS, spread=0.2) * factor)
        if not self.decomposed:
            return self.node("LayerNormalization", [x, gamma, beta], name, axis=-1, epsilon=EPSILON)
        mean = self.node("ReduceMean", [x], f"{name}_mean", axes=[-1])
        centred = self.node("Sub", [x, mean], f"{name}_centred")
        square = self.node("Pow", [centred, self.constant("two", 2.0)], f"{name}_square")
        variance = self.node("ReduceMean", [square], f"{name}_variance", axes=[-1])
        guarded = self.node("Add", [variance, self.constant("epsilon", EPSILON)], f"{name}_guarded")
        normal = self.node("Div", [centred, self.node("Sqrt", [guarded], f"{name}_deviation")], f"{name}_normal")
        return self.node("Add", [self.node("Mul", [normal, gamma], f"{name}_scaled"), beta], name)

    def gelu(self, x: str, name: str) -> str:
        if not self.decomposed:
            return self.node("Gelu", [x], name)
        error = self.node("Erf", [self.node("Div", [x, self.constant("root_two", 2**0.5)], f"{name}_argument")], f"{name}_erf")
        one_more = self.node("Add", [error, self.constant("one", 1.0)], f"{name}_one_more")
        return self.node("Mul", [self.node("Mul", [x, one_more], f"{name}_doubled"), self.constant("half", 0.5)], name)

    def attention(self, x: str, divisor: np.ndarray) -> str:
        size = CHANNELS // HEADS
        qkv = self.linear(x, "qkv", CHANNELS, 3 * CHANNELS, divisor)
        parts, thirds = ["q_flat", "k_flat", "v_flat"], self.constant("thirds", [CHANNELS] * 3)
        self.nodes.append(helper.make_node("Split", [qkv, thirds], parts, name="qkv_split", axis=-1))
        split = self.constant("split_heads", [1, TOKENS, HEADS, size])
        heads = [self.node("Reshape", [part, split], f"{part[0]}_heads") for part in parts]
        orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        q, k, v = (self.node("Transpose", [h], h[0], perm=order) for h, order in zip(heads, orders, strict=True))
        scores = self.node("MatMul", [q, k], "scores")
        scaled = (
            self.node("Div", [scores, self.constant("root_size", size**0.5)], "scaled_scores")
            if self.decomposed
            else self.node("Mul", [scores, self.constant("scale", size**-0.5)], "scaled_scores")
        )
        mixed = self.node("MatMul", [self.node("Softmax", [scaled], "probabilities", axis=-1), v], "mixed")
        joined = self.node("Transpose", [mixed], "mixed_tokens", perm=[0, 2, 1, 3])
        return self.node("Reshape", [joined, self.constant("join_heads", [1, TOKENS, CHANNELS])], "joined")

    def build(self, outlier: float) -> None:
        factor = np.ones(CHANNELS)
        factor[list(OUTLIERS)] = outlier
        attended = self.linear(self.attention(self.layer_norm("x", "norm1", factor), factor), "projection", CHANNELS, CHANNELS)
        residual = self.node("Add", ["x", attended], "residual1")
        hidden = self.gelu(self.linear(self.layer_norm(residual, "norm2", factor), "hidden", CHANNELS, HIDDEN, factor), "active")
        block = self.node("Add", [residual, self.linear(hidden, "contracted", HIDDEN, CHANNELS)], "block")
        first = self.node("Gather", [block, self.constant("first", np.array(0))], "token", axis=1)
        head = self.constant("head_weight", self.random("head_weight", CLASSES, CHANNELS, spread=CHANNELS**-0.5))
        bias = self.constant("head_bias", self.random("head_bias", CLASSES, spread=0.2))
        self.node("Gemm", [first, head, bias], "logits", transB=1)


def attention_model(decomposed: bool = False, outlier: float = 1.0, seed: int = 7) -> ModelProto:
    """Input x (1, 8, 16), output logits (1, 10); two heads.

    Args:
        decomposed: LayerNorm and GELU as chains of opset 13, the scores divided; else the operators of opset 20.
        outlier: factor on gamma and beta of two channels of both normalizations, by which the rows of the next MatMul are divided:
            activations with outliers, the same function.
    """
    network = _Network(decomposed, seed)
    network.build(outlier)
    graph = helper.make_graph(
        network.nodes, "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, TOKENS, CHANNELS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in network.constants.items()],
    )  # fmt: skip
    opset = helper.make_opsetid("", 13 if decomposed else 20)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=9)
    onnx.checker.check_model(model)
    return model


def samples(count: int, seed: int = 11) -> list[np.ndarray]:
    """Inputs (1, 8, 16) of the network."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(1, TOKENS, CHANNELS)).astype(np.float32) for _ in range(count)]
