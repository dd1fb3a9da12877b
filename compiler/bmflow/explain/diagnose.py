"""One sentence on what is wrong with a layer in 8 bits, and what would help.

Each rule looks for one fault and estimates the noise that fault makes: error over signal, mean over channels, the measure of the whole
report. Of several faults the one that makes most noise is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bmflow.calibration.patterns import one_sided
from bmflow.correction.channel_graph import ChannelGraph, is_argument
from bmflow.correction.smooth import smoothable
from bmflow.correction.softmax import correctable
from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.matmul import TopMatMulOp
from bmflow.explain.bench import Bench
from bmflow.explain.tally import Error, Reals, Tally
from bmflow.explain.texts import decibels, percent, times
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.structure import TopInputOp, TopWeightOp
from bmflow.ir.types import Quantization, is_none, shape_of
from bmflow.ir.values import SSAValue
from bmflow.passes.lowering.conv import quantize_filter
from bmflow.passes.lowering.matmul import quantize_matrix
from bmflow.passes.lowering.propagate import activations
from bmflow.passes.lowering.ranges import Interval, feeds_scaled_active, quantize
from bmflow.passes.rewrite import users
from bmflow.tables.calibration import Range

LEAST = 3e-5
"""Noise (-45 dB) below which a fault is not worth a sentence."""
WEAK = 1 / 32
"""A channel that uses less of the range keeps less than three bits and its sign."""
NARROW = 0.5
"""Half of the channels using less of the range is a fault, too: each lacks a bit."""
CLIPPED = 0.01
ONE_SIDED = 0.1
LEAST_BITS = 0.2
HALF = 0.5
POOR = 3e-4
"""Noise (-35 dB) above which what a layer reads may be to blame."""
MUCH = 0.25
FAR = 4.0
"""A channel that reaches so many times as far as the median is an outlier."""
WORTH = 0.1
"""A fault is told when it makes this part of the layer's noise."""


class Fault(Enum):
    """What is wrong."""

    CLIPPED = "clipped range"
    SPREAD = "channel spread"
    HALF_UNUSED = "unused half"
    LOOSE = "loose range"
    WEIGHTS = "weights"
    OPERAND = "operand"
    COARSE = "coarse steps"
    CONSTANT = "constant channels"


class Remedy(Enum):
    """What helps."""

    EQUALIZE = "run_calibration --we"
    SMOOTH = "run_calibration --sq"
    SOFTMAX = "run_calibration --smc"
    KEEP_LARGEST = "run_calibration --cali_method max"
    PART_ASYMMETRIC = "run_calibration --part_asymmetric"
    ASYMMETRIC = "model_deploy --asymmetric"
    PATTERN = "model_deploy --quantize_table shape_pattern_qtable"
    FLOAT = "the worst layers in float"
    NONE = "nothing"


@dataclass(frozen=True)
class Diagnosis:
    """A fault, the noise it makes, what helps, and the sentence that says so. `operand` is the layer to look at for OPERAND."""

    fault: Fault
    noise: float
    remedy: Remedy
    text: str
    operand: str = ""


