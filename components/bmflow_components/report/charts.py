"""Drawings as inline SVG; colours are classes of the style sheet, so that they follow light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bmflow_components.report.data import Layer
from bmflow_components.report.markup import text

LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 34
"""Pixels around the drawing area for ticks and labels."""


@dataclass(frozen=True)
class Line:
    """Points joined by a line; `tone` is its class in the style sheet."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    tone: str


@dataclass(frozen=True)
class Point:
    """A marked point with a label."""

    name: str
    x: float
    y: float
    tone: str


@dataclass(frozen=True)
class Axes:
    """Ranges and size of a drawing, in its own units and in pixels."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: int = 340
    height: int = 220

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point."""
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return LEFT + across * (self.width - LEFT - RIGHT), self.height - BOTTOM - up * (self.height - TOP - BOTTOM)

    def frame(self, x_label: str, y_label: str) -> str:
        """Grid, ticks and labels."""
        parts: list[str] = []
        for tick in ticks(*self.x):
            px, py = self.at(tick, self.y[0])
            parts.append(f'<line class="grid" x1="{px:.1f}" x2="{px:.1f}" y1="{TOP}" y2="{py:.1f}"/>')
            parts.append(f'<text class="tick" x="{px:.1f}" y="{py + 14:.1f}" text-anchor="middle">{short(tick)}</text>')
        for tick in ticks(*self.y):
            px, py = self.at(self.x[0], tick)
            parts.append(f'<line class="grid" x1="{px:.1f}" x2="{self.width - RIGHT}" y1="{py:.1f}" y2="{py:.1f}"/>')
            parts.append(f'<text class="tick" x="{px - 6:.1f}" y="{py + 3.5:.1f}" text-anchor="end">{short(tick)}</text>')
        middle = LEFT + (self.width - LEFT - RIGHT) / 2
        parts.append(f'<text class="axis" x="{middle:.0f}" y="{self.height - 4}" text-anchor="middle">{text(x_label)}</text>')
        centre = TOP + (self.height - TOP - BOTTOM) / 2
        parts.append(f'<text class="axis" transform="translate(11 {centre:.0f}) rotate(-90)" text-anchor="middle">{text(y_label)}</text>')
        return "".join(parts)


def line_chart(title: str, lines: Sequence[Line], axes: Axes, x_label: str, y_label: str) -> str:
    """Lines over common axes, with a title above."""
    drawn = "".join(_polyline(line, axes) for line in lines)
    return _figure(title, axes, axes.frame(x_label, y_label) + drawn, ", ".join(line.name for line in lines))


def scatter(title: str, points: Sequence[Point], axes: Axes, x_label: str, y_label: str, floor: tuple[str, float] | None = None) -> str:
    """Labelled points; `floor` is a horizontal line with its label."""
    parts = [axes.frame(x_label, y_label)]
    if floor and axes.y[0] <= floor[1] <= axes.y[1]:
        x1, y = axes.at(axes.x[0], floor[1])
        parts.append(f'<line class="floor" x1="{x1:.1f}" x2="{axes.width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{axes.width - RIGHT - 4}" y="{y + 12:.1f}" text-anchor="end">{text(floor[0])}</text>')
    taken: list[tuple[float, float]] = []
    for point in points:
        x, y = axes.at(point.x, point.y)
        parts.append(f'<circle class="dot {point.tone}" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{text(point.name)}</title></circle>')
        left = x > axes.width * 0.6
        label = y - 9 if floor and abs(axes.at(point.x, floor[1])[1] - y) < 10 else y + 4
        while any(abs(label - other) < 13 and abs(x - at) < 140 for at, other in taken):
            label += 13
        taken.append((x, label))
        anchor, shift = ("end", -9) if left else ("start", 9)
        parts.append(f'<text class="mark" x="{x + shift:.1f}" y="{label:.1f}" text-anchor="{anchor}">{text(point.name)}</text>')
    return _figure(title, axes, "".join(parts), ", ".join(point.name for point in points))


def strip(layers: Sequence[Layer], width: int = 1000) -> str:
    """All layers side by side, coloured by how near they are to the float network; a mark below those kept in float."""
    step = width / max(1, len(layers))
    parts = []
    for index, layer in enumerate(layers):
        x, wide = index * step, max(0.5, step - 1)
        label = f"{layer.name} ({layer.op}, {layer.mode}): cosine {layer.cosine:.6f}"
        parts.append(
            f'<rect class="q{quality(layer.cosine)}" x="{x:.2f}" y="0" width="{wide:.2f}" height="34"><title>{text(label)}</title></rect>'
        )
        if layer.is_float:
            parts.append(f'<rect class="kept" x="{x:.2f}" y="37" width="{wide:.2f}" height="5"/>')
    return (
        f'<svg class="strip" viewBox="0 0 {width} 44" preserveAspectRatio="none" role="img" aria-label="similarity of {len(layers)} layers">'
        f"{''.join(parts)}</svg>"
    )


def quality(cosine: float) -> int:
    """Class of similarity, 0 (bad) to 5 (equal for all purposes)."""
    return sum(cosine >= bound for bound in (0.9, 0.95, 0.99, 0.999, 0.9999))


def nearness(cosine: float) -> float:
    """Length of a layer's bar, 0..1: the nines of its cosine, six of them fill it."""
    return min(1.0, max(0.0, -math.log10(max(1 - cosine, 1e-6)) / 6))


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def around(values: Sequence[float], margin: float = 0.1) -> tuple[float, float]:
    """A range that holds all values with some air."""
    low, high = min(values), max(values)
    air = (high - low) * margin or abs(high) * margin or 1.0
    return low - air, high + air


def short(value: float) -> str:
    """A tick as it is written on an axis."""
    return f"{value:g}" if abs(value) < 10_000 else f"{value / 1000:g}k"


def _polyline(line: Line, axes: Axes) -> str:
    points = " ".join(
        f"{px:.1f},{py:.1f}"
        for x, y in zip(line.xs, line.ys, strict=True)
        if math.isfinite(y)
        for px, py in [axes.at(x, min(max(y, axes.y[0]), axes.y[1]))]
    )
    return f'<polyline class="line {line.tone}" points="{points}"><title>{text(line.name)}</title></polyline>'


def _figure(title: str, axes: Axes, body: str, about: str) -> str:
    caption = f"<figcaption>{text(title)}</figcaption>" if title else ""
    return (
        f'<figure class="chart">{caption}<svg viewBox="0 0 {axes.width} {axes.height}" role="img" aria-label="{text(title)}: {text(about)}">'
        f"{body}</svg></figure>"
    )
