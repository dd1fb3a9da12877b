"""run_calibration: find the value range of every layer from sample inputs, for 8-bit models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bmflow.cli import common, search_options

if TYPE_CHECKING:
    from bmflow.driver.calibrate import CalibrateOptions
    from bmflow.driver.correct import Corrections

_EXAMPLES = """examples:
  run_calibration yolov5n.mlir --dataset coco2017-calib --input_num 100 -o yolov5n_cali_table
  run_calibration net.mlir --data_list samples.txt --cali_method mse -o net_cali_table
  run_calibration net.mlir --dataset pictures --input_num 50 --search pareto --expected_cos 0.999 --quantize_table net_qtable -o net_cali

Samples are pictures (prepared as recorded in the .mlir), or npz or npy files (used as they are); a folder is searched through, sorted,
shuffled with a fixed seed, and the first --input_num are taken, so that every run takes the same ones. A data list has one sample a line
in the order it is used; several inputs are separated by commas. Broken pictures are named and skipped; the run is refused when more than
half of the samples are broken.

Methods: kl (least information lost), mse (least squared error), max (largest value seen), percentile9999 (nearly the largest),
aciq_gauss and aciq_laplace (best for a bell or a double exponential). kl and aciq are tuned on the first --tune_num batches: thresholds
are raised where that brings the outputs of the next layers closer to float.

Corrections: on networks with SiLU, --we recovers most of what 8 bits lose without any float layer, and --gptq part of what rounding
filters loses; behind Relu take --cali_method max. On networks with attention, --sq evens out the channels that matrix products read, and
--smc the probabilities of a Softmax over many tokens; both leave alone what would win too little, and say so. Give model_deploy the
corrected .mlir (its name is printed) together with the table, and --asymmetric for one more bit behind SiLU.

Searches: --search pareto picks the threshold of each layer by its effect on the outputs and lifts the layers that cost the least time for
the noise they bring (run_qtable --help tells more); search_qtable and search_threshold are those users know. The thresholds to deploy
with are then in new_cali_table.txt beside the table.

