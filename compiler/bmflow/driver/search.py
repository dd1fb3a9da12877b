"""The verbs behind run_qtable and run_calibration --search: which layers run in float, and with which thresholds the others."""

from __future__ import annotations

import hashlib
import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from bmflow import __version__, artifacts, target
from bmflow.calibration import patterns, samples, sweep
from bmflow.calibration.methods import Method
from bmflow.driver import calibrate as calibration
from bmflow.driver.calibrate import CalibrateOptions, Progress
from bmflow.driver.search_map import Labels
from bmflow.driver.search_map import check as check_labels
from bmflow.driver.weights import warn_of_other_weights
from bmflow.errors import BelowBarError, InputError, nearest_names
from bmflow.ir.module import Module
from bmflow.passes.lowering import LoweringOptions
from bmflow.passes.lowering.modes import check_precision
from bmflow.passes.lowering.ranges import require_known
from bmflow.search import compatible
from bmflow.search.compatible import Mixed, MixSearch, SearchQtable, Settings
from bmflow.search.evaluator import Evaluator
from bmflow.search.journal import Journal, Scorer
from bmflow.search.scores import Score
from bmflow.tables.calibration import WEIGHTS, CalibrationTable
from bmflow.tables.precision import PrecisionTable

Show = Callable[[str], None]
NEW_TABLE = "new_cali_table.txt"
CUSTOM_LAYERS = "custom layers"
GIVEN_LAYERS = "from the table given with --pre_qtable"
PARTS = {
    "N_mode": ("Relu", "MaxPool", "Conv", "MatMul", "PRelu", "AvgPool", "Add", "Sigmoid", "Deconv"),
    "H_mode": ("Conv", "MatMul", "AvgPool", "Deconv", "MaxPool"),
}
"""Op types that --part_quantize leaves in 8 bits."""


class Kind(Enum):
    """Names users give to --search."""

    PARETO = "pareto"
    QTABLE = "search_qtable"
    THRESHOLD = "search_threshold"
    MIX = "mix_search"


@dataclass(frozen=True)
class SearchOptions:
    """What a search was asked to do.

    calibrate: module, samples and, unless `calibration_table` is given, how the tables are found that a search chooses from.
    expected_cos: on the plain scale for `pareto`, on 0.5 + 0.5 * cos for the others; expected_sqnr in dB, for `pareto` alone.
    methods: threshold methods to choose from, each `kind`'s own when empty. compare: `a,b` or `a:0.3,b:0.7`. inference_num: samples
    that candidates are scored on. reference: module whose float outputs count, when it is not the one that is quantized.
    time_budget: seconds of scoring after which nothing more is tried, 0 for as long as something improves.
    max_cycles, max_float_cycles: for `pareto`, in place of the bar: the least noise within so many times the estimated cycles of all
    in INT8, or all in the float type; 0 for no such limit. labels: pictures on which mAP decides among the tables of the Pareto set, in
    place of the noise (`pareto`). Without `pre_qtable` a search begins from the float layers that `calibrate.patterns` name.
    """

    calibrate: CalibrateOptions
    kind: Kind
    quantize_table: str
    calibration_table: str = ""
    reference: str = ""
    expected_cos: float = 0.99
    expected_sqnr: float = -math.inf
    min_layer_cos: float = 0.99
    max_float_layers: int = 5
    methods: Sequence[str] = ()
    float_type: str = "auto"
    compare: str = ""
    benchmark: str = "cos"
    pre_qtable: str = ""
    inference_num: int = 30
    cluster: bool = False
    part_quantize: str = ""
    custom_operator: Sequence[str] = ()
    post_process: str = ""
    time_budget: float = 0.0
    max_cycles: float = 0.0
    max_float_cycles: float = 0.0
    labels: Labels | None = None
    asymmetric: bool = False
    loss_table: str = ""


@dataclass(frozen=True)
class Job:
    """The options after every check that needs no work. `given` are modes that stay, `given_reasons` where they come from."""

    options: SearchOptions
    module: Module
    lowering: LoweringOptions
    mode: str
    given: Mapping[str, str]
    given_reasons: Mapping[str, str]
    table: CalibrationTable | None
    compare: Mapping[str, float]
    bar: Progress
    show: Show

    def settings(self) -> Settings:
        """Limits of the compatible searches."""
        o = self.options
        return Settings(self.mode, o.expected_cos, o.min_layer_cos, o.max_float_layers, o.cluster)

    def precision(self, modes: Mapping[str, str], reasons: Mapping[str, str], scored: int) -> PrecisionTable:
        """The quantize table of some modes, layers in program order."""
        ordered = {op.layer_name: modes[op.layer_name] for op in self.module.layers() if op.layer_name in modes}
        known = {name: reasons[name] for name in ordered if name in reasons}
        return PrecisionTable(ordered, known, self.options.calibrate.chip, self.mode, scored, self.module.weights_digest())


