"""What to do first: the remedy that the worst layers ask for, with the command to type."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bmflow.explain.diagnose import Remedy
from bmflow.explain.texts import decibels, percent

if TYPE_CHECKING:
    from bmflow.explain.report import LayerReport
    from bmflow.search.scores import Score

GOOD = 1e-4
"""Noise of the outputs (40 dB) below which there is nothing to do."""
GAIN = 0.05
"""Part of the measured noise that a remedy must take away to be named."""
ASKS = 0.1
WHY = {
    Remedy.EQUALIZE: "give every channel its own scale: their ranges lie too far apart for one",
    Remedy.KEEP_LARGEST: "calibrate with method max: thresholds clip values that matter",
    Remedy.PART_ASYMMETRIC: "give the SiLUs zero points: half of their range is unused",
    Remedy.ASYMMETRIC: "deploy with zero points: half of the range of one-sided layers is unused",
    Remedy.FLOAT: "leave the layers that stay worst in float",
}


@dataclass(frozen=True)
class Situation:
    """What the user typed, for the commands: paths, samples (as typed, and `count` for calibration, 0 for all), the table's method."""

    mlir: str
    table: str
    samples: tuple[str, ...]
    count: int
    method: str
    processor: str
    asymmetric: bool
    part_asymmetric: bool
    quantize_table: str = ""


@dataclass(frozen=True)
class Step:
    """One thing to do: the part of the measured noise that it takes away, in how many layers, and the commands."""

    remedy: Remedy
    share: float
    layers: int
    commands: tuple[str, ...]

    def __str__(self) -> str:
        if self.remedy is Remedy.FLOAT:
            return f"{WHY[self.remedy]}, {self.layers} of them to begin with"
        return f"{WHY[self.remedy]} (an estimated {percent(self.share)} of the noise measured at the outputs, in {self.layers} layers)"


@dataclass(frozen=True)
class Advice:
    """A paragraph, and the steps it speaks of, most useful first."""

    text: str
    steps: tuple[Step, ...] = ()


def advise(network: Score, layers: Sequence[LayerReport], situation: Situation) -> Advice:
    """Let the measured layers vote with their noise at the outputs; `layers` as `report.describe` gives them."""
    opening = (
        f"In 8 bits the outputs keep {decibels(network.noise)} and a plain cosine of {network.cosine:.6f}, means over output channels."
    )
    if network.noise < GOOD:
        return Advice(f"{opening} That is close to float: deploy it as it is, nothing needs to be done.")
    steps = _steps(layers, situation)
    if not steps:
        return Advice(f"{opening} No layer measured adds noise of its own worth a remedy; measure more of them with --effects.")
    later = f" After that: {'; then '.join(str(step) for step in steps[1:])}." if len(steps) > 1 else ""
    return Advice(f"{opening} First {steps[0]}.{later} Look again after each step: ranges and faults change with it.", tuple(steps))


def _steps(layers: Sequence[LayerReport], situation: Situation) -> list[Step]:
    """Remedies by the noise at the outputs that they take away; float layers, which cost time, last and for what then remains."""
    measured = [(layer, layer.output_noise) for layer in layers if layer.in_int8 and layer.output_noise]
    total = sum(noise for _, noise in measured)
    saved = {remedy: sum(noise * layer.savings.get(remedy, 0.0) for layer, noise in measured) for remedy in Remedy}
    asking = {remedy: sum(layer.savings.get(remedy, 0.0) > ASKS for layer, _ in measured) for remedy in Remedy}
    if saved[Remedy.PART_ASYMMETRIC] >= saved[Remedy.ASYMMETRIC]:  # one of both: the other adds nothing
        del saved[Remedy.ASYMMETRIC]
    else:
        del saved[Remedy.PART_ASYMMETRIC]
    worth = sorted((remedy for remedy, noise in saved.items() if noise >= GAIN * total > 0), key=lambda remedy: -saved[remedy])
    steps = [Step(remedy, saved[remedy] / total, asking[remedy], _commands(remedy, situation, 0)) for remedy in worth]
    worst = sum(noise > total / (2 * len(measured)) for _, noise in measured)
    return [*steps, Step(Remedy.FLOAT, 0.0, worst, _commands(Remedy.FLOAT, situation, worst))] if worst else steps


def _commands(remedy: Remedy, situation: Situation, layers: int) -> tuple[str, ...]:
    mlir, table = situation.mlir, situation.table
    if remedy is Remedy.FLOAT:
        qtable = f"{Path(table)}_qtable"
        explain = _explain(mlir, table, situation, "--qtable", qtable, "--worst", str(layers))
        return (explain, _deploy(mlir, table, situation, "--quantize_table", qtable))
    if remedy is Remedy.ASYMMETRIC:
        return (_deploy(mlir, table, situation, "--asymmetric"),)
    if remedy is Remedy.KEEP_LARGEST:
        made = f"{table}_max"
        return (_calibrate(mlir, made, situation, "max"), _explain(mlir, made, situation))
    if remedy is Remedy.PART_ASYMMETRIC:
        made = f"{table}_part_asym"
        return (_calibrate(mlir, made, situation, situation.method, "--part_asymmetric"), _explain(mlir, made, situation))
    made, corrected = f"{table}_we", f"{Path(mlir).with_suffix('')}_we.mlir"
    return (_calibrate(mlir, made, situation, situation.method, "--we"), _explain(corrected, made, situation))


def _calibrate(mlir: str, table: str, situation: Situation, method: str, *more: str) -> str:
    kept = ["--part_asymmetric"] if situation.part_asymmetric and "--part_asymmetric" not in more else []
    chosen = ["--cali_method", method] if method else []
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
