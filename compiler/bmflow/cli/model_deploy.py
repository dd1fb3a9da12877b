"""model_deploy: turn a top module into a bmodel for one processor, and compare every step with the one before."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bmflow.cli import common

if TYPE_CHECKING:
    from bmflow.driver.deploy import DeployOptions

_EXAMPLES = """examples:
  model_deploy --mlir yolov5n.mlir --quantize F16 --processor bm1684x \\
      --test_input yolov5n_in_f32.npz --test_reference yolov5n_top_outputs.npz --model yolov5n_1684x_f16.bmodel
  model_deploy --mlir yolov5n.mlir --quantize INT8 --calibration_table yolov5n_cali_table --processor bm1684x \\
      --test_input yolov5n_in_f32.npz --test_reference yolov5n_top_outputs.npz --tolerance 0.85,0.45 \\
      --model yolov5n_1684x_int8_sym.bmodel

Without --test_input nothing is compared. Default --tolerance: F32 0.99,0.99; F16 and BF16 0.99,0.90; INT8 0.90,0.80.
Default --correctness: 0.99,0.90, with a quantization table 0.98,0.80.
"""
_LATER = (
    ("quant_input_list", ""), ("quant_output_list", ""), ("customization_format", ""), ("num_device", "1"), ("same_addr", ""),
    ("iomem_set", ""), ("layer_group_config", ""), ("time_fixed_subnet", ""), ("subnet_params", ""), ("trunc_final", ""),
    ("debug_cmd", ""), ("global_op_types", ""), ("lg_debugger", "0"), ("patterns_count", ""), ("rvti", ""),
)  # fmt: skip
_LATER_FLAGS = (
    "dynamic", "fuse_preprocess", "aligned_input", "fazzy_match", "cuda", "quant_output_bf16", "quant_input_int8", "quant_output_int8",
    "merge_weight", "do_winograd", "opt_post_processor", "use_rewriter_config", "enable_maskrcnn", "includeWeight", "io_alone",
)  # fmt: skip
_WITHOUT_EFFECT = (
    ("q_group_size", "64"), ("gelu_mode", "normal"), ("group_by_cores", "auto"), ("compress_mode", "none"), ("model_version", "latest"),
    ("shape_secs_search_strategy", "0"), ("lghash_dir", ""), ("log_level", "0"),
)  # fmt: skip
_WITHOUT_EFFECT_FLAGS = (
    "q_symmetric", "weight_deduplicate", "disable_affine", "disable_topo_sort", "disable_layer_group", "disable_gdma_check",
    "disable_structure_detect_opt", "enable_lghash", "cache_skip",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; exit code 3 when a comparison misses its bounds."""
    return common.main(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parse = common.parser("model_deploy", __doc__ or "", _EXAMPLES)
    _add_model(parse)
    _add_numbers(parse)
    _add_validation(parse)
    later = parse.add_argument_group("known, not supported yet or without effect here")
    for name, default in (*_LATER, *_WITHOUT_EFFECT):
        later.add_argument(f"--{name}", default=default, help=argparse.SUPPRESS)
    for name in (*_LATER_FLAGS, *_WITHOUT_EFFECT_FLAGS):
        later.add_argument(f"--{name}", action="store_true", help=argparse.SUPPRESS)
    return parse


def _add_model(parse: argparse.ArgumentParser) -> None:
    model = parse.add_argument_group("model")
    model.add_argument("--mlir", required=True, help="the module that model_transform wrote")
    model.add_argument("--processor", "--chip", required=True, help="such as bm1684x, in any case")
    model.add_argument("--model", default="", help="the .bmodel to write (required unless --not_gen_bmodel)")
    model.add_argument("--not_gen_bmodel", action="store_true", help="stop after the lowered module")
    model.add_argument("--num_core", type=int, default=1, help="cores that share the network (default 1)")
    model.add_argument("--opt", type=int, choices=(1, 2, 3), default=2, help="accepted: layers are compiled one by one for now")
    model.add_argument("--addr_mode", default="auto", help="how memory is laid out: auto or basic (default auto)")
    model.add_argument("--op_divide", action="store_true", help="accepted: every layer is cut into tiles that fit anyway")


def _add_numbers(parse: argparse.ArgumentParser) -> None:
    numbers = parse.add_argument_group("number types")
    numbers.add_argument("--quantize", default="F32", help="F32, F16, BF16 or INT8, what the processor has (default F32)")
    numbers.add_argument("--calibration_table", default="", help="the table run_calibration wrote; needed for INT8")
    numbers.add_argument("--quantize_table", default="", help="types of single layers: a file, or layer:F16,layer:INT8")
    numbers.add_argument("--asymmetric", action="store_true", help="INT8 with zero points")
    numbers.add_argument("--quant_input", action="store_true", help="the model takes inputs in its own type, no cast from float")
    numbers.add_argument("--quant_output", action="store_true", help="the model gives outputs in its own type, no cast to float")
    numbers.add_argument("--high_precision", action="store_true", help="average pools and softmax in F32")
    numbers.add_argument(
        "--matmul_perchannel",
        action="store_true",
        help="one weight scale per column of a matrix product; bm1684x has no such form, so it is refused",
    )


def _add_validation(parse: argparse.ArgumentParser) -> None:
    check = parse.add_argument_group("validation")
    check.add_argument("--test_input", type=common.comma_list, default=[], help="picture, npz, or npy files: one per input")
    check.add_argument("--test_reference", default="", help="npz of the float network's layers (default: computed from --test_input)")
    check.add_argument("--tolerance", type=common.tolerance, default=None, help="cosine,euclid bounds of lowered against float module")
    check.add_argument("--correctness", type=common.tolerance, default=None, help="cosine,euclid bounds of bmodel against lowered module")
    check.add_argument("--excepts", type=common.comma_list, default=[], help="layers left out of the comparisons")
    check.add_argument("--compare_all", action="store_true", help="compare every layer, not only outputs")
    check.add_argument("--skip_validation", action="store_true", help="do not run the bmodel in the simulator")


def _run(options: argparse.Namespace) -> int:
    _refuse(options)
    from bmflow.driver.deploy import deploy

    deploy(_options(options), step=common.status)
    return 0


def _refuse(options: argparse.Namespace) -> None:
    from bmflow.errors import InputError

    given = [f"--{name}" for name, default in _LATER if getattr(options, name) != default]
    given += [f"--{name}" for name in _LATER_FLAGS if getattr(options, name)]
    if given:
        raise InputError(f"{', '.join(given)}: not supported yet; leave it out")
    if options.addr_mode not in ("auto", "basic"):
        raise InputError(f"--addr_mode {options.addr_mode}: not supported yet; choose auto or basic")
    if not options.model and not options.not_gen_bmodel:
        raise InputError("--model is missing: name the .bmodel to write, or stop after the lowered module with --not_gen_bmodel")
    ignored = [f"--{name}" for name, default in _WITHOUT_EFFECT if getattr(options, name) != default]
    ignored += [f"--{name}" for name in (*_WITHOUT_EFFECT_FLAGS, "op_divide") if getattr(options, name)]
    if ignored:
        common.LOG.info("%s: without effect in this version, the result is the same", ", ".join(ignored))


def _options(options: argparse.Namespace) -> DeployOptions:
    from bmflow.driver.deploy import DeployOptions

    return DeployOptions(
        options.mlir, options.processor, "" if options.not_gen_bmodel else options.model, options.quantize, options.asymmetric,
        options.calibration_table, options.quantize_table, options.test_input, options.test_reference, options.tolerance,
        options.correctness, options.excepts, options.compare_all, options.skip_validation, options.quant_input, options.quant_output,
        options.high_precision, options.matmul_perchannel, options.num_core, options.debug,
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
