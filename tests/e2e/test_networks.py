"""Three further networks through transform, calibrate, deploy and model_runner: depthwise convolutions, poolings, softmax, focus.

Bounds: top against onnxruntime, bmodel against lowered module and INT8 against float are those of the project's aims. yolox_nano in
BF16 is left out: its layers agree exactly when fed alike, but it amplifies the last bit that sums in another order round otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from bmflow import artifacts
from bmflow.driver.inference import open_session
from bmflow.ir.module import Module
from bmflow.numerics.similarity import cosine
from bmflow.preprocess import Preprocess
from jobs import SQUEEZENET, ULTRAFACE, YOLOX_NANO, Job, calibrate, deploy, run, transform

pytestmark = [pytest.mark.slow, pytest.mark.data]
CORRECTNESS = {"f32": "0.9999,0.9999", "f16": "0.999,0.99", "bf16": "0.999,0.99", "int8_sym": "0.9999,0.99", "int8_asym": "0.9999,0.99"}
UNSEEN = ("images/faces.jpg", "images/portrait.jpg", "images/dog.jpg", "images/cat.jpg", "images/parrot.jpg")
CASES = [
    *((ULTRAFACE, mode) for mode in CORRECTNESS),
    (SQUEEZENET, "f16"), (SQUEEZENET, "int8_sym"), (SQUEEZENET, "int8_asym"),
    (YOLOX_NANO, "f16"), (YOLOX_NANO, "int8_sym"),
]  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, test_data: Path) -> Mapping[str, Path]:
    """A folder for each network, transformed with validation and calibrated on ten pictures."""
    folders = {}
    for job in (ULTRAFACE, SQUEEZENET, YOLOX_NANO):
        folders[job.name] = tmp_path_factory.mktemp(job.name)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folders[job.name])
            assert transform(job, test_data, "--tolerance", "0.9999,0.9999") == 0
            assert calibrate(job, test_data, 10) == 0
    return folders


@pytest.mark.parametrize(("job", "mode"), CASES, ids=[f"{job.name}-{mode}" for job, mode in CASES])
def test_bmodel_equals_its_lowered_module(prepared: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch, job: Job, mode: str) -> None:
    monkeypatch.chdir(prepared[job.name])
    model = f"{job.name}_{mode}.bmodel"
    loose = ("--tolerance", "0.6,0.1") if mode.startswith("int8") else ()
    assert deploy(job, mode, model, "--correctness", CORRECTNESS[mode], *loose) == 0
    lowered = f"{job.name}_bm1684x_{mode}_tpu.mlir"
    for network, output in ((lowered, "tpu.npz"), (model, "model.npz")):
        assert run("model_runner", "--input", f"{job.name}_in_f32.npz", "--model", network, "--output", output) == 0
    expected, found = artifacts.load_npz("tpu.npz"), artifacts.load_npz("model.npz")
    assert set(found) == set(Module.load(lowered).output_names)
    for name, values in found.items():
        assert cosine(values, expected[name]) > 0.999


def test_squeezenet_logits_keep_their_direction_in_int8(
    prepared: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch, test_data: Path
) -> None:
    monkeypatch.chdir(prepared["squeezenet"])
    logits = Job("logits", SQUEEZENET.model, SQUEEZENET.shape, SQUEEZENET.picture)
    assert transform(logits, test_data, "--output_names", "pool10") == 0
    assert calibrate(logits, test_data, 30) == 0
    assert deploy(logits, "int8_sym", "logits.bmodel", "--tolerance", "0.99,0.8") == 0
    assert min(similarities("logits", "logits.bmodel", test_data)) >= 0.998


def test_ultraface_boxes_keep_their_direction_in_int8(
    prepared: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch, test_data: Path
) -> None:
    monkeypatch.chdir(prepared["ultraface"])
    assert calibrate(ULTRAFACE, test_data, 50) == 0
    assert deploy(ULTRAFACE, "int8_sym", "faces.bmodel", "--tolerance", "0.6,0.1") == 0
    assert min(similarities("ultraface", "faces.bmodel", test_data, "boxes")) >= 0.97


def similarities(name: str, model: str, data: Path, output: str = "") -> list[float]:
    """Cosine of a bmodel's output against the float module's, on pictures that calibration has not seen."""
    original, compiled = open_session(f"{name}.mlir"), open_session(model)
    (source,) = Module.load(f"{name}.mlir").inputs
    preprocess = Preprocess.of(source)
    assert preprocess is not None
    return [
        _cosine(original.run(feed), compiled.run(feed), output)
        for feed in ({source.layer_name: preprocess.load(str(data / p))} for p in UNSEEN)
    ]


def _cosine(expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], output: str) -> float:
    (wanted,) = (values for name, values in expected.items() if output in name)
    (got,) = (values for name, values in found.items() if output in name)
    return cosine(got, wanted)
