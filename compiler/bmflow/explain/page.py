"""The report as one self-contained HTML page: what to do first, the noise along the network, the worst layers in detail, all the others."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from html import escape
from importlib.resources import files

from bmflow.explain import picture
from bmflow.explain.report import LayerReport, Report
from bmflow.explain.tally import Error
from bmflow.explain.texts import decibels, percent, times, to_decibels

_COLUMNS = ("layer", "type", "values", "threshold", "clipped", "to 0", "spread", "stored", "alone", "accum.")


def html(report: Report) -> str:
    """The whole page."""
    worst = [layer for layer in report.layers if layer.output_noise is not None]
    others = [layer for layer in report.layers if layer.output_noise is None]
    title = escape(f"{report.name} in 8 bits, layer by layer")
    parts = [
        f"<header><h1>{title}</h1><p class=note>{_subtitle(report)}</p></header>", _advice(report), _along(report),
        _section("The worst layers", "By the noise at the network outputs when the layer alone is in INT8.", map(_card(report), worst)),
        _all_others(others), _how_to_read(report),
    ]  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{_style()}</style></head>\n<body><main>{''.join(parts)}</main></body></html>\n"
    )


@cache
def _style() -> str:
    return (files("bmflow.explain") / "page.css").read_text()


def _subtitle(report: Report) -> str:
    how = "asymmetric" if report.asymmetric else "symmetric"
    integers = sum(layer.in_int8 for layer in report.layers)
    floats = sum(layer.kind != "Input" for layer in report.layers) - integers
    return f"{report.samples} samples, {how} INT8; {integers} layers compute in INT8, {floats} in another type."


def _advice(report: Report) -> str:
    steps = "".join(f"<li><b>{escape(str(step))}</b><pre>{escape(chr(10).join(step.commands))}</pre></li>" for step in report.advice.steps)
    notes = "".join(f"<p class=note>{escape(note)}</p>" for note in report.notes)
    return f"<section class=first><h2>What to do first</h2><p>{escape(report.advice.text)}</p>{f'<ol>{steps}</ol>' if steps else ''}{notes}</section>"


def _along(report: Report) -> str:
    key = (
        '<p class="key"><span class="line"></span>accumulated in the 8-bit network <span class="dot alone"></span>alone in INT8 '
        '<span class="dot fault"></span>alone, with a fault worth a sentence. Higher is better; point at a dot for its layer.</p>'
    )
    return _section("Where the noise comes from", "SQNR of every layer in program order.", [picture.noise_along(report.in_order), key])


def _section(title: str, note: str, parts: Iterable[str]) -> str:
    content = "".join(parts)
    return f"<section><h2>{title}</h2><p class=note>{note}</p>{content}</section>" if content else ""


def _card(report: Report):
    def card(layer: LayerReport) -> str:
        facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in _facts(layer, report))
        fault = f"<p class=diagnosis>{escape(layer.diagnosis.text)}</p>" if layer.diagnosis else ""
        shape = "x".join(map(str, layer.shape))
        return (
            f"<article><h3><code>{escape(layer.name)}</code> <span class=kind>{escape(layer.kind)} {shape}</span>{_chip(layer)}"
            f"<span class=kind>{escape(layer.why)}</span></h3>{fault}"
            f"<div class=body>{picture.histogram(layer)}<dl>{facts}</dl></div></article>"
        )

    return card


def _chip(layer: LayerReport) -> str:
    return f'<span class="chip {"int" if layer.in_int8 else "float"}" title="{escape(layer.why)}">{escape(layer.mode)}</span>'


def _facts(layer: LayerReport, report: Report) -> list[tuple[str, str]]:
    tally = layer.tally
    return [
        ("values seen", _range(layer)), ("threshold", _threshold(layer)), ("clipped", percent(tally.clipped_share)),
        ("rounded to 0", percent(tally.vanished_share)), ("channel spread", times(tally.spread)),
        ("stored", decibels(layer.noise(Error.STORED))), ("alone", decibels(layer.noise(Error.ALONE))),
        ("accumulated", decibels(layer.noise(Error.ACCUMULATED))), ("outputs, alone", decibels(layer.output_noise)),
        ("lifted, with readers", _gains(layer, report)),
    ]  # fmt: skip


def _gains(layer: LayerReport, report: Report) -> str:
    scores = [score for score in (layer.effect.lifted, layer.effect.freed) if score] if layer.effect else []
    gains = [f"{to_decibels(score.noise) - to_decibels(report.network.noise):+.2f}" for score in scores]
    return f"{', '.join(gains)} dB" if gains else "–"


def _range(layer: LayerReport) -> str:
    return f"{layer.tally.low.min():.4g} … {layer.tally.high.max():.4g}"


def _threshold(layer: LayerReport) -> str:
    if layer.interval is None:
        return "–"
    q = layer.quantization
    if q is not None and q.zero_point:
        return f"{layer.interval.low:.4g} … {layer.interval.high:.4g}, zero at {q.zero_point}"
    return f"{layer.interval.threshold:.4g}"


def _all_others(layers: list[LayerReport]) -> str:
    if not layers:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("", *_COLUMNS))
    rows = "".join(map(_row, layers))
    return (
        f"<section><details><summary><h2>The other {len(layers)} layers</h2></summary><p class=note>By the noise of the layer alone in INT8; "
        f"their effect on the outputs was not measured.</p><div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        "</div></details></section>"
    )


def _row(layer: LayerReport) -> str:
    tally = layer.tally
    cells = (
        percent(tally.clipped_share), percent(tally.vanished_share), times(tally.spread), decibels(layer.noise(Error.STORED)),
        decibels(layer.noise(Error.ALONE)), decibels(layer.noise(Error.ACCUMULATED)),
    )  # fmt: skip
    numbers = "".join(f"<td class=n>{cell}</td>" for cell in cells)
    fault = f"<div class=diagnosis>{escape(layer.diagnosis.text)}</div>" if layer.diagnosis else ""
    return (
        f"<tr><td>{picture.histogram(layer, 120, 30, labels=False)}</td><td class=name><code>{escape(layer.name)}</code> "
        f"<span class=kind>{escape(layer.kind)}</span>{fault}</td><td>{_chip(layer)}</td><td class=n>{_range(layer)}</td>"
        f"<td class=n>{_threshold(layer)}</td>{numbers}</tr>"
    )


def _how_to_read(report: Report) -> str:
    entries = (
        ("SQNR", "Error over signal, sum |q - y|^2 over sum |y - mean y|^2, of every channel over all samples; the mean over channels, in dB. "
         "Whole tensors would hide weak channels behind strong ones. 6 dB are one bit."),
        ("stored", "Float values rounded to the layer's 8-bit grid and clipped to its range: the fault of the range."),
        ("alone", "The layer computed in INT8 from float values, everything else in float: range, weights and operands together."),
        ("accumulated", "The layer inside the 8-bit network, with all that went wrong before it."),
        ("outputs, alone", "SQNR of the network outputs when nothing but this layer computes in INT8."),
        ("lifted, with readers", "What the network outputs gain when this layer alone is lifted to float in the 8-bit network, and when the "
         "readers of its values are lifted, too: they otherwise get its values in 8 bits."),
        ("SiLU and Sigmoid", "Values that such a reader cannot tell apart (below -8, for Sigmoid above 8, too) count as equal."),
        ("rounded to 0", "Part of the values other than 0 that become 0. Clipped: part of all values beyond the range whose readers can tell."),
        ("channel spread", "Largest over smallest peak among the channels that change."),
        ("histogram", "Counts on a logarithmic axis; the lines mark the range that 8 bits hold, what lies "
         "beyond it is clipped (red), or the same to its readers (grey)."),
        ("tried", "What the outputs keep with a remedy, measured on these samples; equalized networks with ranges found on them."),
        ("left out", "Layers that only move values (Reshape, Permute, Slice, Upsample, Depth2Space): they look like what they read."),
    )  # fmt: skip
    rows = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in entries)
    return f"<section><h2>How to read this</h2><dl class=legend>{rows}</dl></section>"