@dataclass(frozen=True)
class Patient:
    """All that is known of one layer."""

    op: LayerOp
    tally: Tally
    quantization: Quantization
    interval: Interval
    row: Range | None
    asymmetric: bool
    one_sided: bool
    scalable: NDArray[np.bool_]
    """Channels that --we can give a scale of their own."""
    smoothable: NDArray[np.bool_]
    """Channels that --sq can."""

    @cached_property
    def rounding(self) -> Reals:
        """Noise of rounding per channel, clipping left out."""
        tally = self.tally
        return tally.ratios(np.maximum(tally.errors[Error.STORED] - tally.errors[Error.CLIPPED], 0))

    @cached_property
    def shares(self) -> Reals:
        """Part of the range that each channel uses, at most 1."""
        if self.asymmetric:
            low, high = self.quantization.dtype.limits
            used = (self.tally.high - self.tally.low) / ((high - low) * self.quantization.scale)
        else:
            used = self.tally.peaks / self.interval.threshold
        return np.minimum(used, 1.0)

    @property
    def has_fixed_range(self) -> bool:
        """Whether the range is the same whatever calibration finds."""
        return feeds_scaled_active(self.op) or self.interval == Interval(0.0, 1.0)

    @property
    def finer_with_zero_point(self) -> float:
        """How much finer steps get with a zero point; the table's extremes bound the values then, not its threshold."""
        if self.row is None or self.row.high <= self.row.low:
            return 1.0
        return self.quantization.scale / quantize(Interval(self.row.low, self.row.high), asymmetric=True).scale

    @property
    def coarser_with_largest(self) -> float:
        """How much coarser steps get when nothing is clipped."""
        return max(float(self.tally.peaks.max()) / self.interval.threshold, 1.0)

    @cached_property
    def savings(self) -> dict[Remedy, float]:
        """How much of the noise of storing the result each remedy takes away, as far as the tally tells; what it adds counts against it."""
        rounding, clipping = float(self.rounding.mean()), self.tally.noise(Error.CLIPPED) or 0.0
        own_scale = np.where(self.scalable & ~self.tally.constant, self.rounding * (1 - self.shares**2), 0)
        found = {Remedy.EQUALIZE: float(own_scale.mean())}
        if not self.has_fixed_range and not self.asymmetric:
            found[Remedy.KEEP_LARGEST] = rounding + clipping - rounding * self.coarser_with_largest**2
        if not self.has_fixed_range and not self.asymmetric:
            found[Remedy.ASYMMETRIC] = rounding + clipping - rounding / self.finer_with_zero_point**2
            found |= {Remedy.PART_ASYMMETRIC: found[Remedy.ASYMMETRIC]} if self.one_sided else {}
        return found

    @property
    def excess(self) -> float:
        """Noise that computing in INT8 adds to that of storing the result."""
        return max((self.tally.noise(Error.ALONE) or 0.0) - (self.tally.noise(Error.STORED) or 0.0), 0.0)


class Clinic:
    """Diagnoses layers of one network."""

    def __init__(self, bench: Bench, tallies: Mapping[str, Tally]) -> None:
        self.bench, self.tallies = bench, tallies
        self._one_sided = set(one_sided(bench.module))
        self._graph, self._smoothable = ChannelGraph(bench.module), smoothable(bench.module)
        self.correctable = set(correctable(bench.module))
        table = bench.options.table
        rows = table.ranges if table else {}
        self.patients = {
            name: self._admit(op, quantization, rows.get(name))
            for name, op in bench.ops.items()
            if (quantization := bench.quantization(name))
        }

    def _admit(self, op: LayerOp, quantization: Quantization, row: Range | None) -> Patient:
        name, channels = op.layer_name, len(self.tallies[op.layer_name].power)
        free = self._smoothable.get(name, np.zeros(0, np.bool_))
        return Patient(
            op, self.tallies[name], quantization, self.bench.analysis.ranges[name], row, name in self.bench.analysis.asymmetric,
            name in self._one_sided, self.scalable(op.results[0], channels),
            free if len(free) == channels else np.zeros(channels, np.bool_),
        )  # fmt: skip

    def diagnose(self, name: str) -> Diagnosis | None:
        """What is wrong with a layer; None when nothing is worth a sentence."""
        patient = self.patients.get(name)
        if patient is None or isinstance(patient.op, TopInputOp):
            return None
        least = max(LEAST, WORTH * (patient.tally.noise(Error.ALONE) or 0.0))
        found = [diagnosis for rule in RULES if (diagnosis := rule(patient, self)) and diagnosis.noise >= least]
        return max(found, key=lambda diagnosis: diagnosis.noise, default=None) or self._coarse(patient) or _constant(patient)

    def _coarse(self, patient: Patient) -> Diagnosis | None:
        """No single fault, yet poor: what takes away most."""
        alone, savings = patient.tally.noise(Error.ALONE) or 0.0, patient.savings
        remedy = max(savings, key=lambda remedy: savings[remedy])
        if alone < POOR or savings[remedy] < MUCH * alone:
            return None
        text = (
            f"its steps of {patient.quantization.scale:.3g} are coarse for most of its values; {remedy.value} takes away an estimated "
            f"{percent(savings[remedy] / alone)} of its noise"
        )
        return Diagnosis(Fault.COARSE, savings[remedy], remedy, text)

    def worst_operand(self, patient: Patient) -> str:
        """The layer among those it reads whose stored values are worst; empty when there is none."""
        names = [name for name in map(layer_name, activations(patient.op)) if name in self.patients]
        return max(names, key=self.stored_noise, default="")

    def stored_noise(self, name: str) -> float:
        """Noise of storing a layer in 8 bits; of layers that only move values, 0."""
        tally = self.tallies.get(name)
        return (tally.noise(Error.STORED) or 0.0) if tally else 0.0

    def scalable(self, value: SSAValue, channels: int) -> NDArray[np.bool_]:
        """Channels that --we can give a scale of their own."""
        if len(shape_of(value)) != 4:
            return np.zeros(channels, np.bool_)
        return np.full(channels, True) if is_argument(value) else ~self._graph.fixed(value)


