"""The accuracy gate: bars, candidates, float network and champion in; a decision with reasons out."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from bmflow import artifacts
from bmflow.errors import InputError

from bmflow_components import documents
from bmflow_components.gate import Bars, Decision, Judgement, Measured, judge
from bmflow_components.job import Job, Outcome


def run(job: Job) -> Outcome:
    """Judge; below the bar (exit 3) when nothing passes."""
    bars = Bars.load(job.optional("bars") or Path(str(resources.files("bmflow_components"))) / "gate.toml")
    wanted = job.text("processor")
    found = [item for path in job.many("candidates") if (item := Measured.load(path))]
    candidates = sorted((item for item in found if wanted in ("", item.processor)), key=lambda item: item.label)
    decision = judge(candidates, _reference(job), _optional(job, "champion"), bars)
    documents.write(job.output("decision"), content(decision, wanted))
    artifacts.write_text(job.output("note"), markdown(decision, wanted))
    print(markdown(decision, wanted))
    facts = {"headline": decision.headline, "chosen": decision.chosen.label if decision.chosen else ""}
    missed = [f"{item.measured.label}: {'; '.join(item.reasons)}" for item in decision.judgements]
    verdict = "" if decision.chosen else f"{decision.headline}. {'. '.join(missed)}"
    passing = sum(item.passed for item in decision.judgements)
    return Outcome({"candidates": float(len(candidates)), "passing": float(passing)}, facts, verdict)


def _reference(job: Job) -> Measured | None:
    found = _optional(job, "float")
    if found is None and job.flag("require_float"):
        raise InputError("no measurement of the float network (--in-float), so drops cannot be judged; give it, or --require_float false")
    return found


def _optional(job: Job, name: str) -> Measured | None:
    path = job.optional(name)
    return Measured.load(path) if path else None


def content(decision: Decision, processor: str) -> dict[str, Any]:
    """The decision for programs."""
    chosen = decision.chosen
    return {
        "processor": processor, "passed": chosen is not None, "headline": decision.headline, "notes": list(decision.notes),
        "chosen": _named(chosen) if chosen else None,
        "evaluation": dict(decision.judgements[0].measured.evaluation),
        "bars": {"metric": decision.bars.metric, **decision.bars.given()},
        "float": _figures(decision.reference), "champion": _figures(decision.champion),
        "candidates": [_candidate(item, decision) for item in decision.judgements],
    }  # fmt: skip


def _named(measured: Measured) -> dict[str, Any]:
    return {"label": measured.label, "processor": measured.processor, "quantize": measured.quantize, "sha256": measured.sha256}


def _figures(measured: Measured | None) -> dict[str, Any] | None:
    if measured is None:
        return None
    figures = {"map": measured.map, "map50": measured.map50, "size_bytes": measured.size_bytes, "milliseconds": measured.milliseconds}
    return {**_named(measured), **figures}


def _candidate(item: Judgement, decision: Decision) -> dict[str, Any]:
    checks = [{"bar": c.bar, "passed": c.passed, "value": c.value, "limit": c.limit, "text": c.text} for c in item.checks]
    return {
        **(_figures(item.measured) or {}), "passed": item.passed, "chosen": item.measured is decision.chosen, "reasons": item.reasons,
        "notes": list(item.notes), "checks": checks,
    }  # fmt: skip


def markdown(decision: Decision, processor: str) -> str:
    """The decision for people."""
    lines = [f"# {'Passed' if decision.chosen else 'Not passed'}{f': {processor}' if processor else ''}", "", f"{decision.headline}.", ""]
    lines += ["| network | mAP | mAP50 | ms (estimated) | bytes | verdict |", "|---|---:|---:|---:|---:|---|"]
    for name, measured in (("float", decision.reference), ("champion", decision.champion)):
        if measured:
            lines.append(_row(name, measured, ""))
    for item in decision.judgements:
        verdict = "**taken**" if item.measured is decision.chosen else "passes" if item.passed else "misses a bar"
        lines.append(_row(item.measured.label, item.measured, verdict))
    for item in decision.judgements:
        lines += ["", f"## {item.measured.label}", "", *(f"- {'ok' if c.passed else '**missed**'}: {c.text}" for c in item.checks)]
        lines += [f"- {note}" for note in item.notes]
    lines += ["", *(f"{note}." for note in decision.notes)]
    return "\n".join(lines).rstrip() + "\n"


def _row(name: str, measured: Measured, verdict: str) -> str:
    time = "-" if measured.milliseconds is None else f"{measured.milliseconds:.3f}"
    size = "-" if measured.size_bytes is None else str(measured.size_bytes)
    return f"| {name} | {measured.map:.4f} | {measured.map50:.4f} | {time} | {size} | {verdict} |"
