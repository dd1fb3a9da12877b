"""A top module to a bmodel for one processor in one number type, with what it lost and what it costs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from bmflow import artifacts
from bmflow.cli import common
from bmflow.container import bmodel
from bmflow.driver.deploy import Deployed, DeployOptions, deploy
from bmflow.driver.validate import real_values
from bmflow.errors import InputError
from bmflow.ir.module import Module
from bmflow.ir.types import DType, dtype_of
from bmflow.numerics.similarity import Report, compare
from bmflow.simulator import Simulator

from bmflow_components import documents, similarity
from bmflow_components.job import Job, Outcome
from bmflow_components.similarity import bounds

_MODES = {
    DType.F32: "F32", DType.F16: "F16", DType.BF16: "BF16", DType.I8: "INT8", DType.U8: "UINT8", DType.I16: "INT16", DType.U16: "UINT16",
    DType.I32: "INT32", DType.U32: "UINT32",
}  # fmt: skip


def run(job: Job) -> Outcome:
    """Call the driver's verb, then compare every layer with the float network and estimate the time."""
    options = _options(job)
    done = deploy(options)
    cost = _cost(job)
    _write_similarity(job, options, done)
    documents.write(job.output("estimate"), cost)
    figures = {name: float(cost[name]) for name in ("size_bytes", "cycles", "milliseconds", "ddr_bytes")}
    for what, report in (("lowered", done.lowered), ("compiled", done.compiled)):
        if report:
            figures |= {f"{what}_cosine": report.minimum()[0], f"{what}_euclid": report.minimum()[1]}
    return Outcome(figures, {"processor": job.text("processor"), "quantize": job.text("quantize")})


def _options(job: Job) -> DeployOptions:
    mixed = job.text("quantize") == "MIXED"
    if mixed and not job.optional("qtable"):
        raise InputError("--quantize MIXED needs --in-qtable, the table that the stage qtable writes")
    reference = job.optional("reference")
    inputs = [str(reference / "inputs.npz")] if reference else []
    return DeployOptions(
        str(_module(job)), job.text("processor"), str(job.output("bmodel")), "INT8" if mixed else job.text("quantize"),
        job.flag("asymmetric"), str(job.optional("table") or ""), str(job.optional("qtable") or ""), inputs,
        str(reference / "outputs.npz") if reference else "", _bounds(job, "tolerance"), _bounds(job, "correctness"),
        common.comma_list(job.text("excepts")), quant_input=job.flag("quant_input"), quant_output=job.flag("quant_output"),
        high_precision=job.flag("high_precision"),
    )  # fmt: skip


def _module(job: Job) -> Path:
    """The module to lower: for number types that a calibration table serves the one that the table was made for."""
    corrected = job.optional("corrected")
    folder = corrected if corrected and job.text("quantize") in ("INT8", "MIXED") else job.input("mlir")
    return folder / "model.mlir"


def _bounds(job: Job, name: str) -> tuple[float, float] | None:
    return bounds(job.text(name), name) if job.text(name) else None


def _cost(job: Job) -> dict[str, Any]:
    """Size and estimate; the rates behind it are assumptions, and the file says so."""
    data = job.output("bmodel").read_bytes()
    estimate = Simulator(bmodel.read(data, str(job.output("bmodel")))).estimate()
    layers = [asdict(row) for row in estimate.layers]
    return {
        "processor": job.text("processor"), "quantize": job.text("quantize"), "assumed_rates": True, "size_bytes": len(data),
        "cycles": estimate.total_cycles, "milliseconds": estimate.milliseconds, "tiu_cycles": estimate.tiu_cycles,
        "gdma_cycles": estimate.gdma_cycles, "ddr_bytes": sum(row.ddr_bytes for row in estimate.layers), "layers": layers,
    }  # fmt: skip


def _write_similarity(job: Job, options: DeployOptions, done: Deployed) -> None:
    from bmflow.driver.deploy import prepare

    checked: list[tuple[str, Report, tuple[float, float]]] = []
    limits = prepare(options)
    if done.lowered:
        checked.append(("lowered module against the float network", done.lowered, limits.tolerance))
    if done.compiled:
        checked.append(("bmodel against the lowered module", done.compiled, limits.correctness))
    documents.write(job.output("similarity"), {
        "processor": job.text("processor"), "quantize": job.text("quantize"),
        "layers": _layers(options, done) if options.test_reference else [], "comparisons": [similarity.summary(*item) for item in checked],
    })  # fmt: skip


def _layers(options: DeployOptions, done: Deployed) -> list[dict[str, Any]]:
    """Every layer of the lowered module against the top module's, with the number type that it is stored in.

    A corrected module has other values inside than the float network, whose outputs were compared before.
    """
    inputs = artifacts.load_npz(options.test_input[0])
    references = real_values(Module.load(options.mlir), inputs, True)
    report = compare(real_values(done.module, inputs, True), references, options.tolerance or (0.0, 0.0))
    about = {op.layer_name: {"op": op.name, "mode": _MODES[dtype_of(op.results[0])]} for op in done.module.layers()}
    return similarity.rows(report, about)
