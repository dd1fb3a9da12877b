"""model_transform: turn an ONNX model into top-dialect MLIR, and check every layer against the original."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bmflow.cli import common

if TYPE_CHECKING:
    from bmflow.driver.transform import TransformOptions

_EXAMPLES = """example:
  model_transform --model_name yolov5n --model_def yolov5n.onnx --input_shapes [[1,3,640,640]] \\
      --mean 0.0,0.0,0.0 --scale 0.0039216,0.0039216,0.0039216 --keep_aspect_ratio --pixel_format rgb \\
      --test_input dog.jpg --test_result yolov5n_top_outputs.npz --mlir yolov5n.mlir
"""
_PIXEL_FORMATS = ("rgb", "bgr", "gray", "rgba", "rgbd")
_LATER = (
    ("model_extern", ""), ("add_postprocess", ""), ("dynamic_shape_input_names", ""), ("shape_influencing_input_names", ""),
    ("op_custom_shape", ""), ("pruning", ""), ("path_yaml", ""), ("struct_optimize", "0"), ("replace_topk_indices", ""),
    ("patterns_count", ""), ("model_data", ""),
)  # fmt: skip
_LATER_FLAGS = ("dynamic", "enable_maskrcnn", "use_rewriter_config")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; exit code 3 when a layer misses the tolerance."""
    import sys

    return common.main(_parser(), _run, join_negative_lists(list(sys.argv[1:] if argv is None else argv)))


def join_negative_lists(argv: list[str]) -> list[str]:
    """Write `--mean -1,2` as `--mean=-1,2`, which argparse would take for an option otherwise."""
    joined: list[str] = []
    for item in argv:
        if joined and joined[-1] in ("--mean", "--scale") and item.startswith("-") and item[1:2] in (*"0123456789.",):
            joined[-1] += f"={item}"
        else:
            joined.append(item)
    return joined


def shapes(text: str) -> list[list[int]]:
    """Python list text, `[[1,3,640,640],[1,16]]` or one flat list."""
    try:
        value = ast.literal_eval(text.strip())
        value = [value] if value and not isinstance(value[0], list | tuple) else value
        if all(isinstance(d, int) and not isinstance(d, bool) for shape in value for d in shape):
            return [list(shape) for shape in value]
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        pass
    raise argparse.ArgumentTypeError(f"expected shapes such as [[1,3,640,640]], found {text}")


def _parser() -> argparse.ArgumentParser:
    parse = common.parser("model_transform", __doc__ or "", _EXAMPLES)
    _add_model(parse)
    _add_picture(parse)
    _add_validation(parse)
    later = parse.add_argument_group("known, not supported yet")
    for name, default in _LATER:
        later.add_argument(f"--{name}", default=default, help=argparse.SUPPRESS)
    for name in _LATER_FLAGS:
        later.add_argument(f"--{name}", action="store_true", help=argparse.SUPPRESS)
    return parse


def _add_model(parse: argparse.ArgumentParser) -> None:
    model = parse.add_argument_group("model")
    model.add_argument("--model_name", required=True, help="name of the module and stem of the files written beside it")
    model.add_argument("--model_def", required=True, help="the .onnx file")
    model.add_argument("--input_shapes", type=shapes, default=[], help="shapes of the inputs in order, e.g. [[1,3,640,640]]")
    model.add_argument("--input_types", type=common.comma_list, default=[], help="accepted; an ONNX model says its own types")
    model.add_argument("--output_names", type=common.comma_list, default=[], help="tensors that become the outputs; the rest is cut off")
    model.add_argument("--onnx_sim", default="", help="accepted: constants are always folded")
    model.add_argument("--do_onnx_sim", default="True", help="accepted: constants are always folded")
    model.add_argument("--mlir", required=True, help="the .mlir file to write; weights go beside it")
    model.add_argument("--log_level", type=int, choices=(0, 1), default=0, help="1: also say what was fused and why the rest was not")


def _add_picture(parse: argparse.ArgumentParser) -> None:
    picture = parse.add_argument_group("preprocessing, recorded on the inputs")
    picture.add_argument("--mean", type=common.float_list, default=[0.0, 0.0, 0.0], help="per channel, y = (x - mean) * scale")
    picture.add_argument("--scale", type=common.float_list, default=[1.0, 1.0, 1.0], help="per channel")
    picture.add_argument("--resize_dims", type=common.int_list, default=[], help="h,w to resize to before the crop (default: network size)")
    picture.add_argument("--keep_aspect_ratio", action="store_true", help="pad instead of stretching")
    picture.add_argument("--keep_ratio_mode", choices=("letterbox", "short_side_scale"), default="letterbox")
    picture.add_argument("--pixel_format", choices=_PIXEL_FORMATS, default="bgr", help="order of channels the network wants (default bgr)")
    picture.add_argument("--channel_format", choices=("nchw", "nhwc", "none"), default="nchw", help="none: the input is no picture")
    picture.add_argument("--pad_value", type=int, default=0, help="8-bit value of the padding (default 0)")
    picture.add_argument("--pad_type", choices=("normal", "center"), default="center", help="normal: picture at the top left")
    picture.add_argument("--preprocess_list", type=common.int_list, default=[], help="inputs (from 1) whose preprocessing may be fused")
    picture.add_argument("--yuv_type", choices=("YUV420_PLANAR", "YUV_NV21", "YUV_NV12"), default="")


def _add_validation(parse: argparse.ArgumentParser) -> None:
    check = parse.add_argument_group("validation")
    check.add_argument("--test_input", type=common.comma_list, default=[], help="picture, npz, or npy files: one per input")
    check.add_argument("--test_result", default="", help="npz file for every layer's values")
    check.add_argument("--excepts", type=common.comma_list, default=[], help="layers left out of the comparison")
    check.add_argument("--tolerance", type=common.tolerance, default=(0.99, 0.99), help="cosine,euclid lower bounds (default 0.99,0.99)")
    check.add_argument("--not_inference", action="store_true", help="convert only")
    check.add_argument("--cache_skip", action="store_true", help="accepted: validation is always run")


def _run(options: argparse.Namespace) -> int:
    _refuse_later(options)
    from bmflow.driver.transform import transform

    transform(_options(options))
    return 0


def _refuse_later(options: argparse.Namespace) -> None:
    from bmflow.errors import InputError

    given = [f"--{name}" for name, default in _LATER if getattr(options, name) != default]
    given += [f"--{name}" for name in _LATER_FLAGS if getattr(options, name)]
    if given:
        raise InputError(f"{', '.join(given)}: not supported yet; leave it out, or cut the model with --output_names where that helps")


def _options(options: argparse.Namespace) -> TransformOptions:
    from dataclasses import fields

    from bmflow.driver.transform import PictureOptions, TransformOptions

    return TransformOptions(
        options.model_name, options.model_def, options.mlir, options.input_shapes, options.output_names,
        PictureOptions(**{field.name: getattr(options, field.name) for field in fields(PictureOptions)}),
        options.test_input, options.test_result, options.excepts, options.tolerance,
        not options.not_inference, options.debug, options.log_level > 0,
    )  # fmt: skip
