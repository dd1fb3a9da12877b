"""Scaled activations in float between 8-bit convolutions: 16 bits in, 8 bits out, and the same numbers in searches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bmflow import target
from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.elementwise import TopScaledActiveOp
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.types import DType, Quantization, dtype_of, quantization_of, tensor_type
from bmflow.ir.values import SSAValue
from bmflow.kernels import Executable, to_real
from bmflow.passes.lowering import LoweringOptions, lower
from bmflow.search.evaluator import Evaluator
from bmflow.search.plan import Candidate
from bmflow.search.unit import units
from bmflow.tables.calibration import CalibrationTable, Range
from bmflow.tables.precision import PrecisionTable

SHAPE = (1, 6, 6, 5)
ROWS = {"x": Range(2, -2, 2), "body": Range(1, -1, 1), "act": Range(3, -0.1, 3), "last": Range(9, -9, 9)}
OPTIONS = LoweringOptions(target.load("bm1684x"), "INT8", asymmetric=True, table=CalibrationTable(ROWS))
IN_FLOAT = {"act": "F16"}


def network() -> Module:
    """x -> body -> act -> last, act with scales per channel."""
    builder, rng = ModuleBuilder("net", "ONNX"), np.random.default_rng(3)

    def conv(name: str, value: SSAValue, gain: float) -> SSAValue:
        operands = [value, builder.weight(f"{name}_w", (gain * rng.normal(size=(6, 6, 1, 1))).astype(np.float32)), builder.none]
        attributes = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0, 0, 0, 0]}
        return builder.append(TopConvOp.make(name, operands, tensor_type(SHAPE), attributes)).results[0]

    scales = {"scale_in": rng.uniform(2, 6, 6), "shift_in": rng.normal(size=6), "scale_out": rng.uniform(0.1, 0.2, 6)}
    weights = [builder.weight(name, array.reshape(1, -1, 1, 1).astype(np.float32)) for name, array in scales.items()]
    body = conv("body", builder.input("x", SHAPE), 0.3)
    act = builder.append(TopScaledActiveOp.make("act", [body, *weights], tensor_type(SHAPE), {"mode": "SILU"})).results[0]
    return builder.finish([conv("last", act, 1)])


def form(module: Module, name: str) -> Quantization | DType:
    op: LayerOp = next(op for op in module.layers() if op.layer_name == name)
    return quantization_of(op.results[0]) or dtype_of(op.results[0])


def test_the_argument_has_16_bits_with_room_and_the_result_8() -> None:
    """A step of 4 / 127 / 257 for four times the range; the result -0.1..3 over 255 steps."""
    lowered = lower(network(), replace(OPTIONS, precision=PrecisionTable(IN_FLOAT)))
    assert form(lowered, "body") == Quantization(DType.I16, pytest.approx(4 / 127 / 257))
    result = form(lowered, "act")
    assert isinstance(result, Quantization)
    assert (result.dtype, result.scale) == (DType.I8, pytest.approx(3.1 / 255))
    assert "tpu.Cast" not in {op.name for op in lowered.layers() if "act" in op.layer_name}


@pytest.mark.parametrize("modes", [{**IN_FLOAT, "last": "F16"}, {**IN_FLOAT, "last": "F16", "body": "F16"}], ids=str)
def test_the_result_is_float_where_a_float_layer_reads_it(modes: dict[str, str]) -> None:
    lowered = lower(network(), replace(OPTIONS, precision=PrecisionTable(modes)))
    assert form(lowered, "act") is DType.F16
    assert form(lowered, "body") is DType.F16 if "body" in modes else form(lowered, "body") != DType.F16


def test_values_beyond_the_range_seen_and_between_its_steps_come_closer_to_float() -> None:
    module, rng = network(), np.random.default_rng(5)
    samples = [{"x": rng.uniform(-2, 2, SHAPE).astype(np.float32)} for _ in range(4)]
    errors = []
    for precision in (None, PrecisionTable(IN_FLOAT)):
        lowered = lower(module, replace(OPTIONS, precision=precision))
        value, network_in_8 = lowered.outputs[0], Executable(lowered)
        pairs = [(Executable(module).run(x)["last"], to_real(value, network_in_8.run(x)[layer_name(value)])) for x in samples]
        errors.append(np.mean([np.square(found - exact).mean() for exact, found in pairs]))
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("modes", [{}, IN_FLOAT, {**IN_FLOAT, "last": "F16"}, {"body": "F16"}], ids=str)
def test_a_search_sees_the_numbers_of_the_whole_module(modes: dict[str, str]) -> None:
    module, x = network(), {"x": np.random.default_rng(6).uniform(-2, 2, SHAPE).astype(np.float32)}
    lowered = lower(module, replace(OPTIONS, precision=PrecisionTable(modes)))
    value = lowered.outputs[0]
    whole = to_real(value, Executable(lowered).run(x)[layer_name(value)])
    assert OPTIONS.table is not None
    found = Evaluator(module, OPTIONS, [x]).outputs(Candidate(OPTIONS.table, modes), 0)["last"]
    np.testing.assert_array_equal(found, whole)


def test_a_search_may_lift_such_an_activation_alone() -> None:
    assert units(network()) == [("body",), ("act",), ("last",)]
