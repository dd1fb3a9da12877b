"""Corrections before calibration: --sq, --smc, --we, --gptq, --bc of run_calibration.

The user's files stay as they are: a corrected module and its weights appear beside them, named after the corrections in this order, such
as `<stem>_sq.mlir` or `<stem>_we_gptq_bc.mlir`; the table is made for that one, and `deploy_line` says how to deploy it. --sq and --smc
write nothing where a network has no place for them.
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
from bmflow.correction.smooth import can_be_smoothed, smooth
from bmflow.correction.softmax import can_be_corrected, correct_softmaxes
from bmflow.driver.calibrate import CalibrateOptions, Progress, calibrate, load_top, sample_entries
from bmflow.errors import InputError
from bmflow.explain.texts import decibels, times
from bmflow.ir.module import Module
from bmflow.passes.lowering import LoweringOptions, lower
from bmflow.tables.calibration import CalibrationTable

LOG = logging.getLogger("bmflow")
BIAS_SAMPLES = 30
NAMED = 5
"""So many layers of each correction are named in the log."""


@dataclass(frozen=True)
class Corrections:
    """Which corrections to make. `rounding`: filters by GPTQ.

    `bias_samples` are averaged over for the biases; with `bias_below` only layers are corrected whose score, 0.5 + 0.5 * cosine, is below it.
    """

    equalize: bool = False
    bias: bool = False
    smooth: bool = False
    softmax: bool = False
    bias_samples: int = BIAS_SAMPLES
    rounding: bool = False
    bias_below: float | None = None

    @property
    def names(self) -> list[str]:
        """The corrections to make, in the order they are made."""
        asked = {"sq": self.smooth, "smc": self.softmax, "we": self.equalize, "gptq": self.rounding, "bc": self.bias}
        return [name for name in _CORRECTIONS if asked[name]]


@dataclass(frozen=True)
class Corrected:
    """The table, and the module it was made for: the user's own where nothing was corrected."""

    table: CalibrationTable
    mlir: str


def correct_and_calibrate(
    options: CalibrateOptions, corrections: Corrections, progress: Progress | None = None, show: Callable[[str], None] = print
) -> Corrected:
    """Write the corrected module and calibrate it.

    Raises:
        InputError: as `calibrate`; nothing is written then.
    """
    below = corrections.bias_below
    if below is not None and not 0 <= below <= 1:
        raise InputError(f"--min_layer_cos {below:g}: expected a cosine from 0 to 1, on the scale 0.5 + 0.5 * cos")
    module, entries = load_top(options.mlir), sample_entries(options)
    stem = str(Path(options.mlir).with_suffix(""))
    for name in applicable(module, corrections).names:
        work = _Work(module, entries, options, corrections, progress, show)
        module, stem = _CORRECTIONS[name](work), f"{stem}_{name}"
        options = replace(options, mlir=f"{stem}.mlir")
        _save(module, options.mlir)
    return Corrected(calibrate(options, progress, show), options.mlir)


def deploy_line(options: CalibrateOptions, corrected: Corrected) -> str:
    """What to type to deploy the corrected module; empty when nothing was corrected."""
    if corrected.mlir == options.mlir:
        return ""
    return f"deploy the corrected module: model_deploy --mlir {corrected.mlir} --quantize INT8 --calibration_table {options.table} ..."


def applicable(module: Module, corrections: Corrections) -> Corrections:
    """The corrections without those that a network has no place for, which the log names."""
    can_smooth = not corrections.smooth or can_be_smoothed(module)
    can_correct = not corrections.softmax or can_be_corrected(module)
    if not can_smooth:
        LOG.info("--sq: no LayerNorm feeds a MatMul in this network; nothing to smooth")
    if not can_correct:
        LOG.info("--smc: no Softmax feeds a MatMul in this network; nothing to correct")
    return replace(corrections, smooth=corrections.smooth and can_smooth, softmax=corrections.softmax and can_correct)


