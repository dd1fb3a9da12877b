"""All that was found about a network, worst layers first, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bmflow.explain.advice import Advice
from bmflow.explain.bench import Bench
from bmflow.explain.diagnose import Clinic, Diagnosis
from bmflow.explain.exchange import Effect
from bmflow.explain.tally import Error, Tally
from bmflow.explain.texts import decibels
from bmflow.ir.types import Quantization, shape_of
from bmflow.passes.lowering.ranges import Interval
from bmflow.search.scores import Score
from bmflow.tables.precision import PrecisionTable


@dataclass(frozen=True)
class LayerReport:
    """One layer. `place` is its number in program order; noises are error over signal, mean over channels, None where not measured.

    `readers` get its values in 8 bits; beyond `window` all values are the same to them.
    """

    place: int
    name: str
    kind: str
    shape: tuple[int, ...]
    mode: str
    why: str
    tally: Tally
    interval: Interval | None
    quantization: Quantization | None
    effect: Effect | None
    diagnosis: Diagnosis | None
    in_int8: bool
    readers: tuple[str, ...]
    window: tuple[float, float]

    def noise(self, error: Error) -> float | None:
        """See `Tally.noise`."""
        return self.tally.noise(error)

    @property
    def output_noise(self) -> float | None:
        """Noise of the network outputs with this layer alone in INT8."""
        return self.effect.alone.noise if self.effect and self.effect.alone else None


@dataclass(frozen=True)
class Report:
    """A network. `network` is the score of its outputs in 8 bits; `layers` come worst first; `notes` are what a reader should know."""

    name: str
    samples: int
    asymmetric: bool
    effects: int
    network: Score
    layers: Sequence[LayerReport]
    advice: Advice
    notes: Sequence[str] = ()

    @property
    def in_order(self) -> list[LayerReport]:
        """The layers in program order."""
        return sorted(self.layers, key=lambda layer: layer.place)


def describe(bench: Bench, tallies: Mapping[str, Tally], effects: Mapping[str, Effect]) -> list[LayerReport]:
    """The report of every layer, worst first: by the noise at the outputs where that was measured, the others by their own."""
    clinic = Clinic(bench, tallies)
    layers: list[LayerReport] = []
    for place, (name, op) in enumerate(bench.ops.items()):
        choice = bench.choices.get(name)
        layers.append(
            LayerReport(
                place, name, op.name.removeprefix("top."), shape_of(op.results[0]), (choice.compute or "as its input") if choice else "F32",
                choice.reason if choice else "network input", tallies[name], bench.analysis.ranges.get(name), bench.quantization(name),
                effects.get(name), clinic.diagnose(name), bench.computes_in_int8(name),
                tuple(bench.readers(name)) if choice else (), bench.window(name),
            )
        )  # fmt: skip
    return sorted(layers, key=_badness)


def _badness(layer: LayerReport) -> tuple[int, float, int]:
    if layer.output_noise is not None:
        return (0, -layer.output_noise, layer.place)
    return (1, -(layer.noise(Error.ALONE) or 0.0), layer.place)


def worst_by_own_noise(bench: Bench, tallies: Mapping[str, Tally], count: int) -> list[str]:
    """The layers whose own INT8 form has most noise, worst first."""
    noises = {name: tallies[name].noise(Error.ALONE) for name in bench.int8_forms}
    return sorted((name for name, noise in noises.items() if noise), key=lambda name: -(noises[name] or 0.0))[:count]


def _reason(layer: LayerReport) -> str:
    """One line on why a layer is better in float."""
    parts = [layer.diagnosis.text] if layer.diagnosis else []
    if layer.output_noise is not None:
        parts.append(f"alone in INT8 it leaves the outputs {decibels(layer.output_noise)}")
    else:
        parts.append(f"its own INT8 result keeps {decibels(layer.noise(Error.ALONE))}")
    return ". ".join(parts)


def worst_table(
    layers: Sequence[LayerReport], count: int, given: PrecisionTable | None, chip: str, mode: str, samples: int
) -> PrecisionTable:
    """A quantize table with the worst layers of a report in a float type and the reason beside each, behind the lines of a given table.

    Where a layer's stored values are at fault, lifting it alone gains nothing; its readers go along.
    """
    worst = [layer for layer in layers if layer.in_int8][:count]
    why = {layer.name: _reason(layer) for layer in worst}
    for layer in worst:
        why |= {name: f"reads {layer.name}, whose values 8 bits do not hold" for name in _companions(layer) if name not in why}
    old = given or PrecisionTable({})
    return PrecisionTable({**old.modes, **dict.fromkeys(why, mode)}, {**old.reasons, **why}, chip, mode, samples)


def _companions(layer: LayerReport) -> tuple[str, ...]:
    effect = layer.effect
    if effect and effect.lifted:
        return layer.readers if effect.freed and effect.freed.noise < effect.lifted.noise else ()
    return layer.readers if (layer.noise(Error.STORED) or 0.0) > (layer.noise(Error.ALONE) or 0.0) / 2 else ()
