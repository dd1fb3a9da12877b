"""One HTML page about the run."""

from __future__ import annotations

from bmflow_components.job import Job, Outcome
from bmflow_components.report import collect, page


def run(job: Job) -> Outcome:
    """Collect and draw."""
    report = collect.collect(job)
    page.save(report, job.output("report"))
    headlines = "; ".join(group.headline for group in report.groups)
    return Outcome({"bytes": float(job.output("report").stat().st_size)}, {"headline": headlines})