def search(options: SearchOptions, progress: Progress | None = None, show: Show = print) -> None:
    """Search, write the tables, print the lines users know.

    Raises:
        InputError: options, tables or samples that cannot be used; nothing is written then.
        BelowBarError: nothing that was found is good enough; the best is written all the same.
    """
    from bmflow.driver.search_pareto import search_pareto

    start = time.perf_counter()
    job = prepare(options, progress or (lambda items, total, what: items), show)
    tables, base = calibration_tables(job)
    batches = scoring_samples(job)
    evaluator = _evaluator(job, batches)
    journal = Journal(f"{options.quantize_table}_journal.jsonl", _digest(job, batches))
    run = {Kind.PARETO: search_pareto, Kind.QTABLE: _search_qtable, Kind.THRESHOLD: _search_threshold, Kind.MIX: _mix_search}[options.kind]
    try:
        missed = run(job, Scorer(evaluator, journal), tables, base)
    except KeyboardInterrupt:
        show(f"{len(journal.known)} scores are in {journal.path}; the same command goes on from there")
        raise
    show(f"total time:{time.perf_counter() - start:.1f}")
    show(_deploy_line(job, tables))
    if missed:
        raise BelowBarError(missed)
    show(f"success {options.kind.value}")


def _deploy_line(job: Job, tables: Mapping[str, CalibrationTable]) -> str:
    """What to type to deploy what was found."""
    options, found = job.options, job.options.calibrate
    chosen = options.kind is not Kind.THRESHOLD and not job.table and not (options.kind is Kind.PARETO and len(tables) == 1)
    table = options.calibration_table or (str(Path(found.table).parent / NEW_TABLE) if chosen else found.table)
    words = ["model_deploy", "--mlir", found.mlir, "--quantize", "INT8", *(["--asymmetric"] if options.asymmetric else [])]
    words += ["--calibration_table", table, "--quantize_table", options.quantize_table, "--processor", found.chip]
    return f"deploy it: {shlex.join(words)} ..."


def prepare(options: SearchOptions, bar: Progress, show: Show) -> Job:
    """Check everything that can be checked before any work.

    Raises:
        InputError: with what is wrong and what to do.
    """
    found = options.calibrate
    _check_numbers(options)
    for option, path in (("the module", found.mlir), ("--calibration_table", found.table or options.calibration_table)):
        if Path(options.quantize_table).absolute() == Path(path).absolute():
            raise InputError(f"--quantize_table {options.quantize_table}: {option} is that file; give the quantize table a name of its own")
    calibration.check(replace(found, quantize_table=options.quantize_table, table=found.table or options.quantize_table))
    processor = target.load(found.chip)
    processor.require_codegen()
    mode = _float_mode(options, processor)
    module = calibration.load_top(found.mlir)
    table = CalibrationTable.load(options.calibration_table) if options.calibration_table else None
    lowering = LoweringOptions(processor, "INT8", asymmetric=options.asymmetric, table=table)
    if table is not None:
        require_known(table.ranges, [op.layer_name for op in module.layers()], options.calibration_table, "give the table of this module")
        warn_of_other_weights(options.calibration_table, table.weights, found.mlir, module)
    given, reasons = _given(options, module, lowering, mode)
    job = Job(options, module, lowering, mode, given, reasons, table, _compared(options, module), bar, show)
    if options.labels:
        check_labels(options.labels, job)
    return job