Rule = Callable[[Patient, Clinic], Diagnosis | None]


def _clipped(patient: Patient, clinic: Clinic) -> Diagnosis | None:
    tally, share = patient.tally, patient.tally.clipped_share
    noise, rounding = tally.noise(Error.CLIPPED) or 0.0, float(patient.rounding.mean())
    if not tally.clipped or (share < CLIPPED and noise < 4 * rounding):
        return None
    keeps = patient.savings.get(Remedy.KEEP_LARGEST, 0.0) > 0
    remedy = Remedy.KEEP_LARGEST if keeps else Remedy.FLOAT
    advice = "method max keeps them" if keeps else "keeping them would cost more in coarse steps than it saves, a float type does both"
    low, high = tally.low.min(), tally.high.max()
    text = f"the threshold {patient.interval.threshold:.4g} clips {percent(share)} of the values, which reach from {low:.4g} to {high:.4g}; {advice}"
    return Diagnosis(Fault.CLIPPED, noise, remedy, text)


def _spread(patient: Patient, clinic: Clinic) -> Diagnosis | None:
    living, shares = ~patient.tally.constant, patient.shares
    if living.sum() < 2:
        return None
    weak = living & (shares <= WEAK)
    median = float(np.median(shares[living]))
    if not weak.any() and median > NARROW:
        return None
    few = weak if weak.any() else living & (shares <= median)
    noise = float(
        np.where(living, patient.rounding * (1 - shares**2), 0).mean()
    )  # a scale of its own makes a channel's steps so much finer
    remedy, advice = _who_scales(patient, few)
    if remedy is Remedy.SMOOTH and (far := _far_channels(patient)):
        return Diagnosis(Fault.SPREAD, noise, remedy, f"{far}; {advice}")
    count, used = int(few.sum()), percent(float(shares[few].max()))
    use = "use at most" if count > 1 else "uses"
    text = f"{count} of {len(few)} output channels {use} {used} of the range{_who_stretches(patient, few)}; {advice}"
    return Diagnosis(Fault.SPREAD, noise, remedy, text)


def _who_scales(patient: Patient, few: np.ndarray) -> tuple[Remedy, str]:
    if patient.scalable[few].all():
        return Remedy.EQUALIZE, "equalization (--we) helps"
    if patient.smoothable[few].all():
        return Remedy.SMOOTH, "SmoothQuant (--sq) evens them out"
    return Remedy.FLOAT, "their scale is tied here, a float type keeps them"


def _far_channels(patient: Patient) -> str:
    """The few channels that reach much farther than most."""
    peaks = patient.tally.peaks
    median = float(np.median(peaks[~patient.tally.constant]))
    far = peaks > FAR * median
    if not far.any() or far.sum() > len(far) / 4:
        return ""
    reach = "reaches" if far.sum() == 1 else "reach"
    return f"{far.sum()} of {len(far)} output channels {reach} {times(float(peaks.max()) / median)} the median of all"


def _who_stretches(patient: Patient, weak: np.ndarray) -> str:
    """The channels that make the range wide, when few do and most others suffer."""
    far = np.flatnonzero(patient.shares > HALF)
    if not len(far) or len(far) > 3 or weak.sum() < 4 * len(far):
        return ""
    return f", which {'channel' if len(far) == 1 else 'channels'} {', '.join(map(str, far))} {'stretches' if len(far) == 1 else 'stretch'}"


