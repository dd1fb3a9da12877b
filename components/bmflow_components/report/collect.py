"""From the files of the stages to the values on the page."""

from __future__ import annotations

import csv
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bmflow.errors import InputError

from bmflow_components import bundle, documents
from bmflow_components.bundle import Bundle
from bmflow_components.job import Job
from bmflow_components.report.data import Accuracy, Candidate, Champion, Cost, Group, Histogram, Layer, Pair, RunReport, Step
from bmflow_components.result import Result

_NOT_DRAWN = {"epoch", "seconds"}


def collect(job: Job) -> RunReport:
    """Everything that a job of the stage report was given.

    Raises:
        InputError: a file is not what it should be.
    """
    results = bundle.results(job)
    bundles = bundle.candidates(job)
    float_metrics = bundle.measured(job.optional("float"))
    split = job.optional("split")
    record = documents.read(split, "the record of a dataset") if split else {}
    failures = [(_name(result), result.error) for result in results if result.status in ("bad_input", "failed", "terminated")]
    model = job.text("model_name")
    return RunReport(
        title=job.text("title") or model,
        groups=_groups(job, bundles, failures),
        created=_time(results),
        facts={"model": model, **(bundle.data_facts(record) if record else {})},
        reference=accuracy(float_metrics) if float_metrics else None,
        failures=failures,
        training=training(job.optional("curves")),
        histograms=_histograms(job.optional("histograms")),
        digests=_digests(results, bundles, record),
        versions=_versions(results),
        steps=[_step(result) for result in results],
        links=links(job.text("links")),
    )


def _groups(job: Job, bundles: Sequence[Bundle], failures: Sequence[tuple[str, str]]) -> list[Group]:
    """One a processor: those with a decision, and those that got no further than candidates."""
    decisions = {
        str(d.get("processor", "")): d for d in (documents.read(path, "a decision of the stage gate") for path in job.many("decisions"))
    }
    champions = {str(m.get("processor", "")): m for m in map(bundle.measured, job.many("champions")) if m}
    names = sorted({*decisions, *(b.processor for b in bundles)} - ({""} if bundles and "" not in decisions else set()))
    groups = [
        _group(name, decisions.get(name), champions.get(name), [b for b in bundles if name in ("", b.processor)], failures)
        for name in names
    ]
    return groups or [Group("", False if failures else None, _stopped(failures))]


def _group(
    processor: str, decision: Mapping[str, Any] | None, champion: Mapping[str, Any] | None, bundles: Sequence[Bundle],
    failures: Sequence[tuple[str, str]],
) -> Group:  # fmt: skip
    judged = {item["sha256"]: item for item in decision["candidates"]} if decision else {}
    found = [candidate(b, judged.get(b.sha256)) for b in bundles]
    if decision is None:
        return Group(processor, False if failures else None, _stopped(failures), (), _champion(champion), found)
    reasons = [*_reasons(decision), *decision["notes"]]
    return Group(processor, bool(decision["passed"]), decision["headline"], reasons, _champion(champion), found)


def _reasons(decision: Mapping[str, Any]) -> list[str]:
    """Why the chosen one passed, one line a bar; why each missed when there is none."""
    chosen = next((item for item in decision["candidates"] if item["chosen"]), None)
    if chosen is None:
        return [f"{item['label']}: {reason}" for item in decision["candidates"] for reason in item["reasons"]]
    by_bar: dict[str, list[Mapping[str, Any]]] = {}
    for check in chosen["checks"]:
        by_bar.setdefault(check["bar"].partition(".")[0], []).append(check)  # `class_floor.ring` and its like together
    return [_closest(bar, checks) for bar, checks in by_bar.items()]


def _closest(bar: str, checks: Sequence[Mapping[str, Any]]) -> str:
    """The check that came nearest to missing the bar."""
    sign = 1 if bar.startswith("largest") else -1
    worst = max(checks, key=lambda check: sign * (float(check["value"] or 0) - float(check["limit"])))
    return worst["text"] + (f" (the nearest of {len(checks)})" if len(checks) > 1 else "")


def _stopped(failures: Sequence[tuple[str, str]]) -> str:
    return f"the run stopped at {failures[0][0]}" if failures else "nothing was judged in this run"


def candidate(found: Bundle, judged: Mapping[str, Any] | None) -> Candidate:
    """A candidate as the page shows it; `judged` is the gate's entry."""
    reasons = [*judged["reasons"], *judged["notes"]] if judged else []
    return Candidate(
        name=found.label, processor=found.processor, quantize=found.quantize, cost=cost(found.cost), accuracy=accuracy(found.metrics),
        passed=bool(judged["passed"]) if judged else None, chosen=bool(judged and judged["chosen"]), reasons=reasons,
        layers=[layer(row) for row in found.layers], pairs=_pairs(found.worst), sha256=found.sha256,
    )  # fmt: skip


