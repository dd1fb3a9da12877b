"""Files as the stages leave them, for the stages that read them: report and register."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from bmflow import artifacts
from bmflow_components import cache, documents
from bmflow_components.contracts import STAGES
from bmflow_components.job import Job
from bmflow_components.result import Item, Result

CLASSES = {"circle": 0.7, "ring": 0.5}
CURVE = [max(0.0, 1 - k / 80) for k in range(101)]


@dataclass(frozen=True)
class Made:
    """One candidate's files."""

    label: str
    bmodel: Path
    metrics: Path
    similarity: Path
    worst: Path
    result: Path


def metrics(label: str, quantize: str, loss: float, bmodel: Path | None, ms: float = 1.0, **more: Any) -> dict[str, Any]:
    """What evaluate writes: every figure lies `loss` below that of the float network (mAP .6)."""
    sha256 = artifacts.sha256_file(bmodel) if bmodel else "0f" * 32
    return {
        "measured": True, "label": label, "processor": "bm1684x" if bmodel else "", "quantize": quantize,
        "network": {"sha256": sha256, "bytes": 1000, "kind": "bmodel" if bmodel else "onnx"},
        "evaluation": {"digest": "e" * 64, "pictures": 30, "settings": "score floor 0.001", "dataset": "d" * 64},
        "accuracy": {"map": 0.6 - loss, "map50": 0.8 - loss, "map75": 0.7 - loss, "per_class": {k: v - loss for k, v in CLASSES.items()}},
        "curves": dict.fromkeys(CLASSES, CURVE), "cost": {"size_bytes": 2**20, "cycles": int(ms * 1e6), "milliseconds": ms, "ddr_bytes": 5 * 2**20},
        **more,
    }  # fmt: skip


def candidate(folder: Path, quantize: str, loss: float, bmodel: Path, ms: float) -> Made:
    """All files of a candidate."""
    label = f"bm1684x/{quantize}"
    place = folder / quantize
    (place / "worst").mkdir(parents=True)
    files = {name: place / f"{name}.json" for name in ("metrics", "similarity", "result")}
    documents.write(files["metrics"], metrics(label, quantize, loss, bmodel, ms))
    rows = [
        {
            "name": f"layer<{k}>", "op": "tpu.Conv2D", "mode": "F16" if k == 1 else quantize, "verdict": "x", "passed": True,
            "cosine": 1 - 10.0 ** -(k + 1), "euclid": 0.9, "sqnr_db": 20.0 + k,
        }
        for k in range(4)
    ]  # fmt: skip
    lowest = {"lowest_cosine": 0.9, "lowest_euclid": 0.8, "lowest_sqnr_db": 20.0}
    documents.write(files["similarity"], {
        "processor": "bm1684x", "quantize": quantize, "comparisons": [{"what": "lowered", **lowest}, {"what": "compiled", **lowest}], "layers": rows,
    })  # fmt: skip
    picture = cv2.imencode(".jpg", np.full((16, 16, 3), 90, np.uint8))[1].tobytes()
    for side in ("float", "network"):
        (place / "worst" / f"01_{side}.jpg").write_bytes(picture)
    row = {"id": 1, "name": "a.jpg", "note": "lost: ring", "float": "01_float.jpg", "network": "01_network.jpg"}
    documents.write(place / "worst" / "worst.json", {"label": label, "pictures": [row]})
    files["result"].write_text(result("deploy", {"processor": "bm1684x", "quantize": quantize}, {"bmodel": bmodel}).json())
    return Made(label, bmodel, files["metrics"], files["similarity"], place / "worst", files["result"])


def result(stage: str, params: Mapping[str, Any], outputs: Mapping[str, Path], status: str = "done", **more: Any) -> Result:
    """What a process writes."""
    items = {name: Item(str(path), cache.digest(path), cache.size(path)) for name, path in outputs.items()}
    return Result(
        stage, 1, status, 0, key="k", params=params, inputs={"table": [Item("t", "7a" * 32, 5)]}, outputs=items,
        started="2026-11-24T09:30:00+00:00", seconds={"work": 1.25}, versions={"bmflow": "0.1.0", "numpy": "2.4.6"},
        command=["python", "-m", "bmflow_components", stage], **more,
    )  # fmt: skip


def decision(made: list[Made], chosen: str, **more: Any) -> dict[str, Any]:
    """What the gate writes."""
    known = {item.label: documents.read(item.metrics, "metrics") for item in made}
    rows = [
        {
            "label": label, "processor": "bm1684x", "quantize": data["quantize"], "sha256": data["network"]["sha256"],
            "map": data["accuracy"]["map"], "passed": bool(chosen), "chosen": label == chosen, "notes": [],
            "reasons": ["meets every bar" if chosen else "map 0.1, below the required 0.3"],
            "checks": [
                {"bar": "smallest_map", "passed": True, "value": 0.55, "limit": 0.3, "text": "map 0.55, reaches the required 0.3"},
                {"bar": "largest_class_drop.circle", "passed": True, "value": 0.01, "limit": 0.1, "text": "class circle: drop 0.01"},
                {"bar": "largest_class_drop.ring", "passed": True, "value": 0.05, "limit": 0.1, "text": "class ring: drop 0.05"},
            ],
        }
        for label, data in known.items()
    ]  # fmt: skip
    taken = next((row for row in rows if row["chosen"]), None)
    headline = f"{chosen} is taken: it meets every bar" if chosen else "no candidate of 2 meets every bar"
    named = {name: taken[name] for name in ("label", "processor", "quantize", "sha256")} if taken else None
    return {
        "processor": "bm1684x",
        "passed": bool(chosen),
        "headline": headline,
        "notes": ["a note"],
        "chosen": named,
        "candidates": rows,
        **more,
    }


def split(kind: str = "dvc") -> dict[str, Any]:
    """What dataset writes."""
    source = {
        "kind": kind,
        "repo": "https://me:hunter22@git.example/r",
        "rev": "v1",
        "path": "data/shapes",
        "commit": "c0ffee" * 6,
        "md5": "5d" * 16,
    }
    sets = {name: {"digest": name[0] * 64, "boxes": 3, "pictures": {"a.jpg": "a"}} for name in ("calibration", "evaluation")}
    return {"source": source if kind == "dvc" else {"kind": kind, "seed": 3}, "digest": "d" * 64, "classes": [], "sets": sets}


def job(folder: Path, stage: str, inputs: Mapping[str, list[Path]], params: Mapping[str, Any]) -> Job:
    """A job as the process makes it."""
    of = next(item for item in STAGES if item.name == stage)
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    digests = {port: tuple(cache.digest(path) for path in paths) for port, paths in inputs.items()}
    return Job(
        of, {port: tuple(paths) for port, paths in inputs.items()}, {port.name: out / port.file for port in of.outputs},
        {**of.defaults(), **params}, folder, folder, "k", digests,
    )  # fmt: skip
