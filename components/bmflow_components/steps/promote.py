"""Make a registered version the champion, by hand."""

from __future__ import annotations

from bmflow.errors import InputError

from bmflow_components import documents
from bmflow_components.job import Job, Outcome
from bmflow_components.tracking import registry
from bmflow_components.tracking.audit import Event
from bmflow_components.tracking.store import Store


def run(job: Job) -> Outcome:
    """Promote and write the event down."""
    store, name = target(job)
    return written(job, registry.promote(store, name, job.text("which"), job.text("who"), job.text("reason")))


def target(job: Job) -> tuple[Store, str]:
    """Store and registered model.

    Raises:
        InputError: no reason was given.
    """
    if not job.text("reason").strip():
        raise InputError("--reason is empty; say why, for the record")
    return Store.open(job.text("tracking_uri"), job.origin / "mlflow"), registry.registered_name(
        job.text("model_name"), job.text("processor")
    )


def written(job: Job, event: Event) -> Outcome:
    """Write the event as the stage's output."""
    documents.write(job.output("record"), {**event.body(), "sha256": event.sha256})
    return Outcome({}, {"name": event.model, "version": event.new, "before": event.old, "who": event.who, "sha256": event.sha256})
