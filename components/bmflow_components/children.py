"""Processes that a run has started, each the head of a group of its own, so that all they started ends with them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import IO

STOP_S = 15.0
"""How long a process may take to end by itself after SIGTERM."""


class Children:
    """The processes of one run; `stopping` is true once the run is to end, and nothing is started any more."""

    def __init__(self) -> None:
        self.stopping = False
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def start(
        self, words: Sequence[str], output: IO[bytes], environment: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> subprocess.Popen[bytes] | None:
        """Start a process whose output goes to a file; None when the run is being stopped. `forget` it in the end.

        Raises:
            OSError: it cannot be started.
        """
        with self._lock:
            if self.stopping:
                return None
            child = subprocess.Popen(
                words, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd=folder
            )
            self._running.add(child)
            return child

    def forget(self, child: subprocess.Popen[bytes]) -> None:
        """A process that has ended."""
        with self._lock:
            self._running.discard(child)

    def stop(self) -> None:
        """End all: SIGTERM, and SIGKILL for those that stay; nothing more is started."""
        with self._lock:
            self.stopping = True
            running = list(self._running)
        _end(running)

    @contextlib.contextmanager
    def interruptible(self) -> Generator[None]:
        """Stop them when SIGTERM or SIGINT comes; in a thread that is not the main one nothing is done."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, _: object) -> None:
            threading.Thread(target=self.stop, daemon=True).start()

        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def end(child: subprocess.Popen[bytes]) -> int:
    """End one process, by force if it must be; returns its exit code, negative for a signal."""
    _end([child])
    return child.wait()


def _end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    for child in running:
        _signal(child, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    for child in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, deadline - time.monotonic()))
        _signal(child, signal.SIGKILL)


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)
