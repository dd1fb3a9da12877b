"""Measure, print the table, and with --write keep it in docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from benchmarks import clock
from benchmarks.cases import Bar, Row, measure

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
HEAD = ("what", "measured", "must", "aim", "reached")


def main() -> int:
    """Run the benchmarks; the exit code says nothing about speed."""
    parse = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parse.add_argument("data", type=Path, help="folder of models and pictures")
    parse.add_argument("--rounds", type=int, default=7, help="repetitions of what is short (default 7; the median counts)")
    parse.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parse.add_argument("--note", default="", help="a sentence to write there, such as what else the machine was doing")
    options = parse.parse_args()
    clock.pin_threads()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bmflow-benchmarks-") as folder:
        for row in measure(options.data.resolve(), Path(folder), options.rounds):
            rows.append(row)
            print("  ".join(_cells(row)), flush=True)
    table = markdown(rows)
    print(table)
    if options.write:
        PAGE.write_text(page(table, options.rounds, options.note))
    return 0


def _cells(row: Row) -> list[str]:
    bound, aim = (f"<= {row.bar.must:g}", f"<= {row.bar.aim:g}") if row.bar else ("", "")
    value = f"{row.value:.2f} {row.unit}" + (f" ({row.seconds:.2f} s)" if row.seconds is not None and row.unit not in ("s", "ms") else "")
    return [row.what, value, bound, aim, _reached(row.value, row.bar)]


def _reached(value: float, bar: Bar | None) -> str:
    if bar is None:
        return ""
    return "aim" if value <= bar.aim else "must" if value <= bar.must else "no"


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    lines = [HEAD, tuple("---" for _ in HEAD), *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def page(table: str, rounds: int, note: str) -> str:
    """docs/benchmarks.md: how, where and when it was measured, and the table."""
    return f"""# Speed and memory

Written by `python -m benchmarks DATA --write` on {date.today().isoformat()}: {machine()}, Python {platform.python_version()}.
The network is yolov5n at 640 x 640. `t_ort` is one float inference by onnxruntime with {clock.THREADS} threads, measured in the same run in turns
with the other inferences ({rounds} rounds, medians); the tools are processes of their own, timed once with start-up and files included.
Bounds are those of the project's design; they are not timed tests.
Accuracy is measured apart: [accuracy.md](accuracy.md), [accuracy-outputs.md](accuracy-outputs.md),
[accuracy-attention.md](accuracy-attention.md).
{note and chr(10) + note + chr(10)}
{table}
"""


def machine() -> str:
    """Processor, cores and memory."""
    return f"{_processor()}, {os.cpu_count()} cores, {_memory_gib():.0f} GiB"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


if __name__ == "__main__":
    raise SystemExit(main())
