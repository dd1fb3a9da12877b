"""Tries remedies on the whole network: what the outputs then keep, measured on the samples of the report.

A remedy that helps the worst layers may harm the others: without clipping, every step of a wide range is coarser. What layers tell one by one
is therefore no estimate of what a remedy brings; the network with the remedy is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from bmflow.calibration.collect import Statistics
from bmflow.calibration.equalized import ranges_of_weights
from bmflow.calibration.methods import Method
from bmflow.calibration.patterns import one_sided, pattern_table
from bmflow.calibration.tune import TuneSettings, tune
from bmflow.correction.channel_statistics import channel_statistics
from bmflow.correction.equalize import equalize
from bmflow.correction.smooth import can_be_smoothed, smooth
from bmflow.correction.softmax import can_be_corrected, correct_softmaxes
from bmflow.explain.bench import Bench, Network
from bmflow.explain.diagnose import Remedy
from bmflow.explain.exchange import OutputSums
from bmflow.explain.report import LayerReport, worst_table
from bmflow.explain.tally import Tally
from bmflow.ir.module import Module
from bmflow.kernels import Executable
from bmflow.passes.lowering import LoweringOptions, lower
from bmflow.search.scores import Reference, Score, Sums, score
from bmflow.tables.calibration import CalibrationTable, Range

Arrays = dict[str, np.ndarray]
Samples = Callable[[str], Iterable[Arrays]]
"""Network inputs from the first on; the text says what for."""


@dataclass(frozen=True)
class Form:
    """The network with a remedy: a top module and how it is lowered; `layers` are put in float."""

    module: Module
    options: LoweringOptions
    layers: int = 0


@dataclass(frozen=True)
class Trial:
    """What a remedy was measured to bring: the score of the outputs with it. `layers` are put in float."""

    remedy: Remedy
    after: Score
    layers: int = 0


def try_remedies(
    bench: Bench, tallies: Mapping[str, Tally], layers: Sequence[LayerReport], method: Method, samples: Samples, count: int
) -> list[Trial]:
    """Measure every remedy that could be taken here, in the order of `Remedy`.

    Args:
        method: with which ranges of corrected networks are found; they are tuned when those of the table are.
        count: of the samples.
    """
    forms = _other_tables(bench, tallies) | _corrected(bench, method, samples, count)
    forms |= _with_pattern_layers(bench) | _with_float_layers(bench, layers)
    outputs = list(dict.fromkeys(bench.module.output_names))
    floats = Executable(bench.module, outputs, 1)
    networks = {remedy: Network(lower(form.module, form.options), outputs) for remedy, form in forms.items()}
    found: dict[Remedy, list[OutputSums]] = {remedy: [] for remedy in networks}
    for sample in samples("try remedies") if networks else ():
        references = {name: Reference.of(values) for name, values in floats.run(sample).items()}
        for remedy, network in networks.items():
            found[remedy].append(_sums(network, sample, references))
    weights = dict.fromkeys(outputs, 1 / len(outputs))
    return [Trial(remedy, score(found[remedy], weights), forms[remedy].layers) for remedy in Remedy if remedy in forms]


def _sums(network: Network, sample: Arrays, references: Mapping[str, Reference]) -> OutputSums:
    return {name: Sums.of(references[name], network.real(name, raw)) for name, raw in network.run(sample).items()}


def _other_tables(bench: Bench, tallies: Mapping[str, Tally]) -> dict[Remedy, Form]:
    """Other ranges for the same module; with zero points everywhere the extremes bound the ranges already."""
    options, table = bench.options, bench.options.table
    assert table is not None, "a bench has a table"
    if options.asymmetric:
        return {}
    found: dict[Remedy, LoweringOptions] = {}
    if (largest := _largest(table, tallies)) != table.ranges:
        found[Remedy.KEEP_LARGEST] = replace(options, table=replace(table, ranges=largest))
    if options.target.asymmetric:
        found[Remedy.ASYMMETRIC] = replace(options, asymmetric=True)
        if (names := one_sided(bench.module)) and not table.asym_ops:
            found[Remedy.PART_ASYMMETRIC] = replace(options, table=replace(table, asym_ops=names))
    return {remedy: Form(bench.module, changed) for remedy, changed in found.items()}


def _largest(table: CalibrationTable, tallies: Mapping[str, Tally]) -> dict[str, Range]:
    """Thresholds that clip nothing seen when calibrating or here."""

    def largest(name: str, row: Range) -> float:
        here = float(tallies[name].peaks.max()) if name in tallies else 0.0
        return max(-row.low, row.high, here)

    return {name: replace(row, threshold=largest(name, row) or row.threshold) for name, row in table.ranges.items()}


def _corrected(bench: Bench, method: Method, samples: Samples, count: int) -> dict[Remedy, Form]:
    """The network after each correction that changes it, with ranges of its own."""
    found: dict[Remedy, Module] = {}
    equalized = equalize(bench.module, channel_statistics(bench.module, samples("channel ranges")))
    if equalized.scaled:
        found[Remedy.EQUALIZE] = equalized.module
    if can_be_smoothed(bench.module) and (smoothed := smooth(bench.module, samples("what matrix products read"))).gains:
        found[Remedy.SMOOTH] = smoothed.module
    if can_be_corrected(bench.module) and (corrected := correct_softmaxes(bench.module, samples("probabilities"))).gains:
        found[Remedy.SOFTMAX] = corrected.module
    return {remedy: Form(module, _recalibrated(module, bench, method, samples, count)) for remedy, module in found.items()}


def _recalibrated(module: Module, bench: Bench, method: Method, samples: Samples, count: int) -> LoweringOptions:
    old = bench.options.table
    assert old is not None, "a bench has a table"
    statistics = Statistics(module, method, count)
    network = Executable(module, statistics.exposed, 1)
    for sample in samples("ranges of the corrected network"):
        statistics.add(network.run(sample))
    ranges = statistics.ranges()
    if method.is_tuned and old.tune:
        batches = list(islice(samples("tune the corrected network"), old.tune))
        thresholds = {name: row.threshold for name, row in ranges.items()}
        tuned = tune(module, batches, thresholds, statistics.largest(), TuneSettings())
        ranges = {name: replace(row, threshold=tuned[name]) for name, row in ranges.items()}
    return replace(bench.options, table=replace(old, ranges=ranges_of_weights(module, ranges), weight_scales={}))


def _with_pattern_layers(bench: Bench) -> dict[Remedy, Form]:
    """The float layers known for the shape of the network, where no table of float layers was given."""
    table = pattern_table(bench.module, bench.options.target.name)
    if bench.options.precision or not table.modes:
        return {}
    return {Remedy.PATTERN: Form(bench.module, replace(bench.options, precision=table), len(table.modes))}


def _with_float_layers(bench: Bench, layers: Sequence[LayerReport]) -> dict[Remedy, Form]:
    """The layers that bring more than half of the mean noise at the outputs in float, as `model_explain --worst` does it."""
    noises = [layer.output_noise for layer in layers if layer.in_int8 and layer.output_noise]
    worst = sum(noise > sum(noises) / (2 * len(noises)) for noise in noises)
    if not worst:
        return {}
    options = bench.options
    table = worst_table(layers, worst, options.precision, options.target.name, options.float_mode, 0)
    return {Remedy.FLOAT: Form(bench.module, replace(options, precision=table), worst)}
