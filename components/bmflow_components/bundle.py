"""What the stages left of each candidate, put together: the figures of evaluate, estimate and similarity of deploy, the worst pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmflow.errors import InputError

from bmflow_components import documents
from bmflow_components.job import Job
from bmflow_components.result import Result

_METRICS, _ESTIMATE, _SIMILARITY = "metrics of the stage evaluate", "the estimate of the stage deploy", "the similarity of the stage deploy"


@dataclass(frozen=True)
class Bundle:
    """One candidate; a file that was not given is None."""

    metrics: Mapping[str, Any]
    metrics_file: Path
    estimate: Mapping[str, Any] | None = None
    similarity: Mapping[str, Any] | None = None
    worst: Path | None = None

    @property
    def label(self) -> str:
        """Its name in tables."""
        return str(self.metrics["label"])

    @property
    def processor(self) -> str:
        """What it was compiled for."""
        return str(self.metrics.get("processor", ""))

    @property
    def quantize(self) -> str:
        """Its number type."""
        return str(self.metrics.get("quantize", ""))

    @property
    def sha256(self) -> str:
        """Digest of the bmodel."""
        return str(self.metrics["network"]["sha256"])

    @property
    def accuracy(self) -> Mapping[str, Any]:
        """map, map50, map75, per_class."""
        return self.metrics["accuracy"]

    @property
    def cost(self) -> Mapping[str, Any]:
        """size_bytes, cycles, milliseconds, ddr_bytes."""
        return self.metrics["cost"]

    @property
    def layers(self) -> Sequence[Mapping[str, Any]]:
        """Each layer against the float network."""
        return self.similarity["layers"] if self.similarity else ()


def candidates(job: Job) -> list[Bundle]:
    """The candidates of the inputs `candidates`, `estimates`, `similarities` and `worst`, in the order of their names.

    Raises:
        InputError: a file is not what it should be.
    """
    estimates = _by_kind(job.many("estimates"), _ESTIMATE)
    similarities = _by_kind(job.many("similarities"), _SIMILARITY)
    files = job.many("candidates")
    pictures = dict(zip(files, job.many("worst"), strict=False)) if len(files) == len(job.many("worst")) else {}
    found: list[Bundle] = []
    for path in files:
        if metrics := measured(path):
            kind = (str(metrics.get("processor", "")), str(metrics.get("quantize", "")))
            found.append(Bundle(metrics, path, estimates.get(kind), similarities.get(kind), pictures.get(path)))
    return sorted(found, key=lambda bundle: (bundle.processor, bundle.label))


def measured(path: Path | None) -> dict[str, Any] | None:
    """Metrics of the stage evaluate; None when there is no file, or it says that nothing was measured.

    Raises:
        InputError: another file.
    """
    if path is None:
        return None
    metrics = documents.read(path, _METRICS)
    if metrics.get("measured") is False:
        return None
    missing = [name for name in ("label", "network", "evaluation", "accuracy", "cost") if name not in metrics]
    if missing:
        raise InputError(f"{path}: expected {_METRICS}, but {', '.join(missing)} is missing")
    return metrics


def results(job: Job) -> list[Result]:
    """What the processes before said, in the order in which they started; damaged files say nothing."""
    found = (Result.parse(path.read_text(encoding="utf-8")) for path in job.many("results"))
    return sorted((result for result in found if result), key=lambda result: (result.started, result.stage, result.key))


def made_by(known: Sequence[Result], port: str, digest: str) -> Result | None:
    """The result of the process that made an output."""
    return next((result for result in known if port in result.outputs and result.outputs[port].digest == digest), None)


def data_facts(split: Mapping[str, Any]) -> dict[str, str]:
    """Where the data came from, in a few words, from the dataset's record."""
    source = split.get("source", {})
    words = {
        "dvc": f"{source.get('path', '')} at {source.get('rev') or 'the working tree'} ({str(source.get('commit', ''))[:12]})",
        "example": f"example, seed {source.get('seed', '')}",
        "folder": "a folder",
    }
    sets = split.get("sets", {})
    counts = ", ".join(f"{len(found['pictures'])} {name}" for name, found in sets.items())
    return {"data": words.get(str(source.get("kind", "")), "unknown"), "pictures": counts}


def _by_kind(paths: Sequence[Path], what: str) -> dict[tuple[str, str], dict[str, Any]]:
    found = [documents.read(path, what) for path in paths]
    return {(str(item.get("processor", "")), str(item.get("quantize", ""))): item for item in found}
