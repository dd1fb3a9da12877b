"""Ranges of every tensor from the calibration set, which shares no picture with the evaluation set; corrections before, when asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

from bmflow.calibration.methods import Method
from bmflow.cli import common
from bmflow.driver.calibrate import CalibrateOptions
from bmflow.driver.correct import Corrections, correct_and_calibrate
from bmflow.ir.module import Module

from bmflow_components.job import Job, Outcome
from bmflow_components.split import Split


def run(job: Job) -> Outcome:
    """Call the driver's verb on a copy of the module, beside which corrected ones appear."""
    data = Split.load(job.input("dataset"))
    work = Path(shutil.copytree(job.input("mlir"), "mlir"))
    corrections = Corrections(
        job.flag("we"),
        job.flag("bc"),
        job.flag("sq"),
        job.flag("smc"),
        bias_samples=job.whole("bc_inference_num"),
        rounding=job.flag("gptq"),
    )
    options = CalibrateOptions(
        str(work / "model.mlir"), str(job.output("table")), str(data.images("calibration")), input_num=job.whole("input_num"),
        method=Method.named(job.text("method")), tune_num=job.whole("tune_num"), bins=job.whole("bins"), chip=job.text("processor"),
        quantize_table=str(job.output("patterns")), threads=job.whole("threads"), part_asymmetric=job.flag("part_asymmetric"),
        histograms=str(job.output("histograms")),
    )  # fmt: skip
    corrected = correct_and_calibrate(options, corrections, common.progress)
    table, names = corrected.table, Path(corrected.mlir).stem.split("_")[1:]
    if names:
        _take(Path(corrected.mlir), job.output("corrected"))
    else:
        work.rename(job.output("corrected"))
    figures = {"tensors": float(len(table.ranges)), "pictures": float(table.samples)}
    return Outcome(figures, {"calibration_set": data.set("calibration").digest, "corrected": ", ".join(names) or "no"})


def _take(mlir: Path, folder: Path) -> None:
    """The corrected module alone, under the names that every module of the pipeline has."""
    folder.mkdir()
    module = Module.load(mlir)
    module.save(folder / "model.mlir", f"{module.name}_top_f32_all_weight.npz")
