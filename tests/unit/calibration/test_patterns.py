"""Layers better left in float, found by the shape of the network."""

from __future__ import annotations

import numpy as np
import pytest
from bmflow.calibration.patterns import find_family, pattern_table
from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.elementwise import TopSigmoidOp, TopSiLUOp
from bmflow.dialects.top.pool import TopMaxPoolOp
from bmflow.dialects.top.shape import TopConcatOp, TopPermuteOp, TopReshapeOp
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.types import tensor_type
from bmflow.passes.lowering.heads import is_head
from bmflow.tables.precision import PrecisionTable

SHAPE = (1, 4, 8, 8)
WINDOW = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0, 0, 0, 0]}


def detector(pools: int = 3, head: str = "top.Reshape") -> Module:
    """x -> silu -> pools -> concat -> silu -> head convolution -> reshape or sigmoid -> permute."""
    b = ModuleBuilder("net", "ONNX")
    y = b.append(TopSiLUOp.make("stem", [b.input("x", SHAPE)], tensor_type(SHAPE))).results[0]
    branches = [y]
    for i in range(pools):
        pool = {"kernel_shape": [5, 5], "strides": [1, 1], "pads": [2, 2, 2, 2]}
        branches.append(b.append(TopMaxPoolOp.make(f"pool{i}", [branches[-1]], tensor_type(SHAPE), pool)).results[0])
    joined = (1, 4 * len(branches), 8, 8)
    y = b.append(TopConcatOp.make("spp", branches, tensor_type(joined), {"axis": 1})).results[0]
    y = b.append(TopSiLUOp.make("neck", [y], tensor_type(joined))).results[0]
    weight = b.weight("w", np.ones((4, joined[1], 1, 1)))
    y = b.append(TopConvOp.make("head", [y, weight, b.none], tensor_type(SHAPE), WINDOW)).results[0]
    if head == "top.Reshape":
        y = b.append(TopReshapeOp.make("split", [y], tensor_type((1, 4, 64)))).results[0]
    else:
        y = b.append(TopSigmoidOp.make("split", [y], tensor_type(SHAPE))).results[0]
        y = b.append(TopReshapeOp.make("flat", [y], tensor_type((1, 4, 64)))).results[0]
    return b.finish([b.append(TopPermuteOp.make("turned", [y], tensor_type((1, 64, 4)), {"order": [0, 2, 1]})).results[0]])


def test_three_pools_and_a_concat_are_a_yolo_network() -> None:
    family = find_family(detector())
    assert family is not None
    assert family.name == "yolo"
    assert find_family(detector(pools=2)) is None


def test_what_follows_a_head_convolution_becomes_float_and_the_convolution_does_not() -> None:
    table = pattern_table(detector(), "bm1684x")
    assert table.modes == {"split": "F16", "turned": "F16"}
    assert PrecisionTable.parse(table.text()) == table
    assert "# pattern layers\nsplit F16\nturned F16\n" in table.text()


@pytest.mark.parametrize(("chip", "mode"), [("bm1684", "F32"), ("bm1688", "F16"), ("cv181x", "BF16")])
def test_the_float_type_is_the_processors(chip: str, mode: str) -> None:
    assert set(pattern_table(detector(), chip).modes.values()) == {mode}


def test_a_convolution_read_by_an_activation_is_no_head() -> None:
    module = detector(head="top.Sigmoid")
    assert not any(is_head(op) for op in module.layers())
    assert pattern_table(module, "bm1684x").modes == {}


def test_another_family_has_no_pattern_layers_but_a_table() -> None:
    table = pattern_table(detector(pools=1), "bm1684x")
    assert table.modes == {}
    assert PrecisionTable.parse(table.text()) == table