def _half_unused(patient: Patient, clinic: Clinic) -> Diagnosis | None:
    interval, tally = patient.interval, patient.tally
    low, high = float(tally.low.min()), float(tally.high.max())
    short, long = min(-low, high), max(-low, high)
    if patient.asymmetric or not interval.signed or short > ONE_SIDED * interval.threshold or long < HALF * interval.threshold:
        return None
    noise = patient.savings.get(Remedy.ASYMMETRIC, 0.0)
    if noise <= 0:
        return None
    stored = float(patient.rounding.mean()) + (tally.noise(Error.CLIPPED) or 0.0)
    bits = float(np.log2(stored / (stored - noise))) / 2
    if bits < LEAST_BITS:
        return None
    gains = "gains a bit" if bits > 0.9 else f"gains {bits:.1f} bits"
    behind = f" behind {patient.op.name.removeprefix('top.')}" if patient.op.name in ("top.SiLU", "top.ScaledActive") else ""
    if patient.one_sided:
        remedy, advice = Remedy.PART_ASYMMETRIC, f"--part_asymmetric {gains}"
    elif clinic.bench.options.target.asymmetric:
        remedy, advice = Remedy.ASYMMETRIC, f"model_deploy --asymmetric, which concerns every layer, {gains} here"
    else:
        remedy, advice = Remedy.FLOAT, "this processor has no zero points, only a float type gains the bit"
    text = f"one half of the signed range is unused{behind} (values from {low:.4g} to {high:.4g}); {advice}"
    return Diagnosis(Fault.HALF_UNUSED, noise, remedy, text)


def _loose(patient: Patient, clinic: Clinic) -> Diagnosis | None:
    share = float(patient.shares.max() if not patient.asymmetric else _span(patient.tally) / _width(patient))
    if share > HALF or share <= 0:
        return None
    noise, bits = (1 - share**2) * float(patient.rounding.mean()), -np.log2(share)
    partner = _shares_range_with(patient, clinic)
    cause = (
        f"it shares the range of {partner}"
        if partner
        else f"the range reaches {patient.interval.threshold:.4g}, the values {patient.tally.peaks.max():.4g}"
    )
    remedy, advice = (Remedy.FLOAT, "a float type keeps them") if partner else (Remedy.NONE, "calibrate on samples like these")
    return Diagnosis(Fault.LOOSE, noise, remedy, f"{percent(share)} of the range is used, {bits:.1f} bits are lost: {cause}; {advice}")


def _span(tally: Tally) -> float:
    return max(float(tally.high.max()), 0.0) - min(float(tally.low.min()), 0.0)


def _width(patient: Patient) -> float:
    low, high = patient.quantization.dtype.limits
    return (high - low) * patient.quantization.scale


def _shares_range_with(patient: Patient, clinic: Clinic) -> str:
    """A neighbour with the same range, whose own values need it."""
    near = [user.layer_name for user in users(patient.op.results[0]) if isinstance(user, LayerOp)]
    near += [layer_name(value) for value in activations(patient.op)]
    ranges, tallies = clinic.bench.analysis.ranges, clinic.tallies
    fits = [name for name in near if ranges.get(name) == patient.interval and name in tallies]
    return next((name for name in fits if tallies[name].peaks.max() > 1.5 * patient.tally.peaks.max()), "")


def _small_probabilities(patient: Patient, clinic: Clinic) -> Diagnosis | None:
    """A Softmax over many tokens, which a matrix product reads in steps of 1 / 255."""
    noise = patient.tally.noise(Error.STORED) or 0.0
    if patient.op.layer_name not in clinic.correctable or noise < POOR:
        return None
    lost = f"{percent(patient.tally.vanished_share)} of its probabilities vanish in steps of 1/255, all together keep {decibels(noise)}"
    return Diagnosis(Fault.COARSE, noise, Remedy.SOFTMAX, f"{lost}; softmax correction (--smc) helps")


