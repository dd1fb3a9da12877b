"""What a search leaves behind: tables with reasons, and the Pareto set as JSON, CSV and SVG."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bmflow.search.cost import Cost
from bmflow.search.pareto import Found, Point
from bmflow.search.sensitivity import NoiseModel
from bmflow.search.unit import Unit

SCALE = "plain cosine and SQNR in dB against float, means over output channels"
CYCLES = "estimated by the simulator from assumed rates"


@dataclass(frozen=True)
class Returned:
    """A point that a search returns: what the whole network costs, the file of its table ("" when none was written), and its part.

    accuracy: mAP50-95 on labelled pictures, None without them.
    """

    point: Point
    cost: Cost
    file: str = ""
    roles: tuple[str, ...] = ()
    accuracy: float | None = None


def reasons(found: Found, lifted: frozenset[str], given: Mapping[str, str]) -> dict[str, str]:
    """Why each layer is in float, by name; `given` explains those that were not searched."""
    shares = noise_shares(found.model, found.units)
    order = sorted(found.units, key=lambda unit: -shares[unit])
    texts = dict(given)
    for rank, unit in enumerate(order, 1):
        share = 100 * shares[unit]
        place = f"noise source {rank} of {len(order)}"
        why = (
            f"{place}, {share:.1f} % of the noise of INT8" if share >= 0.05 else f"{place}, too quiet to count: in float for its neighbours"
        )
        texts |= {name: why for name in unit if name in lifted}
    return texts


def noise_shares(model: NoiseModel, units: Sequence[Unit]) -> dict[Unit, float]:
    """Each unit's part of the predicted noise of INT8: its own and that of the values it makes."""
    made = {unit: sum(noise for name, noise in model.between.items() if name in unit) for unit in units}
    total = sum(model.inside.values()) + sum(model.between.values())
    return {unit: (model.inside[unit] + made[unit]) / total if total else 0.0 for unit in units}


def as_json(points: Sequence[Returned], header: Mapping[str, object]) -> str:
    """Points and how they were found, for programs."""
    rows = [_row(one) | {"modes_float": sorted(one.point.lifted)} for one in points]
    return json.dumps({"schema": 1, "scores": SCALE, "cycles": CYCLES, **header, "points": rows}, indent=1) + "\n"


def as_csv(points: Sequence[Returned]) -> str:
    """Points for spreadsheets."""
    stream = io.StringIO()
    rows = [_row(one) | {"role": " ".join(one.roles)} for one in points]
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _row(one: Returned) -> dict[str, object]:
    score = one.point.score
    accuracy: dict[str, object] = {} if one.accuracy is None else {"map": round(one.accuracy, 6)}
    return accuracy | {
        "cycles": one.cost.cycles, "bytes": one.cost.bytes, "cosine": round(score.cosine, 9), "sqnr_db": round(score.sqnr, 4),
        "float_layers": len(one.point.lifted), "role": list(one.roles), "table": one.file,
    }  # fmt: skip


def as_svg(points: Sequence[Returned], tried: Sequence[Point], title: str) -> str:
    """SQNR over cycles: every table tried as a small dot, the Pareto set as a line, named ones with their role."""
    every = [(point.cycles, _shown(point)) for point in tried] + [(one.cost.cycles, _shown(one.point)) for one in points]
    left, right = min(x for x, _ in every), max(x for x, _ in every)
    bottom, top = min(y for _, y in every), max(y for _, y in every)

    def place(x: float, y: float) -> tuple[float, float]:
        return 70 + 600 * (x - left) / ((right - left) or 1), 350 - 300 * (y - bottom) / ((top - bottom) or 1)

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 420" font-family="sans-serif" font-size="12">',
        '<rect width="720" height="420" fill="white"/>', f'<text x="70" y="24" font-size="14">{escape(title)}</text>',
        '<path d="M70 40V350H680" fill="none" stroke="#555"/>',
        f'<text x="375" y="405" text-anchor="middle">cycles, {CYCLES}</text>',
        '<text transform="translate(16 195) rotate(-90)" text-anchor="middle">SQNR, dB (mean over output channels)</text>',
    ]  # fmt: skip
    for k in range(5):
        x, y = left + (right - left) * k / 4, bottom + (top - bottom) * k / 4
        parts.append(f'<text x="{place(x, y)[0]:.1f}" y="370" text-anchor="middle">{x:,.0f}</text>')
        parts.append(f'<text x="62" y="{place(x, y)[1] + 4:.1f}" text-anchor="end">{y:.1f}</text>')
    parts += [_dot(place(point.cycles, _shown(point)), 2, "#bbb") for point in tried]
    line = [place(one.cost.cycles, _shown(one.point)) for one in points]
    parts.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in line)}" fill="none" stroke="#06c"/>')
    for one, (x, y) in zip(points, line, strict=True):
        parts.append(_dot((x, y), 4, "#c30" if "best" in one.roles else "#06c"))
        if one.roles:
            parts.append(f'<text x="{x + 7:.1f}" y="{y + 14:.1f}">{escape(" ".join(one.roles))}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _shown(point: Point) -> float:
    return min(point.score.sqnr, 100.0) if math.isfinite(point.score.sqnr) else 0.0


def _dot(at: tuple[float, float], radius: int, colour: str) -> str:
    return f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius}" fill="{colour}"/>'
