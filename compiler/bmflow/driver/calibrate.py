"""The verb of run_calibration: samples through a top module become the calibration table, and the table of float layers beside it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bmflow import artifacts
from bmflow.calibration import histograms, kurtosis, patterns, samples, sweep
from bmflow.calibration.collect import Statistics
from bmflow.calibration.equalized import ranges_of_weights
from bmflow.calibration.methods import Method
from bmflow.calibration.tune import TuneSettings, tune
from bmflow.errors import InputError, nearest_names
from bmflow.ir.module import Module
from bmflow.tables.calibration import WEIGHTS, CalibrationTable, Range

LOG = logging.getLogger("bmflow")
QTABLE = "shape_pattern_qtable"
Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]


@dataclass(frozen=True)
class CalibrateOptions:
    """What run_calibration was asked to do.

    input_num: samples taken, 0 for all. tune_num: batches tuned on, 0 for no tuning; the samples are those of `tune_list` (all of
    them) or the first that calibrate. quantize_table: where the table of float layers goes, by default `shape_pattern_qtable`
    beside the calibration table. kurtosis: also write the kurtosis of every tensor, `kurtosis_analysis` beside the table.
    histograms: file for the histograms of all tensors with their thresholds; none when empty.
    part_asymmetric: give SiLUs that only convolutions read a zero point. patterns: those looked for to fill the table of float layers.
    """

    mlir: str
    table: str
    dataset: str = ""
    data_list: str = ""
    input_num: int = 0
    method: Method = Method.KL
    tune_num: int = 5
    tune_list: str = ""
    bins: int = 2048
    tune: TuneSettings = field(default_factory=TuneSettings)
    chip: str = "bm1684x"
    quantize_table: str = ""
    threads: int = 2
    kurtosis: bool = False
    part_asymmetric: bool = False
    histograms: str = ""
    patterns: tuple[str, ...] = patterns.USUAL


def calibrate(options: CalibrateOptions, progress: Progress | None = None, show: Callable[[str], None] = print) -> CalibrationTable:
    """Find and save the range of every tensor.

    Args:
        progress: passes items on under a bar (items, total, what).
        show: receives the lines users know.
    Raises:
        InputError: options, a module or samples that cannot be used; nothing is written then.
    """
    bar = progress or (lambda items, total, what: items)
    check(options)
    if Path(_qtable_path(options)).absolute() == Path(options.table).absolute():
        raise InputError(f"--quantize_table {options.table}: -o is that file; give the table of float layers a name of its own")
    module = load_top(options.mlir)
    entries = sample_entries(options)
    tune_entries = samples.from_list(options.tune_list) if options.tune_list else entries
    show(f"input_num = {options.input_num or len(entries)}, ref = {len(entries)}")
    loader = samples.Loader(module, entries)
    statistics = sweep.collect(
        module, loader, options.method, options.bins, options.threads,
        lambda items, total: bar(items, total, "activation_collect_and_calc_th"), options.kurtosis, bool(options.histograms),
    )  # fmt: skip
    show(f"real input_num = {loader.used}")
    tune_num = _tune_num(options, len(tune_entries))
    ranges = tuned(module, samples.Loader(module, tune_entries), tune_num, statistics, options, bar, show)
    notes = (f"{WEIGHTS}{module.weights_digest()}", *([f"skipped: {len(loader.broken)} broken samples"] if loader.broken else []))
    table = CalibrationTable(
        ranges, options.method.value, options.bins, loader.used, tune_num, Path(options.mlir).name,
        asym_ops=patterns.one_sided(module) if options.part_asymmetric else (), notes=notes,
    )  # fmt: skip
    table.save(options.table)
    patterns.pattern_table(module, options.chip, options.patterns).save(_qtable_path(options))
    if options.histograms:
        artifacts.write_text(options.histograms, histograms.report(statistics.histograms(), table.ranges, statistics.kinds))
    if options.kurtosis:
        artifacts.write_text(Path(options.table).parent / kurtosis.FILE, kurtosis.report(statistics.kurtosis(), statistics.kinds))
    return table


def check(options: CalibrateOptions) -> None:
    """Refuse options that cannot be followed, before any work.

    Raises:
        InputError: naming the option.
    """
    if not options.dataset and not options.data_list:
        raise InputError("no samples given; name a folder with --dataset or a list of files with --data_list")
    for option, number, least in (
        ("--input_num", options.input_num, 0), ("--tune_num", options.tune_num, 0),
        ("--histogram_bin_num", options.bins, 128), ("tune_steps", options.tune.steps, 1),
    ):  # fmt: skip
        if number < least:
            raise InputError(f"{option}: expected {least} or more, found {number}")
    if options.chip not in patterns.FLOAT_OF_CHIP:
        hint = nearest_names(options.chip, patterns.FLOAT_OF_CHIP) or f"known are {', '.join(patterns.FLOAT_OF_CHIP)}"
        raise InputError(f"--processor {options.chip}: unknown processor; {hint}")
    patterns.patterns_named(options.patterns)
    for path in (options.table, _qtable_path(options)):  # before the work, not after it
        folder = Path(path).parent
        if not folder.is_dir() or not os.access(folder, os.W_OK) or Path(path).is_dir():
            raise InputError(f"{path}: cannot write here; choose a file in a writable folder")


def load_top(path: str) -> Module:
    """Read a top module.

    Raises:
        InputError: unreadable, or of another state.
    """
    module = Module.load(path)
    state = str(module.get("module.state", ""))
    if state != "TOP_F32":
        found = f"its state is {state or 'not given'}"
        raise InputError(f"{path}: expected the top module that model_transform wrote (state TOP_F32), but {found}")
    return module


def sample_entries(options: CalibrateOptions) -> list[samples.Entry]:
    """The samples asked for.

    Raises:
        InputError: none, or of several kinds.
    """
    if options.data_list:
        return samples.from_list(options.data_list, options.input_num)
    return samples.from_folder(options.dataset, options.input_num)


def _qtable_path(options: CalibrateOptions) -> str:
    return options.quantize_table or str(Path(options.table).parent / QTABLE)


def _tune_num(options: CalibrateOptions, available: int) -> int:
    if not options.method.is_tuned:
        return 0
    return available if options.tune_list else min(options.tune_num, available)


def tuned(
    module: Module,
    loader: samples.Loader,
    count: int,
    statistics: Statistics,
    options: CalibrateOptions,
    bar: Progress,
    show: Callable[[str], None],
) -> Mapping[str, Range]:
    """Ranges of the statistics, thresholds tuned on the first `count` batches; those that follow from equalization are not looked for."""
    ranges = statistics.ranges()
    if not count:
        return ranges_of_weights(module, ranges)
    start = time.perf_counter()
    batches = sweep.first_batches(loader, count, options.threads)
    thresholds = {name: found.threshold for name, found in ranges.items()}
    found_thresholds = tune(module, batches, thresholds, statistics.largest(), options.tune, lambda ops, total: bar(ops, total, "tune op"))
    show(f"auto tune end, run time:{time.perf_counter() - start}")
    return ranges_of_weights(module, {name: replace(found, threshold=found_thresholds[name]) for name, found in ranges.items()})
