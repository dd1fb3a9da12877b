"""Results of single layers, types at the ends of a network, and tensors that lie where they cannot."""

from __future__ import annotations

import numpy as np
import pytest
from bmflow.container.model import Bmodel
from bmflow.errors import InputError
from bmflow.ir.types import DType
from bmflow.isa.program import LayerSpan, ProgramTensor
from bmflow.simulator import Simulator
from simulator_bench import COEFF, Shape, bmodel, dma, local_address, numbered

CTX = COEFF + 256
ROW: Shape = (64, 64, 64, 1)


def two_layers(rng: np.random.Generator) -> tuple[Bmodel, np.ndarray]:
    """Layer b overwrites the memory of layer a; c is another name for b."""
    weights = rng.integers(-128, 128, 256).astype(np.int8)
    gdma = [
        dma((local_address(0), ROW), (COEFF, ROW), (1, 1, 1, 64)), dma((CTX, ROW), (local_address(0), ROW), (1, 1, 1, 64)),
        dma((local_address(0), ROW), (COEFF + 64, ROW), (1, 1, 1, 64)), dma((CTX, ROW), (local_address(0), ROW), (1, 1, 1, 64)),
    ]  # fmt: skip
    a, b, c = (ProgramTensor(name, shape, DType.I8, CTX) for name, shape in (("a", (64,)), ("b", (8, 8)), ("c", (64,))))
    layers = [LayerSpan("a", "tpu.Cast", a, 0, -1, 1, 2), LayerSpan("b", "tpu.Cast", b, 0, -1, 3, 4), LayerSpan("c", "tpu.Reshape", c)]
    return bmodel(*numbered([], gdma), weights.tobytes(), 4096, outputs=[c], layers=layers), weights


def test_a_layer_is_read_before_a_later_one_takes_its_memory(rng: np.random.Generator) -> None:
    model, weights = two_layers(rng)
    tensors = Simulator(model).run({}, layers="all").tensors
    assert list(tensors) == ["a", "b", "c"]
    assert np.array_equal(tensors["a"], weights[:64])
    assert np.array_equal(tensors["b"], weights[64:128].reshape(8, 8))
    assert np.array_equal(tensors["c"], weights[64:128])


def test_only_the_layers_asked_for_are_returned(rng: np.random.Generator) -> None:
    model, _ = two_layers(rng)
    assert list(Simulator(model).run({}, layers=["b"]).tensors) == ["b"]
    assert Simulator(model).run({}).tensors == {}


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16, DType.F32])
def test_floats_go_in_rounded_and_come_out_as_float32(dtype: DType, rng: np.random.Generator) -> None:
    values = rng.normal(size=(4, 4)).astype(np.float32)
    kind = {DType.F16: "f16", DType.BF16: "bf16", DType.F32: "f32"}[dtype]
    row: Shape = (16, 16, 16, 1)
    x, y = ProgramTensor("x", (4, 4), dtype, CTX), ProgramTensor("y", (4, 4), dtype, CTX + 64)
    gdma = [
        dma((local_address(0), row), (CTX, row), (1, 1, 1, 16), kind),
        dma((CTX + 64, row), (local_address(0), row), (1, 1, 1, 16), kind),
    ]
    result = Simulator(bmodel(*numbered([], gdma), bytes(256), 4096, [x], [y])).run({"x": values}).outputs["y"]
    bits = values.view(np.uint32)
    half = {
        DType.F16: values.astype(np.float16).astype(np.float32), DType.F32: values,
        DType.BF16: ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32),
    }[dtype]  # fmt: skip
    assert result.dtype == np.float32
    assert np.array_equal(result, half)


def test_a_layer_outside_of_memory_is_refused() -> None:
    layer = LayerSpan("a", "tpu.Cast", ProgramTensor("a", (64,), DType.I8, CTX + 4090), 0, -1, 0, -1)
    model = bmodel(*numbered([], []), bytes(256), 4096, layers=[layer])
    with pytest.raises(InputError, match="tensor a lies outside of the activation memory"):
        Simulator(model).run({}, layers="all")