Writes the table -o and beside it shape_pattern_qtable, the layers that --patterns leave in float, with the reason of each (pass it to
model_deploy --quantize_table to use it). Memory does not grow with the number of samples.
"""
_METHODS = ("kl", "mse", "max", "percentile9999", "aciq_laplace", "aciq_gauss", "use_kl", "use_mse", "use_max", "use_percentile9999")
_LATER = (("mix_mode", "wi8ai8_fp"),)
_LATER_SEARCHES = ("fast_search",)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool."""
    return common.main(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parse = common.parser("run_calibration", __doc__ or "", _EXAMPLES)
    parse.add_argument("mlir_file", help="the top .mlir that model_transform wrote")
    parse.add_argument("-o", "--calibration_table", required=True, help="the table to write")
    data = parse.add_argument_group("samples (one of the two)")
    data.add_argument("--dataset", default="", help="folder of pictures, npz or npy files, searched recursively")
    data.add_argument("--data_list", default="", help="text file with one sample a line; wins over --dataset")
    data.add_argument("--input_num", type=int, default=0, help="samples to use (default 0: all)")
    how = parse.add_argument_group("method")
    how.add_argument("--cali_method", choices=_METHODS, default="kl", metavar="METHOD", help=f"{', '.join(_METHODS[:6])} (default kl)")
    how.add_argument("--tune_num", type=int, default=5, help="batches for tuning, kl and aciq only (default 5; 0: no tuning)")
    how.add_argument("--tune_list", default="", help="data list of the samples to tune on, all of them")
    how.add_argument("--histogram_bin_num", type=int, default=2048, help="bins of the kl histogram at the start (default 2048)")
    how.add_argument(
        "--debug_cmd", default="", help="tune_steps=N (default 21), min_tuned_diff=X (default 0.01), or a method's name; `;` between"
    )
    how.add_argument("--processor", "--chip", type=str.lower, default="bm1684x", help="decides the float type of the float layers")
    how.add_argument("--quantize_table", default="", help="where the table of float layers goes (default: shape_pattern_qtable)")
    search_options.add_patterns(how)
    how.add_argument("--kurtosis_analysis", action="store_true", help="also write kurtosis_analysis: which layers have outliers")
    better = parse.add_argument_group("corrections (the .mlir stays as it is; a corrected one appears beside it)")
    better.add_argument(
        "--sq", action="store_true", help="SmoothQuant: weights of matrix products take over what outlier channels in front of them spread"
    )
    better.add_argument("--smc", action="store_true", help="softmax correction: probabilities of attention use all of their 8 bits")
    better.add_argument("--we", action="store_true", help="weight equalization: every channel gets its own scale, through SiLU too")
    better.add_argument("--gptq", action="store_true", help="filters are rounded so that errors of weights cancel on the samples (GPTQ)")
    better.add_argument("--bc", action="store_true", help="bias correction: mean 8-bit errors are taken out of the biases")
    better.add_argument("--bc_inference_num", type=int, default=30, help="samples for bias correction (default 30)")
    better.add_argument("--part_asymmetric", action="store_true", help="zero points for SiLUs that only convolutions read")
    poor = (
        "--bc: correct only layers below it (default: all); mix_search: lift layers below it (default 0.99); on the scale 0.5 + 0.5 * cos"
    )
    how = search_options.add(parse, "8 for pareto, else 30", poor)
    how.add_argument(
        "--search", choices=("False", *search_options.KINDS, *_LATER_SEARCHES), default="False", metavar="SEARCH",
        help=f"look for a quantize table too: {', '.join(search_options.KINDS)}; needs --quantize_table, the table to write",
    )  # fmt: skip
    how.add_argument("--benchmark_method", choices=("cos", "snr"), default="cos", help="search_threshold: what decides (default cos)")
    how.add_argument("--quantize_method_list", default="", help="threshold methods to choose from for each layer, such as kl,mse")
    later = parse.add_argument_group("known, not supported yet")
    for name, default in _LATER:
        later.add_argument(f"--{name}", default=default, help=argparse.SUPPRESS)
    later.add_argument("--debug_log", action="store_true", help="does nothing: what is logged is always printed")
    return parse


def _run(options: argparse.Namespace) -> int:
    _refuse_later(options)
    from bmflow.driver.calibrate import calibrate
    from bmflow.driver.correct import Corrections, correct_and_calibrate, deploy_line

    corrections = Corrections(
        options.we, options.bc, options.sq, options.smc, options.bc_inference_num, options.gptq, options.min_layer_cos
    )
    if options.search != "False":
        return _search(options, corrections)
    if corrections.names:
        corrected = correct_and_calibrate(_options(options), corrections, common.progress)
        if line := deploy_line(_options(options), corrected):
            print(line)
    else:
        calibrate(_options(options), common.progress)
    return 0


def _search(options: argparse.Namespace, corrections: Corrections) -> int:
    """Correct first if asked to, then search on what will be deployed; what counts are the outputs of the uncorrected network."""
    from dataclasses import replace

    from bmflow.driver.correct import correct_and_calibrate
    from bmflow.driver.search import prepare, search

    calibrate, reference = _options(options), ""
    methods = common.comma_list(options.quantize_method_list)
    asked = search_options.options(options, calibrate, options.search, methods=methods, benchmark=options.benchmark_method)
    if corrections.names:
        prepare(asked, lambda items, total, what: items, print)
        corrected = correct_and_calibrate(replace(calibrate, quantize_table=""), corrections, common.progress)
        reference = calibrate.mlir if corrected.mlir != calibrate.mlir else ""
        calibrate = replace(calibrate, mlir=corrected.mlir)
    search(replace(asked, calibrate=calibrate, reference=reference), common.progress)
    return 0


def _refuse_later(options: argparse.Namespace) -> None:
    from bmflow.errors import InputError

    given = [f"--{name} {getattr(options, name)}" for name, default in _LATER if getattr(options, name) != default]
    if given:
        raise InputError(f"{', '.join(given)}: not supported yet; leave it out to calibrate without")
    if options.search in _LATER_SEARCHES:
        raise InputError(f"--search {options.search}: not supported; choose from {', '.join(search_options.KINDS)}")
    if options.search != "False" and options.kurtosis_analysis:
        raise InputError("--kurtosis_analysis: a search does not write it; calibrate once without --search")


def _options(options: argparse.Namespace) -> CalibrateOptions:
    from bmflow.calibration.methods import Method
    from bmflow.driver.calibrate import CalibrateOptions

    debug = _debug_settings(options.debug_cmd)
    method = Method.named(next((name for name in debug if name in _METHODS), options.cali_method))
    return CalibrateOptions(
        options.mlir_file, options.calibration_table, options.dataset, options.data_list, options.input_num, method, options.tune_num,
        options.tune_list, options.histogram_bin_num, _tune_settings(debug), options.processor, options.quantize_table,
        kurtosis=options.kurtosis_analysis, part_asymmetric=options.part_asymmetric, patterns=search_options.patterns(options),
    )  # fmt: skip


def _debug_settings(text: str) -> dict[str, str]:
    from bmflow.errors import InputError

    settings = {key.strip(): value.strip() for key, _, value in (item.partition("=") for item in text.split(";")) if key.strip()}
    for key in settings:
        if key not in ("tune_steps", "min_tuned_diff", *_METHODS):
            raise InputError(
                f"--debug_cmd {key}: not supported; known are tune_steps=N, min_tuned_diff=X and the methods {', '.join(_METHODS[:6])}"
            )
    return settings


def _tune_settings(debug: dict[str, str]):
    from bmflow.calibration.tune import TuneSettings
    from bmflow.errors import InputError

    try:
        return TuneSettings(int(debug.get("tune_steps", "21")), float(debug.get("min_tuned_diff", "0.01")))
    except ValueError as error:
        raise InputError(f"--debug_cmd: expected tune_steps=N;min_tuned_diff=X with numbers ({error})") from error


if __name__ == "__main__":
    raise SystemExit(main())