def _check_numbers(options: SearchOptions) -> None:
    if not options.quantize_table:
        raise InputError(f"--search {options.kind.value} needs --quantize_table, the table to write")
    limits = (("--expected_cos", options.expected_cos), ("--min_layer_cos", options.min_layer_cos))
    for option, value in limits:
        if not 0 <= value <= 1:
            raise InputError(f"{option} {value:g}: expected a cosine from 0 to 1")
    for option, number, least in (
        ("--inference_num", options.inference_num, 1), ("--max_float_layers", options.max_float_layers, 0), ("--time_budget", options.time_budget, 0),
    ):  # fmt: skip
        if number < least:
            raise InputError(f"{option}: expected {least} or more, found {number:g}")
    if options.max_cycles and options.max_float_cycles:
        raise InputError("--max_cycles and --max_float_cycles: one limit is enough; leave one out")
    for option, share in (("--max_cycles", options.max_cycles), ("--max_float_cycles", options.max_float_cycles)):
        if share < 0:
            raise InputError(f"{option}: expected a positive ratio of cycles, such as 1.25, found {share:g}")
        if share and options.kind is not Kind.PARETO:
            raise InputError(f"{option}: only --search pareto counts cycles; leave it out of {options.kind.value}")
    if options.labels and not 0 <= options.labels.drop <= 1:
        raise InputError(f"--map_drop {options.labels.drop:g}: expected a part of mAP50-95 from 0 to 1, such as 0.01")
    if options.labels and options.kind is not Kind.PARETO:
        raise InputError(f"--map_annotation: only --search pareto scores by mAP; leave it out of {options.kind.value}")
    for name in options.methods:
        method_named(name)


def method_named(name: str) -> Method:
    """A threshold method by its name.

    Raises:
        InputError: unknown.
    """
    try:
        return Method.named(name)
    except ValueError as error:
        known = [method.value for method in Method]
        hint = nearest_names(name, known) or f"known are {', '.join(known)}"
        raise InputError(f"--quantize_method_list {name}: no such method; {hint}") from error


def _float_mode(options: SearchOptions, processor: target.Target) -> str:
    wanted = options.float_type.upper()
    if wanted == "AUTO":
        return patterns.FLOAT_OF_CHIP[options.calibrate.chip]
    if wanted not in processor.float_types:
        raise InputError(f"--fp_type {options.float_type}: {processor.name} has {', '.join(processor.float_types)}; choose one, or auto")
    return wanted


def _given(options: SearchOptions, module: Module, lowering: LoweringOptions, mode: str) -> tuple[dict[str, str], dict[str, str]]:
    """Modes that stay, and why: those of --pre_qtable or of patterns, and the types that --part_quantize leaves out."""
    if options.pre_qtable:
        table = PrecisionTable.load(options.pre_qtable)
        check_precision(module, lowering, table)
        warn_of_other_weights(options.pre_qtable, table.weights, options.calibrate.mlir, module)
        modes, reasons = dict(table.modes), {name: table.reasons.get(name, GIVEN_LAYERS) for name in table.modes}
    else:
        pattern = patterns.pattern_table(module, options.calibrate.chip, options.calibrate.patterns)
        modes, reasons = dict.fromkeys(pattern.modes, mode), dict(pattern.reasons)
    types = _quantized_types(options, module)
    if types is not None:
        left_out = [op.layer_name for op in module.layers() if op.name.removeprefix("top.") not in (*types, "Input")]
        modes |= dict.fromkeys(left_out, mode)
        reasons |= dict.fromkeys(left_out, CUSTOM_LAYERS)
    return modes, reasons


def _quantized_types(options: SearchOptions, module: Module) -> tuple[str, ...] | None:
    """Op types that stay in 8 bits; None for all."""
    if not options.part_quantize:
        return None
    if options.part_quantize in PARTS:
        return PARTS[options.part_quantize]
    if options.part_quantize != "custom_mode":
        raise InputError(f"--part_quantize {options.part_quantize}: choose from {', '.join((*PARTS, 'custom_mode'))}")
    if not options.custom_operator:
        raise InputError("--part_quantize custom_mode needs --custom_operator, the op types to quantize, such as Conv,Add")
    known = sorted({op.name.removeprefix("top.") for op in module.layers()} | {name for part in PARTS.values() for name in part})
    for name in options.custom_operator:
        if name not in known:
            hint = nearest_names(name, known) or f"this network has {', '.join(known)}"
            raise InputError(f"--custom_operator {name}: no such op type; {hint}")
    return tuple(options.custom_operator)