def _weights(patient: Patient, clinic: Clinic) -> Diagnosis | None:
    op, excess = patient.op, patient.excess
    if isinstance(op, TopMatMulOp) and isinstance(op.right.owner, TopWeightOp) and excess:
        return _weights_of_product(op, patient, clinic)
    if not isinstance(op, TopConvOp) or not isinstance(op.filter.owner, TopWeightOp) or not excess:
        return None
    filters = clinic.bench.module.weight(op.filter)
    noise = filter_noise(filters, not is_none(op.bias))
    if noise < excess / 2:
        return None
    spread = _column_spread(filters)
    free = spread > 2 and op["group"] == 1 and bool(clinic.scalable(op.input, filters.shape[1]).all())
    remedy, advice = (Remedy.EQUALIZE, "equalization (--we) balances them") if free else (Remedy.FLOAT, "a float type keeps them")
    apart = f", those of different input channels lie {spread:.0f} times apart" if spread > 2 else ""
    text = f"its weights keep {decibels(noise)} in 8 bits{apart}; {advice}"
    return Diagnosis(Fault.WEIGHTS, min(noise, excess), remedy, text)


def _weights_of_product(op: TopMatMulOp, patient: Patient, clinic: Clinic) -> Diagnosis | None:
    """A matrix has one scale, so its columns share their steps; only a float type gives them more."""
    right = clinic.bench.module.weight(op.right)
    columns = np.moveaxis(right, -1, -2) if not op["right_transpose"] else right
    noise = matrix_noise(columns)
    if noise < patient.excess / 2:
        return None
    peaks = np.abs(columns).max(tuple(i for i in range(columns.ndim) if i != columns.ndim - 2))
    peaks = peaks[peaks > 0]
    spread = float(peaks.max() / peaks.min()) if len(peaks) > 1 else 1.0
    apart = f", of one step for columns that lie {spread:.0f} times apart" if spread > 2 else ""
    return Diagnosis(
        Fault.WEIGHTS,
        min(noise, patient.excess),
        Remedy.FLOAT,
        f"its weights keep {decibels(noise)} in 8 bits{apart}; a float type keeps them",
    )


def matrix_noise(columns: np.ndarray) -> float:
    """Error power over power of a matrix in 8 bits whose columns are (..., n, k) here, mean over the columns."""
    integers, step = quantize_matrix(columns)
    errors, power = (np.square(array, dtype=np.float64).sum(-1) for array in (integers * step - columns, columns))
    return float(np.where(power > 0, errors / np.where(power > 0, power, 1), 0).mean())


def filter_noise(filters: np.ndarray, has_bias: bool) -> float:
    """Error power over power of a filter (oc, ...) in 8 bits, mean over output channels."""
    quantized = quantize_filter(filters, has_bias)
    back = quantized.integers * quantized.scales.reshape(-1, *[1] * (filters.ndim - 1))
    errors, power = (np.square(array.reshape(len(filters), -1), dtype=np.float64).sum(1) for array in (back - filters, filters))
    return float(np.where(power > 0, errors / np.where(power > 0, power, 1), 0).mean())


def _column_spread(filters: np.ndarray) -> float:
    columns = np.abs(filters).max((0, 2, 3))
    columns = columns[columns > 0]
    return float(columns.max() / columns.min()) if len(columns) > 1 else 1.0


def _operand(patient: Patient, clinic: Clinic) -> Diagnosis | None:
    worst = clinic.worst_operand(patient)
    if not worst or not patient.excess:
        return None
    noise = clinic.stored_noise(worst)
    if noise < max(POOR, patient.excess / 4) or patient.excess < 2 * (patient.tally.noise(Error.STORED) or 0.0):
        return None
    text = f"what it reads is to blame: {worst} keeps {decibels(noise)} in 8 bits; see there"
    return Diagnosis(Fault.OPERAND, patient.excess, Remedy.NONE, text, worst)


def _constant(patient: Patient) -> Diagnosis | None:
    constant = patient.tally.constant
    if not constant.any() or len(constant) < 2:
        return None
    verb = "never changes" if constant.sum() == 1 else "never change"
    numbers = ", ".join(map(str, np.flatnonzero(constant)[:4])) + (", ..." if constant.sum() > 4 else "")
    text = f"{constant.sum()} of {len(constant)} output channels ({numbers}) {verb} on these samples; 8 bits lose nothing there, pruning gains time"
    return Diagnosis(Fault.CONSTANT, 0.0, Remedy.NONE, text)


RULES: tuple[Rule, ...] = (_clipped, _spread, _small_probabilities, _half_unused, _loose, _weights, _operand)
