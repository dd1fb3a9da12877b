"""Every figure of a report as comma-separated values, one layer a line, worst first."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

from bmflow.explain.report import LayerReport, Report
from bmflow.explain.tally import Error
from bmflow.explain.texts import to_decibels
from bmflow.search.scores import Score

Cell = str | int | float
_LayerCell = Callable[[LayerReport], Cell]


def _db(noise: float | None) -> Cell:
    return "" if noise is None else f"{to_decibels(noise):.3f}"


def _score(pick: Callable[[LayerReport], Score | None], part: Callable[[Score], float]) -> _LayerCell:
    def cell(layer: LayerReport) -> Cell:
        score = pick(layer)
        return "" if score is None else f"{part(score):.8g}"

    return cell


def _alone(layer: LayerReport) -> Score | None:
    return layer.effect.alone if layer.effect else None


def _freed(layer: LayerReport) -> Score | None:
    return layer.effect.freed if layer.effect else None


def _lifted(layer: LayerReport) -> Score | None:
    return layer.effect.lifted if layer.effect else None


COLUMNS: dict[str, _LayerCell] = {
    "place": lambda layer: layer.place,
    "layer": lambda layer: layer.name,
    "op": lambda layer: layer.kind,
    "shape": lambda layer: "x".join(map(str, layer.shape)),
    "type": lambda layer: layer.mode,
    "why": lambda layer: layer.why,
    "min_seen": lambda layer: f"{layer.tally.low.min():.7g}",
    "max_seen": lambda layer: f"{layer.tally.high.max():.7g}",
    "threshold": lambda layer: f"{layer.interval.threshold:.7g}" if layer.interval else "",
    "scale": lambda layer: f"{layer.quantization.scale:.7g}" if layer.quantization else "",
    "zero_point": lambda layer: layer.quantization.zero_point if layer.quantization else "",
    "clipped_share": lambda layer: f"{layer.tally.clipped_share:.7g}",
    "zero_bin_share": lambda layer: f"{layer.tally.vanished_share:.7g}",
    "channel_spread": lambda layer: f"{layer.tally.spread:.5g}",
    "constant_channels": lambda layer: int(layer.tally.constant.sum()),
    "sqnr_stored_db": lambda layer: _db(layer.noise(Error.STORED)),
    "sqnr_alone_db": lambda layer: _db(layer.noise(Error.ALONE)),
    "sqnr_accumulated_db": lambda layer: _db(layer.noise(Error.ACCUMULATED)),
    "output_sqnr_alone_in_int8_db": _score(_alone, lambda score: score.sqnr),
    "output_cosine_alone_in_int8": _score(_alone, lambda score: score.cosine),
    "output_sqnr_lifted_db": _score(_lifted, lambda score: score.sqnr),
    "output_cosine_lifted": _score(_lifted, lambda score: score.cosine),
    "output_sqnr_lifted_with_readers_db": _score(_freed, lambda score: score.sqnr),
    "output_cosine_lifted_with_readers": _score(_freed, lambda score: score.cosine),
    "fault": lambda layer: layer.diagnosis.fault.value if layer.diagnosis else "",
    "diagnosis": lambda layer: layer.diagnosis.text if layer.diagnosis else "",
}


def text(report: Report) -> str:
    """The file's content."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([cell(layer) for cell in COLUMNS.values()] for layer in report.layers)
    return stream.getvalue()
