"""The threshold methods by name: what each gathers of a tensor, sample by sample, and the threshold it makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import numpy as np

from bmflow.calibration import aciq, kl, octav
from bmflow.calibration.histogram import Histogram


class Method(Enum):
    """Names users give to --cali_method."""

    KL = "kl"
    MSE = "mse"
    MAX = "max"
    PERCENTILE = "percentile9999"
    ACIQ_LAPLACE = "aciq_laplace"
    ACIQ_GAUSS = "aciq_gauss"

    @classmethod
    def named(cls, name: str) -> Method:
        """Look a method up, `use_kl` meaning `kl`.

        Raises:
            ValueError: no such method.
        """
        return cls(name.removeprefix("use_"))

    @property
    def is_tuned(self) -> bool:
        """Whether tuning follows in a plain run."""
        return self in (Method.KL, Method.ACIQ_LAPLACE, Method.ACIQ_GAUSS)

    @property
    def keeps_inputs_and_tail(self) -> bool:
        """Whether network inputs and saturated outputs keep their largest value."""
        return self in (Method.MSE, Method.ACIQ_LAPLACE, Method.ACIQ_GAUSS)


@dataclass(frozen=True)
class Sample:
    """One tensor of one batch: float32 values, their extremes, and the largest |x| of this and all samples before."""

    values: np.ndarray
    low: float
    high: float
    largest: float


class Estimate(Protocol):
    """Gathers samples of one tensor; memory does not grow with their number."""

    def add(self, sample: Sample) -> None:
        """Take one sample."""
        ...

    def threshold(self, largest: float) -> float:
        """The threshold; `largest` is the largest |x| of all samples, which the caller clamps to."""
        ...


@dataclass
class KlEstimate:
    """A growing histogram, searched once at the end; 1 when no sample had a value other than zero."""

    histogram: Histogram

    def add(self, sample: Sample) -> None:
        """Count the sample."""
        self.histogram.add(sample.values, sample.largest)

    def threshold(self, largest: float) -> float:
        """Search the histogram."""
        return kl.threshold(self.histogram.counts, self.histogram.width) if self.histogram.extent else 1.0


@dataclass
class MeanEstimate:
    """The mean over samples of a threshold computed on each."""

    of_sample: Callable[[Sample], float]
    total: float = 0.0
    samples: int = field(default=0)

    def add(self, sample: Sample) -> None:
        """Compute and add."""
        self.total += self.of_sample(sample)
        self.samples += 1

    def threshold(self, largest: float) -> float:
        """The mean."""
        return self.total / self.samples


class LargestEstimate:
    """Nothing to gather: the largest |x| is the threshold (max), or it is found elsewhere (percentile)."""

    def add(self, sample: Sample) -> None:
        """Nothing to do."""

    def threshold(self, largest: float) -> float:
        """The largest |x|."""
        return largest


def estimate(method: Method, bins: int) -> Estimate:
    """An empty estimate; `bins` is the first length of histograms."""
    match method:
        case Method.KL:
            return KlEstimate(Histogram(bins))
        case Method.MSE:
            return MeanEstimate(lambda sample: octav.threshold(sample.values, sample.low))
        case Method.ACIQ_GAUSS:
            return MeanEstimate(lambda sample: aciq.gauss(sample.low, sample.high, sample.values.size))
        case Method.ACIQ_LAPLACE:
            return MeanEstimate(lambda sample: aciq.laplace(sample.values))
        case Method.MAX | Method.PERCENTILE:
            return LargestEstimate()
