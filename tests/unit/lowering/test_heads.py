"""Head convolutions in 16 bits: which ones, with what step, and that searches see the same numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bmflow import target
from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.elementwise import TopSiLUOp
from bmflow.dialects.top.shape import TopPermuteOp, TopReshapeOp
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.types import DType, dtype_of, quantization_of, tensor_type
from bmflow.kernels import Executable, to_real
from bmflow.passes.lowering import LoweringOptions, lower
from bmflow.passes.lowering.heads import Heads
from bmflow.search.evaluator import Evaluator
from bmflow.search.plan import Candidate
from bmflow.tables.calibration import CalibrationTable, Range
from bmflow.tables.precision import PrecisionTable

SHAPE = (1, 6, 5, 5)
TAIL = {"split": "F16", "turned": "F16"}


def detector() -> Module:
    """x -> body -> act -> head -> split -> turned."""
    builder, rng = ModuleBuilder("net", "ONNX"), np.random.default_rng(3)
    value = builder.input("x", SHAPE)
    for name, make in (("body", TopConvOp), ("act", TopSiLUOp), ("head", TopConvOp)):
        operands, attributes = [value], {}
        if make is TopConvOp:
            operands = [value, builder.weight(f"{name}_w", rng.normal(size=(6, 6, 1, 1)).astype(np.float32)), builder.none]
            attributes = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0, 0, 0, 0]}
        value = builder.append(make.make(name, operands, tensor_type(SHAPE), attributes)).results[0]
    value = builder.append(TopReshapeOp.make("split", [value], tensor_type((1, 6, 25)))).results[0]
    return builder.finish([builder.append(TopPermuteOp.make("turned", [value], tensor_type((1, 25, 6)), {"order": [0, 2, 1]})).results[0]])


def table(head: Range) -> CalibrationTable:
    rows = {"x": Range(2, -2, 2), "body": Range(8, -8, 8), "act": Range(8, -0.3, 8)}
    return CalibrationTable(rows | dict.fromkeys(("head", "split", "turned"), head))


HEAD = Range(threshold=20, low=-30, high=24)
OPTIONS = LoweringOptions(target.load("bm1684x"), "INT8", table=table(HEAD))


def head_of(module: Module) -> LayerOp:
    return next(op for op in module.layers() if op.layer_name == "head")


@pytest.mark.parametrize("asymmetric", [False, True])
def test_the_step_is_a_257th_of_that_of_8_bits_over_all_that_calibration_saw(asymmetric: bool) -> None:
    lowered = lower(detector(), replace(OPTIONS, asymmetric=asymmetric, precision=PrecisionTable(TAIL)))
    found = quantization_of(head_of(lowered).results[0])
    assert found is not None
    assert (found.dtype, found.zero_point) == (DType.I16, 0)
    assert found.scale == pytest.approx(30 / 127 / 257, rel=1e-12)


@pytest.mark.parametrize(
    "modes", [{}, {"split": "F16"}, {"turned": "F16"}, {**TAIL, "head": "F16"}, {**TAIL, "split": "INT8"}], ids=lambda m: "+".join(m)
)
def test_a_head_keeps_8_bits_or_is_float_where_what_reads_it_is_not_float(modes: dict[str, str]) -> None:
    assert not Heads(detector()).wide(modes)
    lowered = lower(detector(), replace(OPTIONS, precision=PrecisionTable(modes)))
    assert dtype_of(head_of(lowered).results[0]) in (DType.I8, DType.F16)


def test_16_bits_bring_the_output_closer_to_float_than_8() -> None:
    module, x = detector(), {"x": np.random.default_rng(5).uniform(-2, 2, SHAPE).astype(np.float32)}
    exact = Executable(module).run(x)["turned"]
    errors = []
    for precision in (None, PrecisionTable(TAIL)):
        lowered = lower(module, replace(OPTIONS, precision=precision))
        value = lowered.outputs[0]
        errors.append(np.abs(to_real(value, Executable(lowered).run(x)[layer_name(value)]) - exact).mean())
    assert errors[1] < 0.8 * errors[0]


def test_a_search_sees_the_numbers_of_the_whole_module() -> None:
    module, x = detector(), {"x": np.random.default_rng(6).uniform(-2, 2, SHAPE).astype(np.float32)}
    for head in (HEAD, Range(threshold=20, low=-21, high=20)):
        rows = table(head)
        lowered = lower(module, replace(OPTIONS, table=rows, precision=PrecisionTable(TAIL)))
        value = lowered.outputs[0]
        whole = to_real(value, Executable(lowered).run(x)[layer_name(value)])
        found = Evaluator(module, OPTIONS, [x]).outputs(Candidate(rows, TAIL), 0)["turned"]
        np.testing.assert_array_equal(found, whole)
