"""Measured pieces of work: time as the median of several runs, memory as the peak of a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

THREADS = 2


@dataclass(frozen=True)
class Finished:
    """A process that ended well: wall seconds, its largest resident size, and what it printed."""

    seconds: float
    peak_bytes: int
    printed: str = ""


def pin_threads() -> None:
    """Limit every thread pool that is started later, here and in child processes."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(THREADS)


def interleaved(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each piece; the pieces take turns, so that a slow spell of the machine hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in times.items()}


def process(command: Sequence[str], folder: Path) -> Finished:
    """Run a command in `folder`.

    Raises:
        RuntimeError: it failed; the message holds the end of what it printed.
    """
    start = time.perf_counter()
    child = subprocess.Popen(list(command), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert child.stdout is not None
    printed = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}: {printed[-800:]}")
    return Finished(time.perf_counter() - start, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), printed)


def typical(command: Sequence[str], folder: Path, rounds: int) -> Finished:
    """Median time and largest peak of several runs of one command."""
    runs = [process(command, folder) for _ in range(rounds)]
    return Finished(median(run.seconds for run in runs), max(run.peak_bytes for run in runs))


def tool(name: str) -> list[str]:
    """The command line of a tool of this environment."""
    return [str(Path(sys.executable).parent / name)]
