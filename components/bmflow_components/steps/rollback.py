"""Make an earlier champion the champion again."""

from __future__ import annotations

from bmflow_components.job import Job, Outcome
from bmflow_components.steps.promote import target, written
from bmflow_components.tracking import registry


def run(job: Job) -> Outcome:
    """Roll back and write the event down."""
    store, name = target(job)
    return written(job, registry.rollback(store, name, job.text("to"), job.text("who"), job.text("reason")))
