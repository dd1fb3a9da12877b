"""Ranges of every tensor from the calibration set, which shares no picture with the evaluation set."""

from __future__ import annotations

from bmflow.calibration.methods import Method
from bmflow.cli import common
from bmflow.driver.calibrate import CalibrateOptions, calibrate

from bmflow_components.job import Job, Outcome
from bmflow_components.split import Split


def run(job: Job) -> Outcome:
    """Call the driver's verb."""
    data = Split.load(job.input("dataset"))
    options = CalibrateOptions(
        str(job.input("mlir") / "model.mlir"), str(job.output("table")), str(data.images("calibration")), input_num=job.whole("input_num"),
        method=Method.named(job.text("method")), tune_num=job.whole("tune_num"), bins=job.whole("bins"), chip=job.text("processor"),
        quantize_table=str(job.output("patterns")), threads=job.whole("threads"), part_asymmetric=job.flag("part_asymmetric"),
    )  # fmt: skip
    table = calibrate(options, common.progress)
    return Outcome(
        {"tensors": float(len(table.ranges)), "pictures": float(table.samples)}, {"calibration_set": data.set("calibration").digest}
    )
