"""What the report shows, as plain values; `collect` makes them from the results of the stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Accuracy:
    """COCO mean average precision in 0..1.

    Attributes:
        per_class: mAP over IoU .50:.95 by class.
        curves: precision at recalls 0, .01, ..., 1 for IoU .50, by class.
    """

    map: float
    map50: float
    map75: float = 0.0
    per_class: Mapping[str, float] = field(default_factory=dict[str, float])
    pictures: int = 0
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])


@dataclass(frozen=True)
class Layer:
    """How near a layer of the compiled network comes to the float network.

    Attributes:
        mode: number type it computes in: INT8, F16, ...
        cosine: 1 is equal; sqnr_db: signal to quantization noise, None when not measured.
        reason: why it was kept in float, where somebody said.
    """

    name: str
    op: str
    mode: str
    cosine: float
    euclid: float | None = None
    sqnr_db: float | None = None
    reason: str = ""

    @property
    def is_float(self) -> bool:
        """Whether it computes in floating point."""
        return not self.mode.upper().startswith(("INT", "UINT", "W4", "W8"))


@dataclass(frozen=True)
class Cost:
    """Size of the file, and the estimate of one inference; None where not known."""

    size_bytes: int
    cycles: int | None = None
    milliseconds: float | None = None
    ddr_bytes: int | None = None


@dataclass(frozen=True)
class Pair:
    """One picture with the boxes of two networks, as JPEG data."""

    name: str
    note: str
    left: bytes
    right: bytes


@dataclass(frozen=True)
class Candidate:
    """One bmodel of the run.

    Attributes:
        name: processor and number type, unique in the run.
        passed: what the gate said, None without a gate; `chosen`: it is the one that was taken.
        reasons: the gate's words; `pairs`: the pictures where it differs most from the float network.
    """

    name: str
    processor: str
    quantize: str
    cost: Cost
    accuracy: Accuracy | None = None
    passed: bool | None = None
    chosen: bool = False
    reasons: Sequence[str] = ()
    layers: Sequence[Layer] = ()
    pairs: Sequence[Pair] = ()
    sha256: str = ""


@dataclass(frozen=True)
class Champion:
    """What was on the boxes when the run began, measured on the same pictures."""

    name: str
    cost: Cost
    accuracy: Accuracy | None = None
    since: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Histogram:
    """Absolute values of a tensor over the calibration set.

    Attributes:
        width: of a bin, in units of the values; bin k counts k * width <= |x| < (k + 1) * width, zeros left out.
        threshold: what 8 bits span; values beyond it are cut off.
    """

    name: str
    op: str
    threshold: float
    width: float
    counts: Sequence[int]

    @property
    def beyond(self) -> float:
        """Share of the values (0..1) that lie beyond the threshold, by whole bins."""
        first = math.ceil(self.threshold / self.width - 1e-6) if self.width else len(self.counts)
        return sum(self.counts[first:]) / max(1, sum(self.counts))


@dataclass(frozen=True)
class Step:
    """A stage that ran, and the command that does it again."""

    stage: str
    command: str
    seconds: float | None = None


@dataclass(frozen=True)
class Group:
    """What concerns one processor.

    Attributes:
        passed: a candidate was taken; None when there was no gate.
        headline: the verdict in one sentence; `reasons` below it.
    """

    processor: str
    passed: bool | None
    headline: str
    reasons: Sequence[str] = ()
    champion: Champion | None = None
    candidates: Sequence[Candidate] = ()

    @property
    def chosen(self) -> Candidate | None:
        """The candidate that was taken, else the most accurate one."""
        best = max((c for c in self.candidates if c.accuracy), key=lambda c: c.accuracy.map if c.accuracy else 0.0, default=None)
        return next((c for c in self.candidates if c.chosen), best)


@dataclass(frozen=True)
class RunReport:
    """Everything on the page.

    Attributes:
        reference: the float network on the same pictures.
        failures: stage and error of what did not end well.
        training: values by epoch, by name.
        histograms: of every tensor, with the threshold that calibration chose.
        facts: short lines under the title: model, data revision, run.
        links: address by label.
    """

    title: str
    groups: Sequence[Group] = ()
    created: str = ""
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    reference: Accuracy | None = None
    failures: Sequence[tuple[str, str]] = ()
    training: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])
    histograms: Sequence[Histogram] = ()
    digests: Mapping[str, str] = field(default_factory=dict[str, str])
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    steps: Sequence[Step] = ()
    links: Mapping[str, str] = field(default_factory=dict[str, str])
