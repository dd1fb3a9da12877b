"""run_qtable: find the layers of an 8-bit network that are worth running in float, and write them as a quantize table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bmflow.cli import common, search_options

_EXAMPLES = """examples:
  run_qtable yolov5n.mlir --dataset coco2017-calib --calibration_table yolov5n_cali_table --chip bm1684x -o yolov5n_qtable
  run_qtable net.mlir --dataset pictures --calibration_table net_cali --chip bm1684x --expected_cos 0.9995 --expected_sqnr 25 -o net_qtable
  run_qtable net.mlir --dataset pictures --calibration_table net_cali --chip bm1684x --search mix_search --loss_table loss.txt -o net_qtable

pareto (the default) measures how much noise every layer brings to the outputs when it alone is in 8 bits, takes cycles from the simulator's
estimate, and finds the fastest table whose outputs reach --expected_cos (and --expected_sqnr). It writes the table -o with the reason
beside each line, <table>_pareto.json, .csv and .svg with what else could be had for more or less time, and <table>_knee1, ... where that
curve bends. An interrupted search goes on from <table>_journal.jsonl and ends with the same result; delete that file to begin anew.
Cosine and SQNR are plain, computed for each channel of the outputs and averaged, since whole outputs hide small but important numbers.

search_qtable and mix_search work as users of this toolchain know them; their cosines are all on the scale 0.5 + 0.5 * cos.

A bar that nothing reaches: exit code 3, the best found is written and the message says what it misses.
"""
_LOSSES = "full_loss_table.txt"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool."""
    return common.main(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parse = common.parser("run_qtable", __doc__ or "", _EXAMPLES)
    parse.add_argument("mlir_file", help="the top .mlir that model_transform wrote")
    parse.add_argument("--calibration_table", required=True, help="the table that run_calibration wrote for it")
    parse.add_argument("-o", "--quantize_table", required=True, help="the table to write")
    parse.add_argument("--processor", "--chip", type=str.lower, default="bm1684x", help="processor (default bm1684x)")
    data = parse.add_argument_group("samples (one of the two)")
    data.add_argument("--dataset", default="", help="folder of pictures, npz or npy files, searched recursively")
    data.add_argument("--data_list", default="", help="text file with one sample a line; wins over --dataset")
    data.add_argument("--input_num", type=int, default=10, help="samples that candidates are scored on (default 10)")
    how = search_options.add(parse, "--input_num")
    search_options.add_patterns(how)
    kinds = [kind for kind in search_options.KINDS if kind != "search_threshold"]
    how.add_argument("--search", choices=kinds, default=kinds[0], metavar="SEARCH", help=f"{', '.join(kinds)} (default {kinds[0]})")
    how.add_argument("--loss_table", default="", help=f"where search_qtable and mix_search list all layers (default {_LOSSES})")
    how.add_argument("--debug_cmd", default="", help=argparse.SUPPRESS)
    parse.add_argument("-b", "--base_quantize_table", dest="pre_qtable", help=argparse.SUPPRESS)
    return parse


def _run(options: argparse.Namespace) -> int:
    from bmflow.driver.calibrate import CalibrateOptions
    from bmflow.driver.search import search
    from bmflow.errors import InputError

    if options.debug_cmd:
        advice = (
            "run run_calibration --bc, and give the corrected .mlir and the table it writes"
            if "bias" in options.debug_cmd
            else "leave it out"
        )
        raise InputError(f"--debug_cmd {options.debug_cmd}: not supported here; {advice}")
    if options.loss_table and options.search == "pareto":
        raise InputError("--loss_table: pareto writes its figures to the quantize table and <table>_pareto.json; leave the option out")
    if options.input_num < 1:
        raise InputError(f"--input_num: expected 1 or more, found {options.input_num}")
    options.inference_num = options.inference_num if options.inference_num is not None else options.input_num
    calibrate = CalibrateOptions(
        options.mlir_file, "", options.dataset, options.data_list, chip=options.processor,
        patterns=search_options.patterns(options),
    )  # fmt: skip
    losses = "" if options.search == "pareto" else options.loss_table or _LOSSES
    search(search_options.options(options, calibrate, options.search, options.calibration_table, loss_table=losses), common.progress)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
