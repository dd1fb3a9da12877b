"""One MLflow store for all tests (its tables take seconds to make), and small bmodels to put into it."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from contextlib import chdir
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
from bmflow.container import bmodel
from bmflow.evaluation.spec import DetectorSpec, Family
from bmflow_components.tracking.card import Card
from bmflow_components.tracking.flavor import Origin
from bmflow_components.tracking.registration import Registration
from bmflow_components.tracking.store import Patience, Store
from onnx import TensorProto, helper, numpy_helper
from smallest import program

SPEC = DetectorSpec(Family.YOLOV5, ("circle", "square", "star"), (1, 2, 3), {8: ((1.0, 1.5),)})
"""Three classes, one anchor of 8 x 12 pixels at stride 8."""


@cache
def folder() -> Path:
    """A folder that lives as long as the tests."""
    made = Path(tempfile.mkdtemp(prefix="bmflow-tracking-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@cache
def shared_store() -> Store:
    """SQLite and a folder."""
    return Store.open(f"sqlite:///{folder()}/store/mlflow.db", experiment="tests", patience=Patience(20, 60, 0.05, 0.5))


def small_bmodel(scale: float = 0.1) -> Path:
    """A file with one convolution; another scale gives another file."""
    file = folder() / f"small-{scale}.bmodel"
    if not file.is_file():
        file.write_bytes(bmodel.write(program(input_scale=scale), "Tue Nov 24 09:30:00 2026\n"))
    return file


def registration(name: str, key: str, scale: float = 0.1, **named: object) -> Registration:
    """A small bmodel ready to be registered."""
    card = Card("shapes", "BM1684X", "INT8", "finds shapes")
    return Registration(name, key, small_bmodel(scale), Origin("INT8"), card, metrics={"int8/map": scale}, **named)  # type: ignore[arg-type]


@cache
def detector_files() -> tuple[Path, Path, Path]:
    """A detector of 32 x 32 pictures as ONNX, F32 and F16 bmodel: one convolution with kernel and stride 8."""
    rng = np.random.default_rng(1684)
    weights = [
        numpy_helper.from_array((rng.normal(size=(8, 3, 8, 8)) / 4).astype(np.float32), "w"),
        numpy_helper.from_array(np.zeros(8, np.float32), "b"),
    ]
    node = helper.make_node("Conv", ["images", "w", "b"], ["head"], kernel_shape=[8, 8], strides=[8, 8])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in (("images", [1, 3, 32, 32]), ("head", [1, 8, 4, 4])))
    model = helper.make_model(
        helper.make_graph([node], "net", [x], [y], weights), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    network, f32, f16 = (folder() / name for name in ("detector.onnx", "detector_f32.bmodel", "detector_f16.bmodel"))
    onnx.save(model, str(network))
    with chdir(folder()):
        transform = ("--model_name", "net", "--model_def", str(network), "--mlir", "net.mlir")
        assert import_module("bmflow.cli.model_transform").main(list(transform)) == 0
        for mode, file in (("F32", f32), ("F16", f16)):
            deploy = ("--mlir", "net.mlir", "--processor", "bm1684x", "--quantize", mode, "--model", str(file))
            assert import_module("bmflow.cli.model_deploy").main(list(deploy)) == 0
    return network, f32, f16
