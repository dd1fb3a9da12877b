"""The task metric as the objective of a search: tables of the Pareto set are scored by mAP on labelled pictures of their own.

Noise at the outputs orders thousands of tables cheaply; mAP costs an inference a picture, so it decides among the few that are left.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bmflow import artifacts
from bmflow.driver import calibrate as calibration
from bmflow.driver.evaluate import CocoOptions, evaluate_coco
from bmflow.errors import InputError
from bmflow.evaluation.coco import Annotations
from bmflow.ir.module import Module
from bmflow.search.pareto import Point

if TYPE_CHECKING:
    from bmflow.driver.search import Job


@dataclass(frozen=True)
class Labels:
    """Labelled pictures of a detector: folder, COCO annotation file, its detector.json where classes and anchors are not COCO's.

    drop: most mAP50-95 that a table may lose against float, 0..1.
    """

    dataset: str
    annotation: str
    detector: str = ""
    drop: float = 0.01


@dataclass(frozen=True)
class Scored:
    """mAP50-95 of the float network and of each point, in 0..1, on so many pictures."""

    floating: float
    points: dict[Point, float]
    pictures: int

    def best(self, labels: Labels, limit: int) -> Point | None:
        """The fastest point that loses no more than `labels.drop`; within a limit of cycles the most accurate one."""
        if limit:
            within = [point for point in self.points if point.cycles <= limit]
            return max(within, key=lambda point: (self.points[point], -point.cycles), default=None)
        passing = [point for point, found in self.points.items() if found >= self.floating - labels.drop]
        return min(passing, key=lambda point: (point.cycles, -self.points[point]), default=None)

    def closest(self) -> Point:
        """The most accurate point, of equals the fastest."""
        return max(self.points, key=lambda point: (self.points[point], -point.cycles))


def check(labels: Labels, job: Job) -> None:
    """Refuse labels that cannot be used, or pictures that calibrate, too.

    Raises:
        InputError: naming the files.
    """
    annotations = Annotations.load(labels.annotation)
    folder = Path(labels.dataset)
    if not folder.is_dir():
        raise InputError(f"--map_dataset {folder}: no such folder")
    labelled = {name: folder / name for name in annotations.pictures.values() if (folder / name).is_file()}
    files = [Path(file) for entry in calibration.sample_entries(job.options.calibrate) for file in entry.files]
    both = [file.name for file in files if file.name in labelled and _same(file, labelled[file.name])]
    if both:
        raise InputError(
            f"--map_dataset {folder}: {len(both)} of its pictures calibrate, too ({', '.join(both[:3])}{', ...' if len(both) > 3 else ''}), "
            "so a table would be chosen by what it was fitted to; give pictures of their own"
        )


def mean_precision(labels: Labels, module: Module) -> tuple[float, int]:
    """mAP50-95 of a network in 0..1, and on how many pictures; a lowered one gives bit for bit what its bmodel gives in INT8."""
    with tempfile.TemporaryDirectory(prefix="bmflow-map-") as folder:
        path = Path(folder) / "network.mlir"
        module.clone().save(path, "network_weights.npz")
        found = evaluate_coco(CocoOptions(str(path), labels.dataset, labels.annotation, detector=labels.detector)).accuracy
    return found.map, found.pictures


def _same(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and artifacts.sha256_file(one) == artifacts.sha256_file(other)
