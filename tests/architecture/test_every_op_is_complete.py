"""What an op still needs: every op of a dialect must have a meaning, a way down, and instructions."""

from __future__ import annotations

import pytest
from bmflow.codegen.generate import PLANNERS
from bmflow.dialects import DIALECTS
from bmflow.dialects.top import Top
from bmflow.dialects.tpu import Tpu
from bmflow.ir.structure import STRUCTURE_OPS
from bmflow.kernels.emitters import EMITTERS as KERNELS
from bmflow.passes.lowering import LOWERINGS

TOP = sorted(op.name for op in Top.operations if op not in STRUCTURE_OPS)
TPU = sorted(op.name for op in Tpu.operations)


@pytest.mark.parametrize("name", TOP)
def test_top_op_has_a_kernel(name: str) -> None:
    assert name in KERNELS


@pytest.mark.parametrize("name", TOP)
def test_top_op_has_a_lowering(name: str) -> None:
    assert any(row.pattern.name == name for row in LOWERINGS)


@pytest.mark.parametrize("name", TPU)
def test_tpu_op_has_a_kernel(name: str) -> None:
    assert name in KERNELS


@pytest.mark.parametrize("name", TPU)
def test_tpu_op_has_code(name: str) -> None:
    assert name in PLANNERS


@pytest.mark.parametrize("op", [op for dialect in DIALECTS for op in dialect.operations], ids=lambda op: op.name)
def test_op_says_what_it_computes(op: type) -> None:
    assert op.__doc__