def accuracy(metrics: Mapping[str, Any]) -> Accuracy:
    """Accuracy of a metrics file."""
    figures = metrics["accuracy"]
    return Accuracy(
        float(figures["map"]), float(figures["map50"]), float(figures.get("map75", 0.0)), dict(figures["per_class"]),
        int(metrics["evaluation"].get("pictures", 0)), dict(metrics.get("curves", {})),
    )  # fmt: skip


def cost(figures: Mapping[str, Any]) -> Cost:
    """Cost of a metrics file."""
    return Cost(int(figures.get("size_bytes") or 0), figures.get("cycles"), figures.get("milliseconds"), figures.get("ddr_bytes"))


def layer(row: Mapping[str, Any]) -> Layer:
    """A row of a similarity file."""
    op = str(row.get("op", "")).partition(".")[2] or str(row.get("op", ""))
    cosine = float(row["cosine"])
    return Layer(
        str(row["name"]), op, str(row.get("mode", "")), cosine if math.isfinite(cosine) else 0.0, row.get("euclid"), row.get("sqnr_db"),
        str(row.get("reason", "")),
    )  # fmt: skip


def training(path: Path | None) -> dict[str, list[float]]:
    """Curves by name, from a table with one row an epoch."""
    if path is None:
        return {}
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    try:
        return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else {}) if name not in _NOT_DRAWN}
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: expected a table of numbers with one row an epoch ({error})") from error


def _histograms(path: Path | None) -> list[Histogram]:
    known = documents.read(path, "the histograms of the stage calibrate") if path else {"tensors": []}
    return [
        Histogram(t["name"], str(t["op"]).partition(".")[2], float(t["threshold"]), float(t["width"]), t["counts"])
        for t in known["tensors"]
    ]


def links(text: str) -> dict[str, str]:
    """`label=address` pairs; an underscore in a label stands for a space.

    Raises:
        InputError: a pair of another form.
    """
    found: dict[str, str] = {}
    for word in text.split():
        label, sign, address = word.partition("=")
        if not sign or not label:
            raise InputError(f"--links {word}: expected label=address")
        found[label.replace("_", " ")] = address
    return found


def _champion(metrics: Mapping[str, Any] | None) -> Champion | None:
    if metrics is None:
        return None
    known = metrics.get("champion", {})
    name = f"version {known['version']}" if known.get("version") else str(metrics["label"])
    return Champion(name, cost(metrics["cost"]), accuracy(metrics), str(known.get("since", ""))[:10], str(metrics["network"]["sha256"]))


def _pairs(folder: Path | None) -> list[Pair]:
    if folder is None:
        return []
    known = documents.read(folder / "worst.json", "the list of worst pictures")
    return [
        Pair(str(row["name"]), str(row["note"]), (folder / row["float"]).read_bytes(), (folder / row["network"]).read_bytes())
        for row in known["pictures"]
    ]


def _digests(results: Sequence[Result], bundles: Sequence[Bundle], record: Mapping[str, Any]) -> dict[str, str]:
    found = {f"{name} set": str(item["digest"]) for name, item in record.get("sets", {}).items()}
    for stage, port, name in (
        ("train", "model", "network, ONNX"),
        ("transform", "mlir", "top module"),
        ("calibrate", "table", "calibration table"),
    ):
        if made := next((result.outputs[port] for result in results if result.stage == stage and port in result.outputs), None):
            found[name] = made.digest
    if "network, ONNX" not in found and (
        given := next((r.inputs["model"] for r in results if r.stage == "transform" and r.inputs.get("model")), None)
    ):
        found["network, ONNX"] = given[0].digest
    return found | {f"bmodel {b.label}": b.sha256 for b in bundles}


def _versions(results: Sequence[Result]) -> dict[str, str]:
    found: dict[str, str] = {}
    for result in results:
        found |= result.versions
    return found


def _step(result: Result) -> Step:
    return Step(_name(result), shlex.join(result.command), result.seconds.get("work"))


def _name(result: Result) -> str:
    """The stage, with what tells its tasks apart."""
    kinds = [str(result.params[name]) for name in ("processor", "quantize", "label") if result.params.get(name)]
    return " ".join([result.stage, "/".join(dict.fromkeys(kinds))]).strip()


def _time(results: Sequence[Result]) -> str:
    """When the last stage began: the same for a run that is shown again."""
    return max((result.started for result in results), default="")[:16].replace("T", " ") + (" UTC" if results else "")
