"""The verb of model_transform: a network file becomes a top module, checked layer by layer against the original."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bmflow import __version__, artifacts
from bmflow.errors import BelowBarError, InputError

if TYPE_CHECKING:
    from bmflow.frontend.onnx import Imported
    from bmflow.ir.attributes import Python
    from bmflow.ir.module import Module
    from bmflow.numerics.similarity import Report

LOG = logging.getLogger("bmflow")
Arrays = dict[str, np.ndarray]
CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1, "rgba": 4, "rgbd": 4}
_LATER = {
    ".prototxt": "Caffe models are",
    ".caffemodel": "Caffe models are",
    ".tflite": "TFLite models are",
    ".pt": "TorchScript models are",
    ".mlir": "re-optimizing an .mlir file is",
}


@dataclass(frozen=True)
class PictureOptions:
    """How pictures become network inputs; recorded on every input that can hold one.

    mean and scale are per channel in the order of pixel_format, y = (x - mean) * scale. resize_dims is (h, w), empty for
    the network's own size. preprocess_list: numbers (from 1) of the inputs whose preprocessing may be fused, empty for all.
    """

    pixel_format: str = "bgr"
    channel_format: str = "nchw"
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    scale: Sequence[float] = (1.0, 1.0, 1.0)
    resize_dims: Sequence[int] = ()
    keep_aspect_ratio: bool = False
    keep_ratio_mode: str = "letterbox"
    pad_value: int = 0
    pad_type: str = "center"
    yuv_type: str = ""
    preprocess_list: Sequence[int] = ()

    def __post_init__(self) -> None:
        for option, values in (("--mean", self.mean), ("--scale", self.scale)):
            if len(values) < CHANNELS[self.pixel_format]:
                needed = f"{CHANNELS[self.pixel_format]} numbers for pixel format {self.pixel_format}"
                raise InputError(f"{option}: expected {needed}, found {len(values)}")
            if not all(math.isfinite(value) for value in values):
                raise InputError(f"{option}: expected finite numbers, found {list(values)}")
        if self.resize_dims and (len(self.resize_dims) != 2 or min(self.resize_dims) < 1):
            raise InputError(f"--resize_dims: expected h,w of at least 1, found {list(self.resize_dims)}")

    def __call__(self, number: int, shape: tuple[int, ...]) -> dict[str, Python]:
        """Attributes of input `number`; empty when it is no picture: not (n, <= 4, h, w) nor of three dimensions."""
        if self.channel_format == "none" or not self._is_picture(shape):
            return {}
        attributes: dict[str, Python] = {
            "channel_format": self.channel_format,
            "keep_aspect_ratio": self.keep_aspect_ratio,
            "keep_ratio_mode": self.keep_ratio_mode,
            "mean": [float(value) for value in self.mean],
            "pad_type": self.pad_type,
            "pad_value": self.pad_value,
            "pixel_format": self.pixel_format,
            "resize_dims": list(self.resize_dims) or self._net_dims(shape),
            "scale": [float(value) for value in self.scale],
        }
        if self.yuv_type:
            attributes["yuv_type"] = self.yuv_type
        if not self.preprocess_list or number in self.preprocess_list:
            attributes["do_preprocess"] = True
        return attributes

    def _is_picture(self, shape: tuple[int, ...]) -> bool:
        channels = shape[-1 if self.channel_format == "nhwc" else 1] if len(shape) == 4 else 1
        return len(shape) in (3, 4) and channels <= 4

    def _net_dims(self, shape: tuple[int, ...]) -> list[int]:
        return list(shape[1:3] if len(shape) == 4 and self.channel_format == "nhwc" else shape[-2:])


@dataclass(frozen=True)
class TransformOptions:
    """What model_transform was asked to do."""

    model_name: str
    model_def: str
    mlir: str
    input_shapes: Sequence[Sequence[int]] = ()
    output_names: Sequence[str] = ()
    picture: PictureOptions = PictureOptions()
    test_input: Sequence[str] = ()
    test_result: str = ""
    excepts: Sequence[str] = ()
    tolerance: tuple[float, float] = (0.99, 0.99)
    inference: bool = True
    debug: bool = False
    explain: bool = False


@dataclass(frozen=True)
class Transformed:
    """What came out: the module as saved, and the comparison when there was a test input."""

    module: Module
    report: Report | None


def transform(options: TransformOptions, show: Callable[[str], None] = print) -> Transformed:
    """Convert, optimize, save; with a test input also compare every layer with the original.

    Args:
        show: receives the printed comparison.
    Raises:
        InputError: options or files that cannot be used.
        BelowBarError: a layer misses the tolerance.
    """
    _check_options(options)
    LOG.info("bmflow %s", __version__)
    imported = _import(options)
    if options.debug:
        _save_original(imported, options)
    _write_origin(imported.module, options)
    _optimize(imported.module, options)
    imported.module.save(options.mlir, f"{options.model_name}_top_f32_all_weight.npz")
    LOG.info("Mlir file generated:%s", options.mlir)
    if not options.test_input or not options.inference:
        return Transformed(imported.module, None)
    return Transformed(imported.module, _validate(imported, options, show))


def _check_options(options: TransformOptions) -> None:
    suffix = Path(options.model_def).suffix
    if suffix in _LATER:
        raise InputError(f"{options.model_def}: {_LATER[suffix]} not supported yet; give an .onnx file")
    if suffix != ".onnx":
        raise InputError(f"{options.model_def}: expected an .onnx file, found the suffix '{suffix}'")
    if not options.mlir.endswith(".mlir"):
        raise InputError(f"--mlir {options.mlir}: the name must end in .mlir")
    if not options.model_name or "/" in options.model_name:
        raise InputError(f"--model_name '{options.model_name}': expected a name without slashes, it becomes the stem of files")
    if options.test_input and options.inference and not options.test_result:
        raise InputError("--test_result is missing: say where the outputs of the comparison go, e.g. --test_result top_outputs.npz")
    for path in options.test_input:
        if not Path(path).is_file():
            raise InputError(f"--test_input {path}: no such file")


def _import(options: TransformOptions) -> Imported:
    from bmflow.frontend.onnx import import_onnx

    imported = import_onnx(options.model_def, options.model_name, options.input_shapes, options.output_names, options.picture)
    count = sum(1 for _ in imported.module.layers())
    LOG.info("%s: %d layers read from %d nodes", options.model_def, count, len(imported.model.graph.node))
    return imported


def _stem(options: TransformOptions) -> str:
    return options.mlir.removesuffix(".mlir")


def _save_original(imported: Imported, options: TransformOptions) -> None:
    """Keep what usually goes: the simplified ONNX graph and the weights of the unoptimized module."""
    artifacts.write_bytes(f"{options.model_name}_opt.onnx", imported.model.SerializeToString())
    weights = Path(options.mlir).parent / f"{options.model_name}_top_f32_all_origin_weight.npz"
    artifacts.save_npz(weights, imported.module.weights)


def _write_origin(module: Module, options: TransformOptions) -> None:
    module.set("module.weight_file", f"{options.model_name}_top_f32_all_origin_weight.npz")
    artifacts.write_text(f"{_stem(options)}_origin.mlir", str(module))


def _optimize(module: Module, options: TransformOptions) -> None:
    from bmflow.passes import optimize_top

    trace = optimize_top(module)
    applied = ", ".join(f"{name} x{count}" for name, count in trace.counts().items())
    LOG.info("%d layers after rewrites (%s)", sum(1 for _ in module.layers()), applied or "none applied")
    if options.debug or options.explain:
        LOG.info("rewrites, layer by layer:\n%s", trace.text())


def _validate(imported: Imported, options: TransformOptions, show: Callable[[str], None]) -> Report:
    from bmflow.frontend.onnx.reference import run_onnx
    from bmflow.numerics import similarity
    from bmflow.preprocess.inputs import load_inputs

    name = options.model_name
    inputs_file, reference_file = f"{name}_in_f32.npz", f"{name}_ref_outputs.npz"
    inputs = load_inputs(imported.module, list(options.test_input))
    artifacts.save_npz(inputs_file, inputs)
    LOG.info("[CMD]: %s", _command(inputs_file, f"{name}_opt.onnx", reference_file))
    references = run_onnx(imported.model, inputs, all_tensors=True, fused=imported.fused)
    LOG.info("[CMD]: %s", _command(inputs_file, options.mlir, options.test_result))
    results = run_top(imported.module, inputs)
    artifacts.save_npz(options.test_result, results)
    report = similarity.compare(results, references, options.tolerance, options.excepts)
    show(report.text(2, options.test_result, reference_file))
    if not report.passed or options.debug:
        artifacts.save_npz(reference_file, references)
    _require_pass(report, options)
    return report


def _command(inputs: str, model: str, output: str) -> str:
    return f"model_runner.py --input {inputs} --model {model} --output {output} --dump_all_tensors "


def run_top(module: Module, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """Every layer's values of a top module, by layer name."""
    from bmflow.kernels import Executable, to_real

    raw = Executable(module, expose="all").run(inputs)
    return {op.layer_name: to_real(op.results[0], raw[op.layer_name]) for op in module.layers() if op.layer_name in raw}


def _require_pass(report: Report, options: TransformOptions) -> None:
    if report.passed:
        return
    if not report.tensors:
        raise BelowBarError(f"{options.test_result}: {report.nothing_in_common()}")
    cosine, euclid = options.tolerance
    raise BelowBarError(
        f"{len(report.failures)} of {len(report.tensors)} layers differ from the original beyond cosine {cosine}, euclid {euclid}; "
        f"{report.diverging()}. Look at the values in {options.test_result} and {options.model_name}_ref_outputs.npz, "
        "or leave layers out with --excepts"
    )
