"""Record the run in MLflow, register the chosen bmodel, promote it.

Every part is known by its content, so a stage that is run again, after a kill or a server that was gone, goes on where it stopped.
"""

from __future__ import annotations

from typing import Any

from bmflow_components import documents
from bmflow_components.job import Job, Outcome
from bmflow_components.tracking import registry, runs
from bmflow_components.tracking.pipeline_run import PipelineRun
from bmflow_components.tracking.registration import register
from bmflow_components.tracking.registry import CHAMPION, Version
from bmflow_components.tracking.store import Store


def run(job: Job) -> Outcome:
    """Log, register, promote, and write down what was done."""
    found = PipelineRun.of(job)
    chosen = found.chosen
    store = Store.open(job.text("tracking_uri"), job.origin / "mlflow", job.text("experiment"))
    parent = runs.log_run(store, found.parent())
    runs.attach(
        store,
        parent,
        {f"decisions/{found.processor}.json": job.input("decision")},
        {f"bmflow.verdict.{found.processor}": found.decision["headline"]},
    )
    children = {candidate.sha256: runs.log_run(store, found.child(candidate), parent) for candidate in found.candidates}
    record: dict[str, Any] = {
        "store": str(store), "run_id": parent, "link": runs.run_link(store, parent), "candidates": children, "name": found.registered_name,
        "version": "", "promoted": False, "note": "nothing passed, so nothing was registered; the champion is untouched",
    }  # fmt: skip
    if chosen:
        version = register(store, children[chosen.sha256], found.registration(chosen))
        record |= {"version": version.number, "uri": version.uri, "bmodel_sha256": version.sha256, **_promote(job, store, found, version)}
    documents.write(job.output("record"), record)
    facts = {name: str(record[name]) for name in ("run_id", "link", "name", "version", "promoted", "note") if record[name] != ""}
    return Outcome({"promoted": float(record["promoted"])}, facts)


def _promote(job: Job, store: Store, found: PipelineRun, version: Version) -> dict[str, Any]:
    """Make the version champion, unless it waits by request or because somebody took it back."""
    name = found.registered_name
    if not job.flag("promote"):
        return {"promoted": False, "note": f"version {version.number} waits as challenger"}
    if taken := registry.withdrawn(registry.history(store, name), version.number):
        return {
            "promoted": False,
            "note": f"version {version.number} was taken back on {taken.time} by {taken.who} ({taken.reason}), so it is not promoted by itself; "
            f"to promote it: python -m bmflow_components.tracking promote {name} --version {version.number} --reason ...",
        }  # fmt: skip
    reason = job.text("reason") or found.decision["headline"]
    event = registry.promote(store, name, version.number, job.text("who"), reason, version.metrics, found.promotion_key)
    champion = registry.find_version(store, name, CHAMPION)
    now = champion is not None and champion.number == version.number
    note = (
        f"version {version.number} is champion" if now else f"version {version.number} was promoted before; the champion is another by now"
    )
    return {"promoted": now, "note": note, "event": {**event.body(), "sha256": event.sha256}}
