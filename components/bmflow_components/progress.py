"""How a local run looks: a table that moves on a terminal, a line a task elsewhere, and what came out."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from bmflow_components import documents
from bmflow_components.local import Plan, Progress, Runner, Show, State

_STYLES = {
    State.WAITING: "dim", State.RUNNING: "cyan", State.DONE: "green", State.KEPT: "green dim", State.BELOW_BAR: "yellow", State.FAILED: "red",
    State.BLOCKED: "magenta",
}  # fmt: skip


@contextmanager
def shown(plan: Plan) -> Generator[Show]:
    """Give the function that a runner calls at every change."""
    from rich.console import Console

    console = Console(stderr=True)
    print(f"{plan.pipeline.name}: run {plan.folder.name} in {plan.folder}", file=sys.stderr)
    if not console.is_terminal:
        yield _line
        return
    from rich.live import Live

    rows: dict[str, Progress] = {}
    lock = threading.Lock()

    def show(item: Progress) -> None:
        with lock:
            rows[item.task.name] = item

    def render() -> object:
        with lock:
            return _table(list(rows.values()))

    with Live(get_renderable=render, console=console, refresh_per_second=4):  # pyright: ignore[reportArgumentType]
        yield show


def _line(item: Progress) -> None:
    if item.state is State.RUNNING:
        return
    print(f"{item.task.name:<32} {item.state.value:<13} {item.seconds:7.1f} s  {_figures(item)}".rstrip(), file=sys.stderr, flush=True)


def _figures(item: Progress) -> str:
    result = item.result
    if result is None:
        return ""
    if result.error:
        return result.error
    return "  ".join(f"{name} {value:.5g}" for name, value in list(result.metrics.items())[:3])


def _table(rows: list[Progress]) -> object:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("task", "state", "seconds", ""):
        table.add_column(name, justify="right" if name == "seconds" else "left", overflow="fold")
    for item in rows:
        seconds = time.monotonic() - item.started if item.state is State.RUNNING else item.seconds
        style = _STYLES[item.state]
        table.add_row(item.task.name, f"[{style}]{item.state.value}[/]", f"{seconds:.1f}" if seconds else "", _escaped(_figures(item)))
    return table


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def summary(plan: Plan, runner: Runner) -> str:
    """Verdicts, where bmodel and report lie, what failed, and how to go on."""
    lines: list[str] = []
    for item in runner.progress.values():
        folder = plan.folder / item.task.folder
        if item.task.stage.name == "gate" and item.result and item.result.has_outputs:
            lines += [(folder / "decision.md").read_text().rstrip(), *_chosen(plan, runner, folder)]
        if item.task.stage.name == "report" and item.state.succeeded:
            lines.append(f"report: {folder / 'report.html'}")
        if item.state is State.FAILED:
            why = item.result.error if item.result else f"exit code {item.code}"
            lines.append(f"{item.task.name} failed: {why}\n  log: {folder / 'log.txt'}")
    failed = any(item.state in (State.FAILED, State.BLOCKED) for item in runner.progress.values())
    again = f"\nto go on: the same command with --run-id {plan.folder.name}" if failed else ""
    return "\n".join(lines) + again


def _chosen(plan: Plan, runner: Runner, gate: Path) -> list[str]:
    chosen = documents.read(gate / "decision.json", "a decision").get("chosen")
    if not chosen:
        return []
    for item in runner.progress.values():
        if (
            item.task.stage.name == "deploy"
            and item.result
            and (out := item.result.outputs.get("bmodel"))
            and out.digest == chosen["sha256"]
        ):
            return [f"bmodel: {plan.folder / item.task.folder / 'model.bmodel'}"]
    return []
