"""The options that run_qtable and run_calibration --search share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bmflow.cli import common

if TYPE_CHECKING:
    from bmflow.driver.calibrate import CalibrateOptions
    from bmflow.driver.search import SearchOptions

KINDS = ("pareto", "search_qtable", "search_threshold", "mix_search")
_SAMPLES = {"pareto": 8}


def add_patterns(how: argparse._ArgumentGroup) -> None:
    """Add what chooses the float layers that are known for the shape of a network."""
    how.add_argument(
        "--patterns", default="", metavar="LIST",
        help="known shapes whose layers stay in float: yolo (what follows head convolutions), softmax (and scale and mask before it), "
        "attention (sums in front of a LayerNorm), first, last (convolutions at the ends, for their time); default yolo,softmax,attention; "
        "none for none",
    )  # fmt: skip
    how.add_argument("--no_patterns", action="store_true", help="the same as --patterns none")


def patterns(given: argparse.Namespace) -> tuple[str, ...]:
    """The patterns asked for."""
    from bmflow.calibration.patterns import from_text

    return () if given.no_patterns else from_text(given.patterns)


def add(
    parse: argparse.ArgumentParser, samples: str, poor: str = "mix_search: layers below it are lifted (default 0.99)"
) -> argparse._ArgumentGroup:
    """Add them in a group of their own; `samples` says how many candidates are scored on by default, `poor` what --min_layer_cos does."""
    how = parse.add_argument_group("search")
    how.add_argument(
        "--expected_cos", type=float, default=0.99,
        help="cosine the outputs must reach (default 0.99); plain for pareto, on the scale 0.5 + 0.5 * cos for the other searches",
    )  # fmt: skip
    how.add_argument("--expected_sqnr", type=float, help="SQNR in dB the outputs must reach too (pareto)")
    how.add_argument("--min_layer_cos", type=float, help=poor)
    how.add_argument("--max_float_layers", type=int, default=5, help="layers lifted at first by the compatible searches (default 5)")
    how.add_argument("--fp_type", type=str.upper, default="AUTO", metavar="TYPE", help="float type of lifted layers: auto, F16, F32, BF16")
    how.add_argument("--global_compare_layers", default="", help="layers to compare instead of the outputs: a,b or a:0.3,b:0.7")
    how.add_argument("--post_process", default="", help="Python file with PostProcess(data), applied to what is compared")
    how.add_argument("--pre_qtable", default="", help="table to start from; its lines stay as they are")
    how.add_argument("--inference_num", type=int, help=f"samples that candidates are scored on (default {samples})")
    how.add_argument("--cluster", action="store_true", help="search_qtable: cluster the losses and lift the worse cluster")
    how.add_argument("--part_quantize", default="", help="quantize some op types only: N_mode, H_mode or custom_mode")
    how.add_argument("--custom_operator", default="", help="op types for custom_mode, such as Conv,Add")
    how.add_argument(
        "--time_budget",
        type=float,
        default=0.0,
        help="pareto: stop improving after so many seconds of scoring (default: when nothing improves)",
    )
    how.add_argument(
        "--max_cycles", type=float, default=0.0, metavar="RATIO",
        help="pareto: the least noise within RATIO times the estimated cycles of all in INT8, in place of a bar",
    )  # fmt: skip
    how.add_argument("--max_float_cycles", type=float, default=0.0, metavar="RATIO", help="pareto: the same, of all in the float type")
    how.add_argument("--map_annotation", default="", help="pareto: COCO annotation file; mAP decides among the tables of the Pareto set")
    how.add_argument("--map_dataset", default="", help="folder of the pictures of --map_annotation, none of which may calibrate")
    how.add_argument("--map_drop", type=float, default=0.01, help="most mAP50-95 a table may lose against float (default 0.01)")
    how.add_argument("--detector", default="", help="detector.json with classes and anchors (default: COCO's)")
    how.add_argument("--asymmetric", action="store_true", help="the model will be deployed with --asymmetric")
    return how


def options(
    given: argparse.Namespace, calibrate: CalibrateOptions, kind: str, table: str = "", methods: Sequence[str] = (), loss_table: str = "",
    benchmark: str = "cos",
) -> SearchOptions:  # fmt: skip
    """What the driver is asked, once the tool's own options are known."""
    from bmflow.driver.search import Kind, SearchOptions
    from bmflow.driver.search_map import Labels
    from bmflow.errors import InputError

    if bool(given.map_annotation) != bool(given.map_dataset):
        raise InputError("--map_annotation and --map_dataset belong together; give both or neither")
    labels = Labels(given.map_dataset, given.map_annotation, given.detector, given.map_drop) if given.map_annotation else None
    samples = given.inference_num if given.inference_num is not None else _SAMPLES.get(kind, 30)
    return SearchOptions(
        calibrate, Kind(kind), given.quantize_table, table, expected_cos=given.expected_cos,
        expected_sqnr=-float("inf") if given.expected_sqnr is None else given.expected_sqnr,
        min_layer_cos=0.99 if given.min_layer_cos is None else given.min_layer_cos,
        max_float_layers=given.max_float_layers, methods=methods, float_type=given.fp_type, compare=given.global_compare_layers,
        benchmark=benchmark, pre_qtable=given.pre_qtable, inference_num=samples, cluster=given.cluster,
        part_quantize=given.part_quantize, custom_operator=common.comma_list(given.custom_operator), post_process=given.post_process,
        time_budget=given.time_budget, max_cycles=given.max_cycles, max_float_cycles=given.max_float_cycles,
        labels=labels, asymmetric=given.asymmetric, loss_table=loss_table,
    )  # fmt: skip
