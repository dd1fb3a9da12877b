"""What to do first: of the remedies that were tried the one that brings most, with the command to type."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bmflow.explain.diagnose import Remedy
from bmflow.explain.texts import decibels

if TYPE_CHECKING:
    from bmflow.explain.trials import Trial
    from bmflow.search.scores import Score

GOOD = 1e-4
"""Noise of the outputs (40 dB) below which there is nothing to do."""
QTABLE = "shape_pattern_qtable"
"""What run_calibration writes beside a calibration table."""
GAIN = 0.05
"""Part of the noise of the outputs that a remedy must take away to be named."""
WHY = {
    Remedy.EQUALIZE: "give every channel its own scale: their ranges lie too far apart for one",
    Remedy.SMOOTH: "let weights of matrix products take over what outlier channels spread",
    Remedy.SOFTMAX: "let the probabilities of attention use all of their 8 bits",
    Remedy.KEEP_LARGEST: "calibrate with method max: thresholds clip values that matter",
    Remedy.PART_ASYMMETRIC: "give the SiLUs zero points: half of their range is unused",
    Remedy.ASYMMETRIC: "deploy with zero points: ranges then reach from the smallest to the largest value of every layer",
    Remedy.PATTERN: "leave in float what is better so in networks of this shape",
    Remedy.FLOAT: "leave the layers that stay worst in float",
}

_OPTIONS = {Remedy.EQUALIZE: "we", Remedy.SMOOTH: "sq", Remedy.SOFTMAX: "smc"}
"""Corrections, which make a module of their own."""


@dataclass(frozen=True)
class Situation:
    """What the user typed, for the commands: paths, samples (as typed, and `count` for calibration, 0 for all), the table's method.

    tuned: whether the table's thresholds were tuned, where its method is one that run_calibration tunes.
    """

    mlir: str
    table: str
    samples: tuple[str, ...]
    count: int
    method: str
    processor: str
    asymmetric: bool
    part_asymmetric: bool
    quantize_table: str = ""
    tuned: bool = True


@dataclass(frozen=True)
class Step:
    """One thing to do: what trying it gave, and the commands."""

    trial: Trial
    commands: tuple[str, ...]

    def __str__(self) -> str:
        first = f", {self.trial.layers} of them to begin with" if self.trial.remedy is Remedy.FLOAT else ""
        return f"{WHY[self.trial.remedy]}{first} (tried: the outputs then keep {decibels(self.trial.after.noise)})"


@dataclass(frozen=True)
class Advice:
    """A paragraph, and the steps it speaks of, most useful first."""

    text: str
    steps: tuple[Step, ...] = ()


def advise(network: Score, trials: Sequence[Trial], situation: Situation) -> Advice:
    """Name what helps, by what it was measured to bring; float layers last, since they cost time."""
    opening = (
        f"In 8 bits the outputs keep {decibels(network.noise)} and a plain cosine of {network.cosine:.6f}, means over output channels."
    )
    if network.noise < GOOD:
        return Advice(f"{opening} That is close to float: deploy it as it is, nothing needs to be done.")
    steps = _steps(network, trials, situation)
    idle = [trial for trial in trials if not _helps(trial, network)]
    tried = f" Of no use here: {'; '.join(f'{trial.remedy.value} ({decibels(trial.after.noise)})' for trial in idle)}." if idle else ""
    if not steps:
        return Advice(f"{opening} No remedy that was tried brings them closer to float.{tried} Let run_qtable look for layers to lift.")
    later = f" Or {'; or '.join(str(step) for step in steps[1:])}." if len(steps) > 1 else ""
    return Advice(f"{opening} First {steps[0]}.{later}{tried} Look again after each step: ranges and faults change with it.", tuple(steps))


def _helps(trial: Trial, network: Score) -> bool:
    return trial.after.noise <= (1 - GAIN) * network.noise


def _steps(network: Score, trials: Sequence[Trial], situation: Situation) -> list[Step]:
    """What takes noise away, most first; of the two that give zero points the better one, since the other adds nothing."""
    ordered = sorted(
        (trial for trial in trials if _helps(trial, network)), key=lambda trial: (trial.remedy is Remedy.FLOAT, trial.after.noise)
    )
    zero_points = [trial for trial in ordered if trial.remedy in (Remedy.ASYMMETRIC, Remedy.PART_ASYMMETRIC)]
    return [Step(trial, _commands(trial.remedy, situation, trial.layers)) for trial in ordered if trial not in zero_points[1:]]


def _commands(remedy: Remedy, situation: Situation, layers: int) -> tuple[str, ...]:
    mlir, table = situation.mlir, situation.table
    if remedy is Remedy.FLOAT:
        qtable = f"{Path(table)}_qtable"
        explain = _explain(mlir, table, situation, "--qtable", qtable, "--worst", str(layers))
        return (explain, _deploy(mlir, table, situation, "--quantize_table", qtable))
    if remedy is Remedy.PATTERN:
        return (_deploy(mlir, table, situation, "--quantize_table", str(Path(table).parent / QTABLE)),)
    if remedy is Remedy.ASYMMETRIC:
        return (_deploy(mlir, table, situation, "--asymmetric"),)
    if remedy is Remedy.KEEP_LARGEST:
        made = f"{table}_max"
        return (_calibrate(mlir, made, situation, "max"), _explain(mlir, made, situation))
    if remedy is Remedy.PART_ASYMMETRIC:
        made = f"{table}_part_asym"
        return (_calibrate(mlir, made, situation, situation.method, "--part_asymmetric"), _explain(mlir, made, situation))
    option = _OPTIONS[remedy]
    made, corrected = f"{table}_{option}", f"{Path(mlir).with_suffix('')}_{option}.mlir"
    return (_calibrate(mlir, made, situation, situation.method, f"--{option}"), _explain(corrected, made, situation))


def _calibrate(mlir: str, table: str, situation: Situation, method: str, *more: str) -> str:
    kept = ["--part_asymmetric"] if situation.part_asymmetric and "--part_asymmetric" not in more else []
    chosen = ["--cali_method", method] if method else []
    chosen += [] if situation.tuned or method != situation.method else ["--tune_num", "0"]
    source, count = situation.samples[:2], ["--input_num", str(situation.count)] if situation.count else []
    return _line("run_calibration", mlir, *source, *count, *chosen, *more, *kept, "-o", table)


def _explain(mlir: str, table: str, situation: Situation, *more: str) -> str:
    given = ["--quantize_table", situation.quantize_table] if situation.quantize_table else []
    asymmetric = ["--asymmetric"] if situation.asymmetric else []
    page = f"{Path(table)}_explain.html"
    return _line("bmflow", "explain", mlir, "--calibration_table", table, *given, *asymmetric, *situation.samples, *more, "-o", page)


def _deploy(mlir: str, table: str, situation: Situation, *more: str) -> str:
    asymmetric = ["--asymmetric"] if situation.asymmetric and "--asymmetric" not in more else []
    given = ["--quantize_table", situation.quantize_table] if situation.quantize_table and "--quantize_table" not in more else []
    model = f"{Path(mlir).stem}_int8.bmodel"
    return _line(
        "model_deploy", "--mlir", mlir, "--quantize", "INT8", "--calibration_table", table, *given, *asymmetric, *more,
        "--processor", situation.processor, "--model", model,
    )  # fmt: skip


def _line(*words: str) -> str:
    return shlex.join(words)