@dataclass(frozen=True)
class _Work:
    """What one correction works on; `options` are those of a calibration of the module as it is before."""

    module: Module
    entries: Sequence[samples.Entry]
    options: CalibrateOptions
    corrections: Corrections
    progress: Progress | None
    show: Callable[[str], None]

    def inputs(self, what: str, count: int | None = None) -> Iterator[dict[str, np.ndarray]]:
        """Network inputs of the first `count` samples, or of all."""
        loader = samples.Loader(self.module, self.entries[:count])
        items: Iterable[Any] = self.progress(loader.entries, len(loader.entries), what) if self.progress else loader.entries
        yield from loader.batches((entry, loader.load(entry)) for entry in items)
        if not loader.used:
            raise InputError(f"the {len(loader.entries)} samples do not make one batch of {loader.batch}; the first is {loader.entries[0]}")


def _smooth(work: _Work) -> Module:
    result = smooth(work.module, work.inputs("what matrix products read"), work.options.threads)
    for name, gain in sorted(result.gains.items(), key=lambda item: item[1].share)[:NAMED]:
        far = f"its farthest channel reaches {times(gain.farthest)} the median"
        LOG.info("--sq: %s: %s; the 8-bit products behind it kept %s, now %s", name, far, decibels(gain.before), decibels(gain.after))
    _summarize("--sq", len(result.gains), result.left)
    return result.module


def _correct_softmaxes(work: _Work) -> Module:
    result = correct_softmaxes(work.module, work.inputs("probabilities"), work.options.threads)
    for name, gain in sorted(result.gains.items(), key=lambda item: item[1].share)[:NAMED]:
        scales = ", ".join(f"{scale:.3g}" for scale in gain.scales[:4]) + (", ..." if len(gain.scales) > 4 else "")
        LOG.info("--smc: %s: divided by %s; the 8-bit product kept %s, now %s", name, scales, decibels(gain.before), decibels(gain.after))
    _summarize("--smc", len(result.gains), result.left)
    return result.module


def _summarize(option: str, changed: int, left: Sequence[str]) -> None:
    names = ", ".join(left[:NAMED]) + (f" and {len(left) - NAMED} more" if len(left) > NAMED else "")
    if left:
        LOG.info("%s: %d layers changed, %d left, which would win too little: %s", option, changed, len(left), names)
    if not changed:
        LOG.info("%s: the module stays as it is", option)


def _equalize(work: _Work) -> Module:
    result = equalize(work.module, channel_statistics(work.module, work.inputs("channel ranges"), work.options.threads))
    if not result.scaled:
        LOG.info("--we: no feature map has channels that can be scaled; the module stays as it is")
    for name, spread in sorted(result.scaled.items(), key=lambda item: -item[1])[:NAMED]:
        LOG.info("--we: %s: channel peaks were %.0f x apart", name, spread)
    return result.module


def _round(work: _Work) -> Module:
    return round_filters(work.module, work.inputs("what filters read"), work.options.threads)


def _correct_bias(work: _Work) -> Module:
    table = calibrate(work.options, work.progress, work.show)
    lowered = lower(work.module, LoweringOptions(target.load("bm1684x"), "INT8", table=table))
    inputs = work.inputs("bias errors", work.corrections.bias_samples)
    errors = bias_errors(work.module, lowered, inputs, below=work.corrections.bias_below)
    LOG.info("--bc: biases of %d layers corrected", len(errors))
    return correct_biases(work.module, errors)


_CORRECTIONS: dict[str, Callable[[_Work], Module]] = {
    "sq": _smooth, "smc": _correct_softmaxes, "we": _equalize, "gptq": _round, "bc": _correct_bias,
}  # fmt: skip


def _save(module: Module, path: str) -> None:
    module.save(path, f"{Path(path).stem}_top_f32_all_weight.npz")
    LOG.info("Mlir file generated:%s", path)
