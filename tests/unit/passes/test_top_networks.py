"""The four first networks through the front end and every rewrite: layers, names, text."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from bmflow.frontend.onnx import import_onnx
from bmflow.ir.module import Module
from bmflow.ir.text import parse, print_module
from bmflow.passes import optimize_top


@dataclass(frozen=True)
class Network:
    """A real network with what its graph must come to; counts follow from the operator counts of the ONNX file."""

    name: str
    outputs: tuple[str, ...]
    ops: dict[str, int]
    layer: str


NETWORKS = (
    Network(
        "yolov5n",
        ("head8_Transpose", "head16_Transpose", "head32_Transpose"),
        {"Conv": 60, "SiLU": 57, "Add": 7, "Concat": 13, "MaxPool": 3, "Upsample": 2, "Reshape": 3, "Permute": 3},
        "/model/model.0/act/Mul_output_0_Mul",
    ),
    Network(
        "yolox_nano",
        ("output_Transpose",),
        {
            "Depth2Space": 1,
            "Conv": 113,
            "SiLU": 104,
            "Sigmoid": 6,
            "Add": 7,
            "Concat": 17,
            "MaxPool": 3,
            "Upsample": 2,
            "Reshape": 3,
            "Permute": 1,
        },
        "input_Concat_r_Depth2Space",
    ),
    Network(
        "ultraface_rfb320",
        ("scores_Softmax", "boxes_Concat"),
        {"Conv": 52, "Concat": 3, "Add": 1, "Permute": 8, "Reshape": 8, "Softmax": 1},
        "247_Relu",
    ),
    Network(
        "squeezenet_v1.1",
        ("prob_Softmax",),
        {"Conv": 26, "MaxPool": 3, "Concat": 8, "AvgPool": 1, "Reshape": 1, "Softmax": 1},
        "conv1_relu_conv1_Relu",
    ),
)


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda network: network.name)
def network(request: pytest.FixtureRequest) -> Network:
    """Each network in turn."""
    return request.param


@pytest.fixture(scope="module")
def module(network: Network, test_data: Path) -> Module:
    """The optimized module of a network."""
    imported = import_onnx(test_data / "models" / f"{network.name}.onnx", network.name)
    optimize_top(imported.module)
    return imported.module


def test_network_comes_to_the_expected_layers(network: Network, module: Module) -> None:
    counts = Counter(op.name.removeprefix("top.") for op in module.layers())
    assert dict(counts) == network.ops | {"Input": 1}
    assert tuple(module.output_names) == network.outputs
    assert network.layer in {op.layer_name for op in module.layers()}


def test_text_round_trips_through_our_own_parser(module: Module) -> None:
    text = str(module)
    assert print_module(parse(text)) == text


def test_saved_network_loads_with_the_same_text_and_weights(network: Network, module: Module, tmp_path: Path) -> None:
    module.save(tmp_path / "net.mlir", "net_weight.npz")
    loaded = Module.load(tmp_path / "net.mlir")
    assert str(loaded) == str(module)
    assert sum(array.size for array in loaded.weights.values()) > 100_000


def test_text_parses_in_the_mlir_tools(module: Module, tmp_path: Path) -> None:
    tool = shutil.which("mlir-opt-22") or shutil.which("mlir-opt")
    if tool is None:
        pytest.skip("mlir-opt is not installed (Debian: mlir-22-tools)")
    (tmp_path / "net.mlir").write_text(str(module))
    result = subprocess.run([tool, "--allow-unregistered-dialect", str(tmp_path / "net.mlir")], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