def _compared(options: SearchOptions, module: Module) -> dict[str, float]:
    """Layers that are compared and their weights, which sum to 1; empty for the network outputs."""
    items = [item.strip() for item in options.compare.split(",") if item.strip()]
    if not items:
        return {}
    layers = {op.layer_name for op in module.layers()}
    weights: dict[str, float] = {}
    for item in items:
        name, colon, weight = item.rpartition(":")
        if item in layers or not colon:
            weights[item] = 1 / len(items)
            continue
        try:
            weights[name] = float(weight)
        except ValueError as error:
            raise InputError(f"--global_compare_layers {item}: expected layer or layer:weight, such as a:0.3,b:0.7") from error
    require_known(weights, [op.layer_name for op in module.layers()], "--global_compare_layers", "correct the names")
    if abs(sum(weights.values()) - 1) > 1e-6 or min(weights.values()) < 0:
        raise InputError(f"--global_compare_layers {options.compare}: the weights sum to {sum(weights.values()):g}; they must sum to 1")
    return weights


def load_post_process(path: str) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """The function `PostProcess(data)` of a Python file, which turns outputs by name into what is compared.

    Raises:
        InputError: the file cannot be run, or has no such function.
    """
    space: dict[str, Any] = {"__name__": "post_process", "__file__": path}
    try:
        exec(compile(Path(path).read_text(), path, "exec"), space)
    except Exception as error:  # whatever the user's file raises
        raise InputError(f"--post_process {path}: cannot be run ({type(error).__name__}: {error})") from error
    if not callable(space.get("PostProcess")):
        raise InputError(f"--post_process {path}: expected a function PostProcess(data) that takes and returns arrays by name")
    return space["PostProcess"]


