"""The networks of the end-to-end tests and how a user would take each through the tools."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

MODES = {
    "f32": ("--quantize", "F32"),
    "f16": ("--quantize", "F16"),
    "bf16": ("--quantize", "BF16"),
    "int8_sym": ("--quantize", "INT8"),
    "int8_asym": ("--quantize", "INT8", "--asymmetric"),
}


@dataclass(frozen=True)
class Job:
    """A network of the test data: its name, input shape, preprocessing options and test picture."""

    name: str
    model: str
    shape: str
    picture: tuple[str, ...]
    test: str = "images/dog.jpg"
    outputs: tuple[str, ...] = ()


YOLOV5N = Job(
    "yolov5n", "yolov5n.onnx", "[[1,3,640,640]]",
    ("--mean", "0.0,0.0,0.0", "--scale", "0.0039216,0.0039216,0.0039216", "--keep_aspect_ratio", "--pixel_format", "rgb"),
)  # fmt: skip
YOLOX_NANO = Job(
    "yolox_nano", "yolox_nano.onnx", "[[1,3,416,416]]",
    ("--keep_aspect_ratio", "--pixel_format", "bgr", "--pad_value", "114", "--pad_type", "normal"),
)  # fmt: skip
ULTRAFACE = Job(
    "ultraface", "ultraface_rfb320.onnx", "[[1,3,240,320]]",
    ("--mean", "127,127,127", "--scale", "0.0078125,0.0078125,0.0078125", "--pixel_format", "rgb"), "images/faces.jpg",
)  # fmt: skip
SQUEEZENET = Job(
    "squeezenet", "squeezenet_v1.1.onnx", "[[1,3,227,227]]", ("--mean", "104,117,123", "--pixel_format", "bgr"),
)  # fmt: skip


def run(tool: str, *arguments: object) -> int:
    """Call a tool as its console script does."""
    return import_module(f"bmflow.cli.{tool}").main([str(argument) for argument in arguments])


def transform(job: Job, data: Path, *more: str) -> int:
    """model_transform with validation."""
    return run(
        "model_transform", "--model_name", job.name, "--model_def", data / "models" / job.model, "--input_shapes", job.shape, *job.picture,
        "--test_input", data / job.test, "--test_result", f"{job.name}_top_outputs.npz", "--mlir", f"{job.name}.mlir", *more,
    )  # fmt: skip


def calibrate(job: Job, data: Path, pictures: int) -> int:
    """run_calibration on the first pictures the tool chooses."""
    dataset = data / "coco2017-calib"
    return run("run_calibration", f"{job.name}.mlir", "--dataset", dataset, "--input_num", pictures, "-o", f"{job.name}_cali_table")


def deploy(job: Job, mode: str, model: str, *more: str) -> int:
    """model_deploy with both comparisons."""
    table = ("--calibration_table", f"{job.name}_cali_table") if mode.startswith("int8") else ()
    return run(
        "model_deploy", "--mlir", f"{job.name}.mlir", *MODES[mode], *table, "--processor", "bm1684x", "--test_input", f"{job.name}_in_f32.npz",
        "--test_reference", f"{job.name}_top_outputs.npz", "--model", model, *more,
    )  # fmt: skip
