"""The search of number types, layer by layer: the fastest table within the bar. Killed and started again, it goes on behind its scores."""

from __future__ import annotations

import json
import shutil
from importlib import util
from typing import TYPE_CHECKING

from bmflow.cli import common
from bmflow.driver.calibrate import CalibrateOptions
from bmflow.errors import BelowBarError, CompileError

from bmflow_components import documents
from bmflow_components.job import Job, Outcome
from bmflow_components.split import Split

if TYPE_CHECKING:
    from bmflow.driver.search import SearchOptions
    from bmflow.driver.search_map import Labels


def run(job: Job) -> Outcome:
    """Call the driver's verb; below the bar the best table that was found is kept.

    Raises:
        CompileError: this version has no search.
    """
    if util.find_spec("bmflow.driver.search") is None:
        raise CompileError("mixed-precision search is not available in this version; leave the number type MIXED out")
    from bmflow.driver.search import search

    options, verdict = _options(job), ""
    try:
        search(options, common.progress)
    except BelowBarError as error:
        verdict = str(error)
    return _collect(job, options, verdict)


def _options(job: Job) -> SearchOptions:
    from bmflow.calibration.patterns import from_text
    from bmflow.driver.search import Kind, SearchOptions

    data = Split.load(job.input("dataset"))
    given, corrected = job.input("mlir") / "model.mlir", job.optional("corrected")
    module = corrected / "model.mlir" if corrected else given
    calibrate = CalibrateOptions(
        str(module), str(job.scratch / "calibration_table"), str(data.images("calibration")), chip=job.text("processor"),
        patterns=from_text(job.text("patterns")),
    )  # fmt: skip
    return SearchOptions(
        calibrate, Kind.PARETO, str(job.scratch / "quantize_table"), str(job.input("table")), str(given), expected_cos=job.real("target"),
        float_type=job.text("float_type"), inference_num=job.whole("input_num"), time_budget=job.real("time_budget"),
        max_cycles=job.real("max_cycles"), max_float_cycles=job.real("max_float_cycles"), labels=_labels(job, data),
        asymmetric=job.flag("asymmetric"),
    )  # fmt: skip


def _labels(job: Job, data: Split) -> Labels | None:
    """The set that mAP is measured on to choose a table; it shares no picture with those that calibrate or evaluate."""
    from bmflow.driver.search_map import Labels

    if "search" not in data.sets:
        return None
    detector = str(job.optional("detector") or "")
    return Labels(str(data.images("search")), str(data.annotations("search")), detector, job.real("map_drop"))


def _collect(job: Job, options: SearchOptions, verdict: str) -> Outcome:
    from bmflow.tables.precision import PrecisionTable

    shutil.copyfile(options.quantize_table, job.output("qtable"))
    table = PrecisionTable.load(options.quantize_table)
    rows = [{"name": name, "mode": mode, "reason": table.reasons.get(name, "")} for name, mode in table.modes.items()]
    documents.write(job.output("sensitivity"), {"layers": rows})
    with open(f"{options.quantize_table}_pareto.json", encoding="utf-8") as stream:
        found = json.load(stream)
    points = [{**point, "table": point["table"].rpartition("/")[2]} for point in found["points"]]
    documents.write(job.output("pareto"), {**{name: value for name, value in found.items() if name != "schema"}, "points": points})
    best = next(point for point in points if "best" in point["role"])
    known = ("cycles", "cosine", "sqnr_db", *(("map",) if "map" in best else ()))
    figures = {"float_layers": float(len(rows)), **{name: float(best[name]) for name in known}}
    return Outcome(figures, {"processor": job.text("processor")}, verdict)
