"""End a process at once and cleanly on SIGTERM or SIGINT, even in the middle of native code that no Python handler would interrupt."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def terminator(clean: Callable[[str], None]) -> Generator[threading.Lock]:
    """Watch for the signals; when one comes, call `clean` with its name in another thread and end the process with exit code 1.

    Gives a lock: while it is held, ending waits. Outside the main thread nothing is watched.
    """
    hold = threading.Lock()
    if threading.current_thread() is not threading.main_thread():
        yield hold
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    wakeup = signal.set_wakeup_fd(writer)
    threading.Thread(target=_watch, args=(reader, hold, clean), daemon=True).start()
    try:
        yield hold
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)


def _watch(reader: int, hold: threading.Lock, clean: Callable[[str], None]) -> None:
    while data := os.read(reader, 1):
        if data[0] in _SIGNALS:
            with hold:
                try:
                    clean(signal.Signals(data[0]).name)
                finally:
                    sys.stderr.flush()
                    os._exit(1)
    os.close(reader)
