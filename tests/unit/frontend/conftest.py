"""Import a small model, optimize it, and hold every layer against onnxruntime."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from bmflow.frontend.onnx import import_onnx
from bmflow.frontend.onnx.reference import run_onnx
from bmflow.ir.module import Module
from bmflow.ir.types import shape_of
from bmflow.passes import optimize_top


def _top_numpy() -> ModuleType:
    path = Path(__file__).parents[2] / "filecheck" / "top_numpy.py"
    spec = importlib.util.spec_from_file_location("top_numpy_of_frontend", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Converted = Callable[..., Module]


@pytest.fixture
def converted(rng: np.random.Generator) -> Converted:
    """Import and optimize a model; every layer with a counterpart in onnxruntime must agree with it, outputs included."""
    top_numpy = _top_numpy()

    def run(path: Path, *, optimize: bool = True, **options: object) -> Module:
        imported = import_onnx(path, "net", **options)  # pyright: ignore[reportArgumentType]
        if optimize:
            optimize_top(imported.module)
        inputs = {op.layer_name: rng.normal(size=shape_of(op.output)).astype(np.float32) for op in imported.module.inputs}
        references = run_onnx(imported.model, inputs, all_tensors=True, threads=1, fused=imported.fused)
        results = top_numpy.run(imported.module, inputs)
        assert set(imported.module.output_names) & set(references)
        for name in results.keys() & references.keys():
            assert results[name].shape == references[name].shape, name
            np.testing.assert_allclose(results[name], references[name], rtol=1e-4, atol=1e-5, err_msg=name)
        return imported.module

    return run