def scoring_samples(job: Job) -> list[dict[str, np.ndarray]]:
    """Batches that candidates are scored on.

    Our own search takes samples behind those that calibrate where the folder has enough: thresholds fit the latter by construction.
    """
    options, found = job.options, job.options.calibrate
    entries = samples.from_list(found.data_list) if found.data_list else samples.from_folder(found.dataset)
    behind = entries[found.input_num :] if found.input_num and not job.table else []
    fresh = options.kind is Kind.PARETO and len(behind) >= options.inference_num
    entries = (behind if fresh else entries)[: options.inference_num]
    loader = samples.Loader(job.module, entries)
    batches = sweep.first_batches(loader, -(-len(entries) // loader.batch), found.threads)
    job.show(f"scored on {len(batches)} samples{', none of which calibrates' if fresh else ''}")
    return batches


def _evaluator(job: Job, batches: Sequence[Mapping[str, np.ndarray]]) -> Evaluator:
    options = job.options
    process = load_post_process(options.post_process) if options.post_process else None
    reference = calibration.load_top(options.reference) if options.reference else None
    return Evaluator(job.module, job.lowering, batches, job.compare or None, process, options.calibrate.threads, reference=reference)


def _digest(job: Job, batches: Sequence[Mapping[str, np.ndarray]]) -> str:
    """Of everything that scores depend on besides tables."""
    options, digest = job.options, hashlib.sha256()
    files = [path for path in (options.post_process, options.reference) if path]
    parts = (
        __version__,
        str(job.module),
        job.module.weights_digest(),
        sorted(job.compare.items()),
        options.asymmetric,
        *map(artifacts.sha256_file, files),
    )
    digest.update(repr(parts).encode())
    for batch in batches:
        for name, array in batch.items():
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def calibration_tables(job: Job) -> tuple[dict[str, CalibrationTable], str]:
    """Tables by method and the one to begin with; all are found in one pass over the samples unless a table was given."""
    if job.table is not None:
        return {job.table.method or "given": job.table}, job.table.method or "given"
    options, found = job.options, job.options.calibrate
    methods, base = _methods(options)
    entries = calibration.sample_entries(found)
    job.show(f"input_num = {found.input_num or len(entries)}, ref = {len(entries)}")
    loader = samples.Loader(job.module, entries)
    statistics = sweep.collect_all(
        job.module, loader, methods, found.bins, found.threads, lambda items, total: job.bar(items, total, "activation_collect_and_calc_th")
    )
    job.show(f"real input_num = {loader.used}")
    tune_entries = samples.from_list(found.tune_list) if found.tune_list else entries
    count = len(tune_entries) if found.tune_list else min(found.tune_num, len(tune_entries))
    tables: dict[str, CalibrationTable] = {}
    for method in methods:
        tunes = count if method.is_tuned or options.kind is not Kind.PARETO else 0
        ranges = calibration.tuned(
            job.module, samples.Loader(job.module, tune_entries), tunes, statistics[method], found, job.bar, job.show
        )
        name = f"{method.value}_tune" if tunes else method.value
        tables[name] = CalibrationTable(
            ranges, method.value, found.bins, loader.used, tunes, Path(found.mlir).name,
            asym_ops=patterns.one_sided(job.module) if found.part_asymmetric else (), notes=(f"{WEIGHTS}{job.module.weights_digest()}",),
        )  # fmt: skip
        tables[name].save(f"{found.table}_{name}")
    start = next(name for name, table in tables.items() if table.method == base.value)
    tables[start].save(found.table)
    return tables, start


def _methods(options: SearchOptions) -> tuple[list[Method], Method]:
    """Methods to choose from and the one to begin with."""
    usual = {
        Kind.PARETO: (options.calibrate.method.value, "kl", "mse", "max", "percentile9999"), Kind.THRESHOLD: ("kl", "max", "percentile9999", "mse"),
        Kind.QTABLE: ("mse",), Kind.MIX: (options.calibrate.method.value,),
    }  # fmt: skip
    methods = list(dict.fromkeys(method_named(name) for name in options.methods or usual[options.kind]))
    if options.kind is Kind.PARETO:
        return methods, methods[0]
    return methods, Method.MSE if Method.MSE in methods else methods[0]


def _search_threshold(job: Job, scorer: Scorer, tables: Mapping[str, CalibrationTable], base: str) -> str:
    best, scores = compatible.best_threshold_table(scorer, tables, {}, job.options.benchmark)
    for name, score in scores.items():
        job.show(f"{name}: outputs_cos:{score.compatible:.6f} (0.5 + 0.5 * cos), snr loss:{score.snr_loss:.6f}")
    tables[best].save(job.options.calibrate.table)
    job.show(f"best threshold table: {best}, copied to {job.options.calibrate.table}")
    job.precision(job.given, job.given_reasons, len(scorer.evaluator.samples)).save(job.options.quantize_table)
    return _missed(job, scores[best])


def _search_qtable(job: Job, scorer: Scorer, tables: Mapping[str, CalibrationTable], base: str) -> str:
    journal, samples_used = scorer.journal, scorer.evaluator.samples
    first = Scorer(_evaluator(job, samples_used[:1]), journal, "first sample")
    found = SearchQtable(scorer, first, tables, base, job.given, job.settings(), job.bar, job.show).run()
    return _write_mixed(job, found, len(samples_used))


def _mix_search(job: Job, scorer: Scorer, tables: Mapping[str, CalibrationTable], base: str) -> str:
    found = MixSearch(scorer, tables[base], job.given, job.settings(), job.bar).run()
    return _write_mixed(job, found, len(scorer.evaluator.samples))


def _write_mixed(job: Job, found: Mixed, scored: int) -> str:
    options = job.options
    similarity = options.kind is Kind.MIX
    scores = {name: value if similarity else 1 - value for name, value in found.losses.items()}
    reasons = {name: f"similarity {value:.6f} (0.5 + 0.5 * cos) {_WHERE[similarity]}" for name, value in scores.items()}
    table = job.precision(found.modes, reasons | dict(job.given_reasons), scored)
    table.save(options.quantize_table)
    if not job.table:
        found.table.save(Path(options.calibrate.table).parent / NEW_TABLE)
    if options.loss_table:
        header = (f"sample number: {scored}", f"chip: {options.calibrate.chip}  mix_mode: {job.mode}")
        artifacts.write_text(options.loss_table, compatible.loss_table(scores, header))
    job.show(f"int8 outputs_cos:{found.before.compatible:.6f} old")
    job.show(f"mix model outputs_cos:{found.after.compatible:.6f}")
    job.show(f"Output mix quantization table to {options.quantize_table}")
    return _missed(job, found.after)


_WHERE = {True: "of its own output in INT8", False: "of the network outputs with it alone in INT8"}


def _missed(job: Job, score: Score) -> str:
    """What is missing to `expected_cos`; empty when nothing is."""
    if score.compatible > job.options.expected_cos:
        return ""
    return (
        f"the best found has outputs_cos {score.compatible:.6f} on the scale 0.5 + 0.5 * cos, expected more than {job.options.expected_cos:g}; "
        f"its table is in {job.options.quantize_table}. Allow more with --max_float_layers, or use --search pareto"
    )
