"""The search of number types, layer by layer."""

from __future__ import annotations

from importlib import util

from bmflow.errors import CompileError

from bmflow_components.job import Job, Outcome


def run(job: Job) -> Outcome:
    """Call the driver's verb.

    Raises:
        CompileError: this version has no search.
    """
    if util.find_spec("bmflow.driver.search") is None:
        raise CompileError("mixed-precision search is not available in this version; leave the number type MIXED out")
    raise CompileError(f"mixed-precision search is not yet wired into the stage {job.stage.name}; leave the number type MIXED out")
