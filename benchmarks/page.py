"""The command line and the page of a benchmark that is one table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path

from benchmarks import clock
from benchmarks.__main__ import machine

Cells = tuple[str, ...]


def run(name: str, title: str, text: str, page: Path, head: Cells, rows: Callable[[Path, Path], Iterable[Cells]]) -> int:
    """Run `python -m benchmarks.<name> DATA --folder F`: print what `rows(data, folder)` gives, and write the page where asked to."""
    parse = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument("data", type=Path, help="folder of models and pictures")
    parse.add_argument("--folder", type=Path, required=True, help="where everything is made")
    parse.add_argument("--write", action="store_true", help=f"write docs/{page.name}")
    options = parse.parse_args()
    clock.pin_threads()
    lines = [head, tuple("---" for _ in head)]
    for row in rows(options.data.resolve(), options.folder.resolve()):
        lines.append(row)
        print("  ".join(row), flush=True)
    if options.write:
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        command = f"Written by `python -m benchmarks.{name} DATA --write` on {date.today().isoformat()}: {machine()}."
        page.write_text(f"# {title}\n\n{command}\n\n{text.strip()}\n\n{table}\n")
    return 0
