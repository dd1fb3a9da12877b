"""Pictures as inline SVG: the histogram of a layer with its range marked, and the noise along the network. Colours come from the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from bmflow.explain.report import LayerReport
from bmflow.explain.tally import BINS, Error
from bmflow.explain.texts import decibels, to_decibels

_MOST_DB = 70.0
_CHARACTER = 7.5
"""Width of a character of a label with its share of the gap, in units of the picture."""


def histogram(layer: LayerReport, width: int = 300, height: int = 96, labels: bool = True) -> str:
    """Counts on a logarithmic axis; lines mark the range of 8 bits; what lies beyond looks like a fault, unless readers do not mind."""
    tally, counts = layer.tally, layer.tally.histogram.counts
    left, right = _extent(layer)
    foot = 16 if labels else 0
    plot = height - foot
    step = tally.histogram.width
    edges = (np.arange(BINS + 1) - BINS // 2) * step
    tops = plot - 2 - (plot - 6) * np.log1p(counts) / np.log1p(max(int(counts.max()), 1))
    low, high = limits(layer)
    scale = width / (right - left)
    shapes: dict[str, list[str]] = {"in": [], "same": [], "out": []}
    for index in np.flatnonzero(counts):
        x0, x1 = max(edges[index], left), min(edges[index + 1], right)
        if x1 > x0:
            kind = "in" if low < x1 and x0 < high else "same" if x1 <= layer.window[0] or x0 >= layer.window[1] else "out"
            shapes[kind].append(_bar((x0 - left) * scale, (x1 - left) * scale, float(tops[index]), plot))
    parts = [f'<path class="{kind}" d="{"".join(bars)}"/>' for kind, bars in shapes.items() if bars]
    parts.append(f'<line class="axis" x1="0" y1="{plot}" x2="{width}" y2="{plot}"/>')
    parts += [_mark((end - left) * scale, plot) for end in (low, high) if left <= end <= right]
    if labels:
        parts += _labels(left, right, low, high, width, height)
    title = f"{layer.name}: values from {tally.low.min():.4g} to {tally.high.max():.4g}; 8 bits hold {low:.4g} to {high:.4g}"
    return (
        f'<svg class="hist" role="img" viewBox="0 0 {width} {height}" width="{width}" height="{height}"><title>{escape(title)}</title>'
        f"{''.join(parts)}</svg>"
    )


def limits(layer: LayerReport) -> tuple[float, float]:
    """Smallest and largest real value that the layer's 8-bit form holds; unbounded when it has none."""
    q = layer.quantization
    if q is None:
        return -np.inf, np.inf
    low, high = q.dtype.limits
    return (low - q.zero_point) * q.scale, (high - q.zero_point) * q.scale


def _extent(layer: LayerReport) -> tuple[float, float]:
    """What the picture shows: all values and the whole range, unless the range is far wider."""
    tally, (low, high) = layer.tally, limits(layer)
    least, most = float(tally.low.min()), float(tally.high.max())
    reach = max(most - least, 1e-12)
    left = min(least, low) if least - low < 2 * reach else least - 0.1 * reach
    right = max(most, high) if high - most < 2 * reach else most + 0.1 * reach
    margin = 0.02 * (right - left)
    return left - margin, right + margin


def _bar(x0: float, x1: float, top: float, plot: float) -> str:
    return f"M{x0:.1f} {plot}V{top:.1f}H{max(x1, x0 + 0.4):.1f}V{plot}z"


def _mark(x: float, plot: float) -> str:
    return f'<line class="mark" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{plot}"/>'


def _labels(left: float, right: float, low: float, high: float, width: int, height: int) -> list[str]:
    """The ends of the range, and 0 where it leaves room."""
    found: list[str] = []
    taken: list[tuple[float, float]] = []
    for value, kind in ((low, "mark"), (high, "mark"), (0.0, "tick")):
        x, text = (value - left) * width / (right - left), f"{value:.3g}"
        reach = _CHARACTER * len(text)
        start = min(max(x - reach / 2, 0), width - reach)
        if not 0 <= x <= width or any(start < end and begin < start + reach for begin, end in taken):
            continue
        taken.append((start, start + reach))
        found.append(f'<text class="{kind}" x="{start + reach / 2:.1f}" y="{height - 4}" text-anchor="middle">{text}</text>')
    return found


def noise_along(layers: Sequence[LayerReport], width: int = 1000, height: int = 230) -> str:
    """SQNR of every layer in program order: alone (dots; a fault in its colour) and accumulated (line)."""
    shown = [layer for layer in layers if layer.noise(Error.ACCUMULATED) is not None]
    if not shown:
        return ""
    left, foot, head = 44, 20, 8
    step = (width - left - 8) / max(len(shown) - 1, 1)
    levels = [to_decibels(layer.noise(Error.ACCUMULATED) or 0.0) for layer in shown]
    levels += [to_decibels(noise) for layer in shown if (noise := layer.noise(Error.ALONE))]
    top = min(_MOST_DB, 10 * np.ceil(max(level for level in [*levels, 10.0] if level <= _MOST_DB or level == min(levels)) / 10))
    bottom = min(0.0, 10 * np.floor(min(levels) / 10))

    def y(noise: float) -> float:
        level = min(max(to_decibels(noise), bottom), top)
        return head + (height - head - foot) * (top - level) / (top - bottom)

    parts: list[str] = []
    for level in np.arange(bottom, top + 1, 10):
        at = head + (height - head - foot) * (top - level) / (top - bottom)
        parts.append(f'<line class="grid" x1="{left}" y1="{at:.1f}" x2="{width}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{level:.0f} dB</text>')
    points = [f"{left + index * step:.1f},{y(layer.noise(Error.ACCUMULATED) or 0.0):.1f}" for index, layer in enumerate(shown)]
    parts.append(f'<polyline class="accumulated" points="{" ".join(points)}"/>')
    for index, layer in enumerate(shown):
        if (noise := layer.noise(Error.ALONE)) is not None:
            kind = "fault" if layer.diagnosis and layer.diagnosis.noise else "alone"
            title = escape(f"{layer.name}: alone {decibels(noise)}, accumulated {decibels(layer.noise(Error.ACCUMULATED))}")
            parts.append(
                f'<circle class="{kind}" cx="{left + index * step:.1f}" cy="{y(noise):.1f}" r="3.5"><title>{title}</title></circle>'
            )
    parts.append(f'<text class="tick" x="{left}" y="{height - 4}">first layer</text>')
    parts.append(f'<text class="tick" x="{width}" y="{height - 4}" text-anchor="end">last layer</text>')
    return f'<svg class="along" role="img" viewBox="0 0 {width} {height}"><title>SQNR of every layer</title>{"".join(parts)}</svg>'
