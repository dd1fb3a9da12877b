"""ONNX to a top module, compared layer by layer with the original on one calibration picture."""

from __future__ import annotations

import json
from pathlib import Path

from bmflow import artifacts
from bmflow.cli import common
from bmflow.driver.evaluate import detector_spec
from bmflow.driver.transform import PictureOptions, TransformOptions, transform
from bmflow.errors import InputError

from bmflow_components import documents, similarity
from bmflow_components.job import Job, Outcome
from bmflow_components.split import Split

_SUMMARY_LINES = 9


def run(job: Job) -> Outcome:
    """Call the driver's verb on the first calibration picture (evaluation pictures where there is no such set)."""
    options = _options(job)
    done = transform(options, lambda text: print("\n".join(text.splitlines()[-_SUMMARY_LINES:])))  # each layer is in similarity.json
    assert done.report is not None, "a test input was given"
    folder = job.output("reference")
    folder.mkdir()
    Path(f"{options.model_name}_in_f32.npz").rename(folder / "inputs.npz")
    Path(options.test_result).rename(folder / "outputs.npz")
    Path(options.mlir.removesuffix(".mlir") + "_origin.mlir").unlink(missing_ok=True)
    given = job.optional("given_detector")
    artifacts.write_text(job.output("detector"), detector_spec(options.model_def, str(given) if given else "").text())
    about = {op.layer_name: {"op": op.name, "mode": "F32"} for op in done.module.layers()}
    documents.write(job.output("similarity"), {
        "layers": similarity.rows(done.report, about),
        "comparisons": [similarity.summary("top module against the original", done.report, options.tolerance)],
    })  # fmt: skip
    cosine, euclid, _ = done.report.minimum()
    figures = {"layers": float(len(about)), "lowest_cosine": cosine, "lowest_euclid": euclid}
    return Outcome(figures, {"weights": done.module.weights_digest()})


def _options(job: Job) -> TransformOptions:
    mlir = job.output("mlir")
    mlir.mkdir()
    data = Split.load(job.input("dataset"))
    name = "calibration" if "calibration" in data.sets else "evaluation"
    picture = data.images(name) / sorted(data.set(name).pictures)[0]
    model = job.text("model_name")
    return TransformOptions(
        model, str(job.input("model")), str(mlir / "model.mlir"), _shapes(job.text("input_shapes")), common.comma_list(job.text("output_names")),
        _picture(job), [str(picture)], f"{model}_top_outputs.npz", common.comma_list(job.text("excepts")),
        similarity.bounds(job.text("tolerance"), "tolerance"),
    )  # fmt: skip


def _picture(job: Job) -> PictureOptions:
    return PictureOptions(
        pixel_format=job.text("pixel_format"), channel_format=job.text("channel_format"), mean=_numbers(job, "mean"), scale=_numbers(job, "scale"),
        resize_dims=[int(value) for value in _numbers(job, "resize_dims")], keep_aspect_ratio=job.flag("keep_aspect_ratio"),
        pad_value=job.whole("pad_value"), pad_type=job.text("pad_type"),
    )  # fmt: skip


def _numbers(job: Job, name: str) -> list[float]:
    try:
        return common.float_list(job.text(name))
    except ValueError as error:
        raise InputError(f"--{name} {job.text(name)}: expected numbers separated by commas ({error})") from error


def _shapes(text: str) -> list[list[int]]:
    if not text:
        return []
    try:
        return [[int(size) for size in shape] for shape in json.loads(text)]
    except (ValueError, TypeError) as error:
        raise InputError(f"--input_shapes {text}: expected lists of whole numbers such as [[1,3,320,320]]") from error
