"""A stage's process: its words, its end, its time limit, and that nothing of it outlives what started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from bmflow_components.airflow_dags.processes import LimitError, Supervised

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux tells children that their parent died")
ENV = {"PATH": os.environ["PATH"]}


def supervised(code: str, timeout_s: float = 30, grace_s: float = 0.5) -> tuple[Supervised, list[str]]:
    lines: list[str] = []
    return Supervised([sys.executable, "-S", "-u", "-c", code], ENV, lines.append, timeout_s, grace_s), lines


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int, within_s: float = 10) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


def test_words_of_both_streams_come_line_by_line_and_the_exit_code_is_its_own() -> None:
    process, lines = supervised("import sys; print('one'); print('two', file=sys.stderr); print(b'\\xff'); sys.exit(3)")
    assert process.run() == 3
    assert lines[:2] == ["one", "two"]


def test_a_signal_is_a_negative_code() -> None:
    process, _ = supervised("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert process.run() == -signal.SIGKILL


def test_what_a_process_left_running_ends_with_it() -> None:
    process, lines = supervised("import subprocess; print(subprocess.Popen(['sleep', '60']).pid)")
    assert process.run() == 0
    assert gone(int(lines[0]))


def test_a_process_that_ignores_sigterm_is_killed_at_its_limit() -> None:
    process, lines = supervised("import os, signal, time; signal.signal(15, signal.SIG_IGN); print(os.getpid()); time.sleep(60)", 1.0)
    start = time.monotonic()
    with pytest.raises(LimitError, match="stopped after 1 s"):
        process.run()
    assert time.monotonic() - start < 20
    assert gone(int(lines[0]))


def test_stopping_sends_sigterm_first() -> None:
    process, lines = supervised(
        "import signal, sys, time; signal.signal(15, lambda *_: (print('clean'), sys.exit(1))); print('up'); time.sleep(60)", grace_s=20
    )

    def stop() -> None:
        while "up" not in lines:
            time.sleep(0.05)
        process.stop()

    threading.Thread(target=stop).start()
    assert process.run() == 1
    assert process.stopped
    assert lines == ["up", "clean"]


@LINUX
def test_a_worker_killed_outright_takes_its_stage_along(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    inner = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    outer = (
        "import sys; from bmflow_components.airflow_dags.processes import Supervised\n"
        f"Supervised([sys.executable, '-S', '-c', {inner!r}], {{}}, print, 60).run()"
    )
    worker = subprocess.Popen([sys.executable, "-c", outer], env={**ENV, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        end = time.monotonic() + 30
        while not (note.is_file() and note.read_text()) and time.monotonic() < end:
            time.sleep(0.05)
        pid = int(note.read_text())
        worker.send_signal(signal.SIGKILL)
        assert gone(pid)
    finally:
        worker.kill()
        worker.wait()
