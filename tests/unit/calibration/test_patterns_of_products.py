"""First, last and one-sided layers of a network of matrix products."""

from __future__ import annotations

from pathlib import Path

import attention_network
import onnx
import pytest
from bmflow.calibration.patterns import one_sided, pattern_table
from bmflow.frontend.onnx import import_onnx
from bmflow.ir.module import Module
from bmflow.passes import optimize_top
from bmflow.search.unit import units


@pytest.fixture
def block(tmp_path: Path) -> Module:
    onnx.save(attention_network.attention_model(), str(tmp_path / "m.onnx"))
    module = import_onnx(tmp_path / "m.onnx", "net").module
    optimize_top(module)
    return module


def test_the_first_and_the_last_layers_end_at_a_product(block: Module) -> None:
    assert list(pattern_table(block, "bm1684x", ["first"]).modes) == ["norm1_LayerNormalization", "qkv_Add"]
    assert list(pattern_table(block, "bm1684x", ["last"]).modes) == ["logits_Gemm"]


def test_a_gelu_that_products_alone_read_is_one_sided(block: Module) -> None:
    assert one_sided(block) == ("active_Gelu", "contracted_Add")


def test_a_gelu_goes_with_the_product_before_it(block: Module) -> None:
    assert ("hidden_Add", "active_Gelu") in units(block)
