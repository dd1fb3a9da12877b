"""Run a command to its end: in a process group of its own, with a time limit, its words handed on line by line. The standard library alone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence

_PR_SET_PDEATHSIG = 1


class LimitError(Exception):
    """The command ran longer than it may."""


class Supervised:
    """A command and everything it starts.

    It ends with this process: by SIGTERM when this process stops it or dies itself (Linux), by SIGKILL after `grace_s` more seconds.
    """

    def __init__(
        self, words: Sequence[str], env: Mapping[str, str], say: Callable[[str], None], timeout_s: float, grace_s: float = 3.0
    ) -> None:
        self._words, self._env, self._say = words, env, say
        self._timeout_s, self._grace_s = timeout_s, grace_s
        self._process: subprocess.Popen[str] | None = None
        self._killer: threading.Timer | None = None
        self.stopped = False

    def run(self) -> int:
        """Run it; gives the exit code, negative for a signal.

        Raises:
            LimitError: it was stopped after `timeout_s` seconds.
            OSError: it cannot be started.
        """
        process = self._process = subprocess.Popen(
            self._words, env=dict(self._env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", start_new_session=True, preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )  # fmt: skip
        reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        reader.start()
        try:
            code = process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            self.stop()
            process.wait()
            raise LimitError(f"stopped after {self._timeout_s:g} s, its limit") from None
        finally:
            self._signal(signal.SIGKILL)  # what it left running
            if self._killer is not None:
                self._killer.cancel()  # the number may soon be another group's
            self._process = None
            reader.join(2.0)
        return code

    def stop(self) -> None:
        """Ask it to end, then end it; returns at once, so that a signal handler may call it."""
        self.stopped = True
        self._signal(signal.SIGTERM)
        self._killer = threading.Timer(self._grace_s, self._signal, (signal.SIGKILL,))
        self._killer.daemon = True
        self._killer.start()

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._say(line.rstrip("\n"))


def _end_with_parent() -> None:
    """Between fork and exec: ask the kernel for SIGTERM when the parent dies, even by SIGKILL."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
