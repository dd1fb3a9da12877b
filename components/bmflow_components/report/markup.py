"""Small pieces of HTML. Whatever comes from outside goes through `text`, so no file name or layer name can become markup."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from bmflow_components.tracking.redact import redact


def text(value: object) -> str:
    """A value as harmless text, secrets hidden."""
    return html.escape(redact(str(value)), quote=True)


def section(title: str, body: str, note: str = "", name: str = "") -> str:
    """A section with a heading; nothing when there is no body."""
    if not body:
        return ""
    about = f'<p class="note">{text(note)}</p>' if note else ""
    return f'<section class="{name}"><h2>{text(title)}</h2>{about}{body}</section>\n'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], name: str = "") -> str:
    """A table of cells that are markup already; a heading that begins with `#` is over numbers, set to the right."""
    right = [column.startswith("#") for column in head]
    heads = "".join(f'<th{_right(r)} scope="col">{text(column.lstrip("#"))}</th>' for column, r in zip(head, right, strict=True))
    lines = ["".join(f"<td{_right(r)}>{cell}</td>" for cell, r in zip(row, right, strict=True)) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table class="{name}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def pairs(items: Mapping[str, object], name: str = "facts") -> str:
    """Names and values as a list of definitions."""
    return (
        f'<dl class="{name}">' + "".join(f"<dt>{text(key)}</dt><dd>{text(value)}</dd>" for key, value in items.items()) + "</dl>"
        if items
        else ""
    )


def tile(label: str, value: str, note: str = "", tone: str = "") -> str:
    """A figure with its label; `note` is markup."""
    return f'<div class="tile {tone}"><div class="label">{text(label)}</div><div class="value">{value}</div><div class="under">{note}</div></div>'


def bar(share: float, tone: str, label: str = "") -> str:
    """A horizontal bar, `share` of the full width (0..1)."""
    return f'<span class="bar" title="{text(label)}"><i class="{tone}" style="width:{100 * min(1.0, max(0.0, share)):.1f}%"></i></span>'


def chip(label: str, tone: str) -> str:
    """A word in a coloured frame."""
    return f'<span class="chip {tone}">{text(label)}</span>'


def change(value: float | None, unit: str = "", better: int = 1, digits: int = 3) -> str:
    """A signed difference, green or red by whether more (`better` 1) or less (-1) is good; grey when it is none."""
    if value is None:
        return ""
    shown = f"{value:+.{digits}f}"
    if float(shown) == 0:
        return f'<span class="even">±0{unit}</span>'
    return f'<span class="{"up" if value * better > 0 else "down"}">{shown.replace("-", "−")}{unit}</span>'


def size(count: float | None) -> str:
    """Bytes in the unit that fits."""
    if count is None:
        return "–"
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count:.0f} B"


def number(value: float | None, digits: int = 3) -> str:
    """A number, or a dash."""
    return "–" if value is None else f"{value:,.{digits}f}"


def _right(right: bool) -> str:
    return ' class="n"' if right else ""
