"""Corrections before calibration: --we, --gptq, --bc, --sq, --smc of run_calibration.

The user's files stay as they are: a corrected module and its weights appear beside them, `<stem>_we.mlir`, `<stem>_gptq.mlir`,
`<stem>_bc.mlir` or several in this order, `<stem>_we_gptq_bc.mlir`, the table is made for that one, and `deploy_line` says how to deploy it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bmflow import target
from bmflow.calibration import samples
from bmflow.correction.bias import bias_errors, correct_biases
from bmflow.correction.channel_statistics import channel_statistics
from bmflow.correction.equalize import equalize
from bmflow.correction.gptq import round_filters
from bmflow.driver.calibrate import CalibrateOptions, Progress, calibrate, load_top, sample_entries
from bmflow.errors import InputError
from bmflow.ir.module import Module
from bmflow.passes.lowering import LoweringOptions, lower
from bmflow.tables.calibration import CalibrationTable

LOG = logging.getLogger("bmflow")
BIAS_SAMPLES = 30


@dataclass(frozen=True)
class Corrections:
    """Which corrections to make; `bias_samples` are averaged over for the biases. `rounding`: filters by GPTQ."""

    equalize: bool = False
    bias: bool = False
    smooth: bool = False
    softmax: bool = False
    bias_samples: int = BIAS_SAMPLES
    rounding: bool = False

    @property
    def suffix(self) -> str:
        """What the names of the corrected files end in."""
        return "".join(f"_{name}" for name, wanted in (("we", self.equalize), ("gptq", self.rounding), ("bc", self.bias)) if wanted)


def correct_and_calibrate(
    options: CalibrateOptions, corrections: Corrections, progress: Progress | None = None, show: Callable[[str], None] = print
) -> CalibrationTable:
    """Write the corrected module and calibrate it.

    Raises:
        InputError: as `calibrate`; nothing is written then.
    """
    bar = progress or (lambda items, total, what: items)
    module, entries = load_top(options.mlir), sample_entries(options)
    say_what_does_not_apply(corrections)
    stem = Path(options.mlir).with_suffix("")
    if corrections.equalize:
        path = f"{stem}_we.mlir"
        module = _equalize(module, entries, bar)
        _save(module, path)
        options = replace(options, mlir=path)
    if corrections.rounding:
        path = f"{stem}{replace(corrections, bias=False).suffix}.mlir"
        module = round_filters(module, _inputs(module, entries, bar, "what filters read"), options.threads)
        _save(module, path)
        options = replace(options, mlir=path)
    if corrections.bias:
        module = _correct_bias(module, entries[: corrections.bias_samples], calibrate(options, progress, show), bar)
        path = f"{stem}{corrections.suffix}.mlir"
        _save(module, path)
        options = replace(options, mlir=path)
    return calibrate(options, progress, show)


def deploy_line(options: CalibrateOptions, corrections: Corrections) -> str:
    """What to type to deploy the corrected module; empty when nothing was corrected."""
    if not corrections.suffix:
        return ""
    mlir = f"{Path(options.mlir).with_suffix('')}{corrections.suffix}.mlir"
    return f"deploy the corrected module: model_deploy --mlir {mlir} --quantize INT8 --calibration_table {options.table} ..."


def _equalize(module: Module, entries: Sequence[samples.Entry], bar: Progress) -> Module:
    result = equalize(module, channel_statistics(module, _inputs(module, entries, bar, "channel ranges")))
    if not result.scaled:
        LOG.info("--we: no feature map has channels that can be scaled; the module stays as it is")
    for name, spread in sorted(result.scaled.items(), key=lambda item: -item[1])[:5]:
        LOG.info("--we: %s: channel peaks were %.0f x apart", name, spread)
    return result.module


def _correct_bias(module: Module, entries: Sequence[samples.Entry], table: CalibrationTable, bar: Progress) -> Module:
    lowered = lower(module, LoweringOptions(target.load("bm1684x"), "INT8", table=table))
    errors = bias_errors(module, lowered, _inputs(module, entries, bar, "bias errors"))
    LOG.info("--bc: biases of %d convolutions corrected", len(errors))
    return correct_biases(module, errors)


def _inputs(module: Module, entries: Sequence[samples.Entry], bar: Progress, what: str) -> Iterator[dict[str, np.ndarray]]:
    loader = samples.Loader(module, entries)
    loaded: Iterable[Any] = ((entry, loader.load(entry)) for entry in bar(entries, len(entries), what))
    yield from loader.batches(loaded)
    if not loader.used:
        raise InputError(f"the {len(entries)} samples do not make one batch of {loader.batch}; the first is {entries[0]}")


def _save(module: Module, path: str) -> None:
    module.save(path, f"{Path(path).stem}_top_f32_all_weight.npz")
    LOG.info("Mlir file generated:%s", path)


def say_what_does_not_apply(corrections: Corrections) -> None:
    """SmoothQuant needs LayerNorm before MatMul, softmax correction Softmax before MatMul; networks with MatMul are refused earlier."""
    if corrections.smooth:
        LOG.info("--sq: no LayerNorm feeds a MatMul in this network; nothing to smooth")
    if corrections.softmax:
        LOG.info("--smc: no Softmax feeds a MatMul in this network; nothing to correct")
