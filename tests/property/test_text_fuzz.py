"""A damaged .mlir text never ends in anything but an InputError or a module."""

from __future__ import annotations

import numpy as np
import pytest
from bmflow.dialects.top.elementwise import TopReluOp
from bmflow.errors import InputError
from bmflow.ir import text
from bmflow.ir.module import ModuleBuilder
from bmflow.ir.types import CalibratedType, DType, UniformType, tensor_type

MUTATIONS = 3000


@pytest.fixture(scope="module")
def source() -> str:
    build = ModuleBuilder("toy", "ONNX")
    x = build.input("data", [1, 3, 8, 8], {"mean": [0.5], "resize_dims": [8, 8], "keep_aspect_ratio": True})
    y = build.append(TopReluOp.make("y", [x], tensor_type([1, 3, 8, 8], CalibratedType.get(0, 1)))).results[0]
    z = build.append(TopReluOp.make("z", [y], tensor_type([1, 3, 8, 8], UniformType.get(DType.I8, 0.5, -3)))).results[0]
    return str(build.finish([z]))


def mutate(source: str, rng: np.random.Generator) -> str:
    at, length = int(rng.integers(len(source))), int(rng.integers(1, 12))
    match int(rng.integers(4)):
        case 0:
            return source[:at]
        case 1:
            return source[:at] + source[at + length :]
        case 2:
            return source[:at] + chr(int(rng.integers(1, 128))) + source[at + 1 :]
        case _:
            other = int(rng.integers(len(source)))
            return source[:at] + source[other : other + length] + source[at:]


def test_thousands_of_damaged_texts_give_a_module_or_an_input_error(source: str, rng: np.random.Generator) -> None:
    refused = 0
    for _ in range(MUTATIONS):
        try:
            text.parse(mutate(source, rng))
        except InputError:
            refused += 1
    assert refused > MUTATIONS // 2
