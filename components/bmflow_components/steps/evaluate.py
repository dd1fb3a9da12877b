"""Accuracy of one network on the evaluation set, its detections, and the pictures where it differs most from the float network."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmflow import artifacts
from bmflow.cli import common
from bmflow.driver.evaluate import CocoOptions, CocoResult, evaluate_coco
from bmflow.errors import InputError
from bmflow.evaluation.coco import Annotations
from bmflow.evaluation.detector import Settings

from bmflow_components import detections, documents
from bmflow_components.job import Job, Outcome
from bmflow_components.split import Split

LOG = logging.getLogger("bmflow")
_COST = ("size_bytes", "cycles", "milliseconds", "ddr_bytes")


@dataclass(frozen=True)
class Network:
    """What is measured: file, detector description (empty: what the file says), and what is known of it."""

    path: Path
    detector: str
    label: str
    facts: dict[str, Any]


def run(job: Job) -> Outcome:
    """Measure, or say that there is no champion yet."""
    network = _network(job)
    if network is None:
        return _nothing(job)
    data = Split.load(job.input("dataset"))
    settings = Settings(job.real("score_floor"), job.real("iou"), job.whole("max_boxes"))
    options = CocoOptions(
        str(network.path),
        str(data.images("evaluation")),
        str(data.annotations("evaluation")),
        job.whole("count"),
        settings,
        network.detector,
    )
    result = evaluate_coco(options, lambda work, total: common.progress(work, total, "evaluate"))
    detections.save(job.output("detections"), result.found, result.spec.names)
    _draw_worst(job, data, result)
    documents.write(job.output("metrics"), _content(job, network, data, result))
    accuracy = result.accuracy
    LOG.info("%s: mAP50-95 %.4f  mAP50 %.4f on %d pictures", network.label, accuracy.map, accuracy.map50, accuracy.pictures)
    return Outcome({"map": accuracy.map, "map50": accuracy.map50, "map75": accuracy.map75}, {"label": network.label})


def _network(job: Job) -> Network | None:
    given = [name for name in ("model", "bmodel", "champion") if job.optional(name)]
    if len(given) != 1:
        raise InputError(f"expected one of --in-model, --in-bmodel, --in-champion, found {', '.join(given) or 'none'}")
    if given == ["champion"]:
        return _champion(job, job.input("champion"))
    processor, quantize = job.text("processor"), job.text("quantize")
    label = job.text("label") or "/".join(part for part in (processor, quantize) if part) or "float"
    return Network(job.input(given[0]), str(job.optional("detector") or ""), label, {"processor": processor, "quantize": quantize})


def _champion(job: Job, folder: Path) -> Network | None:
    known = documents.read(folder / "champion.json", "what the stage fetch found")
    if not known.get("found"):
        return None
    detector = folder / "detector.json"
    facts = {"processor": job.text("processor"), "quantize": str(known.get("quantize", "")), "champion": known}
    return Network(folder / "model.bmodel", str(detector) if detector.is_file() else "", job.text("label") or "champion", facts)


def _nothing(job: Job) -> Outcome:
    label = job.text("label") or "champion"
    documents.write(job.output("metrics"), {"measured": False, "label": label, "reason": "no champion is registered yet"})
    documents.write(job.output("detections"), {"classes": [], "pictures": {}}, None)
    _write_worst(job, [])
    return Outcome({}, {"label": label, "measured": "no champion is registered yet"})


def _content(job: Job, network: Network, data: Split, result: CocoResult) -> dict[str, Any]:
    accuracy = result.accuracy
    return {
        "measured": True, "label": network.label, **network.facts,
        "network": {"sha256": artifacts.sha256_file(network.path), "bytes": network.path.stat().st_size, "kind": network.path.suffix.lstrip(".")},
        "evaluation": {
            "digest": data.set("evaluation").digest, "pictures": accuracy.pictures, "settings": str(result.settings),
            "dataset": data.digest,
        },
        "accuracy": {"map": accuracy.map, "map50": accuracy.map50, "map75": accuracy.map75, "per_class": accuracy.per_class},
        "curves": {name: [round(value, 5) for value in curve] for name, curve in accuracy.curves.items()},
        "cost": _cost(job, network),
    }  # fmt: skip


def _cost(job: Job, network: Network) -> dict[str, Any]:
    if estimate := job.optional("estimate"):
        known = documents.read(estimate, "the estimate of a bmodel, as the stage deploy writes it")
        return {name: known.get(name) for name in _COST}
    size = {"size_bytes": network.path.stat().st_size}
    if network.path.suffix != ".bmodel":
        return size
    from bmflow.container import bmodel
    from bmflow.simulator import Simulator

    estimate_of = Simulator(bmodel.read(network.path.read_bytes(), str(network.path))).estimate()
    ddr_bytes = sum(row.ddr_bytes for row in estimate_of.layers)
    return {**size, "cycles": estimate_of.total_cycles, "milliseconds": estimate_of.milliseconds, "ddr_bytes": ddr_bytes}


def _draw_worst(job: Job, data: Split, result: CocoResult) -> None:
    """Draw both networks on the pictures where they differ most; none without the float network's detections."""
    reference = job.optional("reference")
    if reference is None or not job.whole("pictures"):
        _write_worst(job, [])
        return
    from bmflow_components.report.pictures import pair, worst

    before = detections.load(reference)
    names = Annotations.load(str(data.annotations("evaluation"))).pictures
    rows: list[dict[str, Any]] = []
    folder = job.output("worst")
    folder.mkdir()
    for rank, number in enumerate(worst(before, result.found, job.whole("pictures")), 1):
        drawn = pair(str(data.images("evaluation") / names[number]), names[number], before[number], result.found[number], result.spec.names)
        files = {side: f"{rank:02d}_{side}.jpg" for side in ("float", "network")}
        (folder / files["float"]).write_bytes(drawn.left)
        (folder / files["network"]).write_bytes(drawn.right)
        rows.append({"id": number, "name": drawn.name, "note": drawn.note, **files})
    _write_worst(job, rows)


def _write_worst(job: Job, rows: list[dict[str, Any]]) -> None:
    folder = job.output("worst")
    folder.mkdir(exist_ok=True)
    documents.write(folder / "worst.json", {"label": job.text("label"), "pictures": rows})
