"""The whole page."""

from __future__ import annotations

from pathlib import Path

from bmflow import __version__, artifacts

from bmflow_components.report import sections
from bmflow_components.report.data import RunReport
from bmflow_components.report.markup import text

_OF_A_PROCESSOR = (
    sections.duel, sections.candidates, sections.classes, sections.curves, sections.similarity, sections.detections,
)  # fmt: skip
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What the page may load: nothing from outside, no script."""


def render(report: RunReport) -> str:
    """The report as one HTML file."""
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    body = sections.header(report) + "".join(sections.verdict(report, group) for group in report.groups) + sections.failures(report)
    body += "".join(part(report, group) for group in report.groups for part in _OF_A_PROCESSOR)
    body += sections.calibration(report) + sections.training(report) + sections.provenance(report) + sections.steps(report)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(report.title)}</title>\n<style>\n{style}</style></head>\n<body><main>\n{body}"
        f"<footer>bmflow {text(__version__)}</footer>\n</main></body></html>\n"
    )


def save(report: RunReport, path: str | Path) -> None:
    """Write the page atomically."""
    artifacts.write_text(path, render(report))
