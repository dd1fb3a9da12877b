"""The verb of model_explain: look at every layer of a network in 8 bits on some samples, and say what hurts and what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bmflow import artifacts, target
from bmflow.calibration import samples
from bmflow.calibration.methods import Method
from bmflow.calibration.ordered import in_order
from bmflow.driver.calibrate import Progress, load_top
from bmflow.driver.weights import warn_of_other_weights
from bmflow.errors import InputError
from bmflow.explain import listing, page
from bmflow.explain.advice import Situation, advise
from bmflow.explain.bench import Bench
from bmflow.explain.exchange import Effect, Exchanger
from bmflow.explain.report import Report, describe, worst_by_own_noise, worst_table
from bmflow.explain.tally import Tally
from bmflow.explain.trials import try_remedies
from bmflow.ir.module import Module
from bmflow.passes.lowering import LoweringOptions
from bmflow.search.scores import Score
from bmflow.tables.calibration import CalibrationTable
from bmflow.tables.precision import PrecisionTable

METHODS = ("kl", "mse", "max", "percentile9999", "aciq_laplace", "aciq_gauss")
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class ExplainOptions:
    """What model_explain was asked to do.

    input_num: samples taken, 0 for all. effects: layers whose effect on the outputs is measured. page, csv, qtable: files to write, "" for
    none; `worst` layers go into the qtable.
    """

    mlir: str
    calibration_table: str
    quantize_table: str = ""
    asymmetric: bool = False
    dataset: str = ""
    data_list: str = ""
    input_num: int = 0
    effects: int = 20
    processor: str = "bm1684x"
    page: str = ""
    csv: str = ""
    qtable: str = ""
    worst: int = 0
    threads: int = 2

    @property
    def entries(self) -> list[samples.Entry]:
        """The samples asked for.

        Raises:
            InputError: none, or of several kinds.
        """
        if self.data_list:
            return samples.from_list(self.data_list, self.input_num)
        return samples.from_folder(self.dataset, self.input_num)


def explain(options: ExplainOptions, progress: Progress | None = None) -> Report:
    """Measure, diagnose, and write the files asked for.

    Several passes over the samples: every layer by itself, the outputs with single layers exchanged, the remedies. Memory depends on the network
    and `threads`, not on the number of samples.

    Args:
        progress: passes items on under a bar (items, total, what).
    Raises:
        InputError: options, tables or samples that cannot be used; nothing is written then.
    """
    bar = progress or (lambda items, total, what: items)
    _check(options)
    module, lowering = load_top(options.mlir), _lowering(options)
    entries, bench = options.entries, Bench(module, lowering)
    tallies, used = _profile(bench, samples.Loader(module, entries), options.threads, bar)
    names = worst_by_own_noise(bench, tallies, options.effects)
    network, effects = _effects(bench, samples.Loader(module, entries), names, options.threads, bar)
    layers = describe(bench, tallies, effects)
    if options.qtable:
        _check_worst(options, sum(layer.in_int8 for layer in layers))
    situation = _situation(options, lowering)

    def samples_for(what: str) -> Iterator[Arrays]:
        return _batches(samples.Loader(module, entries), bar, what)

    trials = try_remedies(bench, tallies, layers, Method.named(situation.method or METHODS[0]), samples_for, used)
    advice = advise(network, trials, situation)
    report = Report(
        module.name, used, options.asymmetric, len(names), network, layers, advice, _notes(options, module, lowering, len(names))
    )
    _write(report, options, module, lowering)
    return report


def _check(options: ExplainOptions) -> None:
    if not options.dataset and not options.data_list:
        raise InputError("no samples given; name a folder with --dataset or a list of files with --data_list")
    for option, number, least in (("--input_num", options.input_num, 0), ("--effects", options.effects, 0), ("--worst", options.worst, 0)):
        if number < least:
            raise InputError(f"{option}: expected {least} or more, found {number}")
    if bool(options.qtable) != bool(options.worst):
        raise InputError("--qtable and --worst belong together: the file to write, and how many of the worst layers go into it")
    for path in filter(None, (options.page, options.csv, options.qtable)):  # before the work, not after it
        folder = Path(path).parent
        if not folder.is_dir() or not os.access(folder, os.W_OK) or Path(path).is_dir():
            raise InputError(f"{path}: cannot write here; choose a file in a writable folder")


def _check_worst(options: ExplainOptions, available: int) -> None:
    if options.worst > available:
        raise InputError(f"--worst {options.worst}: only {available} layers compute in INT8; ask for at most so many")


def _lowering(options: ExplainOptions) -> LoweringOptions:
    table = CalibrationTable.load(options.calibration_table)
    precision = PrecisionTable.load(options.quantize_table) if options.quantize_table else None
    return LoweringOptions(target.load(options.processor), "INT8", options.asymmetric, table, precision)


def _profile(bench: Bench, loader: samples.Loader, threads: int, bar: Progress) -> tuple[dict[str, Tally], int]:
    total: dict[str, Tally] = {}
    with ThreadPoolExecutor(threads) as pool:
        for one in in_order(pool, bench.profile, _batches(loader, bar, "look at every layer"), threads):
            total = {name: total[name] + tally if name in total else tally for name, tally in one.items()}
    if not total:
        raise InputError(f"the {len(loader.entries)} samples do not make one batch of {loader.batch}; the first is {loader.entries[0]}")
    return total, loader.used


def _effects(bench: Bench, loader: samples.Loader, names: list[str], threads: int, bar: Progress) -> tuple[Score, Mapping[str, Effect]]:
    exchanger = Exchanger(bench, names)
    with ThreadPoolExecutor(threads) as pool:
        batches = _batches(loader, bar, "exchange single layers")
        return exchanger.scores(list(in_order(pool, exchanger.outputs_of, batches, threads)))


def _batches(loader: samples.Loader, bar: Progress, what: str) -> Iterator[Arrays]:
    entries = bar(loader.entries, len(loader.entries), what)
    return loader.batches((entry, loader.load(entry)) for entry in entries)


def _situation(options: ExplainOptions, lowering: LoweringOptions) -> Situation:
    assert lowering.table is not None
    source = ("--data_list", options.data_list) if options.data_list else ("--dataset", options.dataset)
    count = options.input_num or 0
    method = lowering.table.method.removeprefix("use_")
    return Situation(
        options.mlir, options.calibration_table, (*source, *(("--input_num", str(count)) if count else ())), max(lowering.table.samples, count),
        method if method in METHODS else "", options.processor, options.asymmetric, bool(lowering.table.asym_ops), options.quantize_table,
        bool(lowering.table.tune) or method not in METHODS or not Method.named(method).is_tuned,
    )  # fmt: skip


def _notes(options: ExplainOptions, module: Module, lowering: LoweringOptions, measured: int) -> tuple[str, ...]:
    assert lowering.table is not None
    tables = [(options.calibration_table, lowering.table.weights)]
    tables += [(options.quantize_table, lowering.precision.weights)] if lowering.precision else []
    said = (warn_of_other_weights(path, made_for, options.mlir, module) for path, made_for in tables)
    notes = [text for text in said if text]
    notes.append(
        f"Effects on the outputs were measured for the {measured} layers whose own INT8 form has most noise (--effects {options.effects})."
    )
    return tuple(notes)


def _write(report: Report, options: ExplainOptions, module: Module, lowering: LoweringOptions) -> None:
    if options.page:
        artifacts.write_text(options.page, page.html(report))
    if options.csv:
        artifacts.write_text(options.csv, listing.text(report))
    if options.qtable:
        mode, chip = lowering.float_mode, lowering.target.name
        table = worst_table(report.layers, options.worst, lowering.precision, chip, mode, report.samples)
        replace(table, weights=module.weights_digest()).save(options.qtable)
