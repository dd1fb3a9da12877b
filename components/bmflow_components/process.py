"""The process contract: check, skip what is done, run the step in a temporary folder, publish outputs, write result.json, exit code.

The outputs follow from `key` (stage, tool, parameters, digests of the inputs). A run that finds its outputs intact under the same key
does nothing; one that dies leaves temporary names alone, which the next run clears away.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from bmflow import artifacts
from bmflow.errors import BmflowError, CompileError, InputError

from bmflow_components import cache, command, commit, contracts, uri
from bmflow_components.command import Request
from bmflow_components.job import Job, Outcome
from bmflow_components.ports import RESULT, Port
from bmflow_components.result import Item, Result, peak_bytes, versions
from bmflow_components.terminate import terminator
from bmflow_components.tracking.redact import redact

LOG = logging.getLogger("bmflow")
_STATUS = {contracts.BAD_INPUT: "bad_input", contracts.BELOW_BAR: "below_bar"}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m bmflow_components`; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(command.overview())
        return contracts.DONE if words else contracts.BAD_INPUT
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")  # the same inputs give the same bytes; result.json has the time
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    try:
        request = command.parse(words)
    except InputError as error:
        print(f"{command.PROG}: {error}", file=sys.stderr)
        return contracts.BAD_INPUT
    with contextlib.redirect_stdout(sys.stderr):
        return _attempts(request)


def _attempts(request: Request) -> int:
    """Run it, and again after failures of the machinery; BMFLOW_RETRY_S is the first pause, and each is twice the one before."""
    pause_s = float(os.environ.get("BMFLOW_RETRY_S") or 15)
    left = request.tries - 1
    while True:
        process = Process(request)
        code = process.run()
        if not left or not process.may_retry(code):
            return code
        LOG.warning("%s: %d tries left, the next in %g s", request.stage.name, left, pause_s)
        time.sleep(pause_s)
        left, pause_s = left - 1, pause_s * 2


class Process:
    """One run of a stage."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._stage = request.stage
        self._origin = Path.cwd()
        self._started = time.perf_counter()
        self._remote = uri.is_remote(request.result)
        self._result_file = self._local_result()
        self._work: Path | None = None
        self._result = Result(
            self._stage.name, self._stage.version, "failed", contracts.FAILED, params=_shown(request),
            started=datetime.now(UTC).isoformat(timespec="seconds"), command=[redact(word) for word in request.command],
        )  # fmt: skip

    def _local_result(self) -> Path:
        if not self._remote:
            return uri.local(self._request.result)
        return Path(tempfile.mkdtemp(prefix="bmflow-"), "result.json")

    def run(self) -> int:
        """Do it all; what fails becomes a paragraph on standard error, a status in result.json and an exit code."""
        try:
            with terminator(self._terminated) as self._hold, commit.workshop(self._result_file) as self._work:
                return self._guarded()
        except InputError as error:  # the place of the result itself cannot be used
            print(f"{self._stage.name}: {redact(str(error))}", file=sys.stderr)
            return contracts.BAD_INPUT
        finally:
            os.chdir(self._origin)
            if self._remote:
                shutil.rmtree(self._result_file.parent, ignore_errors=True)

    def may_retry(self, code: int) -> bool:
        """Whether an exit code of `run` was a failure of the machinery."""
        return contracts.may_retry(self._stage, code, self._result.retryable)

    def _guarded(self) -> int:
        try:
            return self._attempt()
        except BmflowError as error:
            self._show_traceback()
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_ROOM:  # no fault of the input, whatever it is called
                return self._fail(str(error), contracts.FAILED, True)
            return self._fail(str(error), error.exit_code, self._is_transient(error))
        except MemoryError:
            return self._fail(f"out of memory; the stage asks for {self._stage.resources.memory}, give it more", contracts.FAILED, True)
        except OSError as error:
            self._show_traceback()
            return self._fail(_disk(error), contracts.FAILED, error.errno in _NO_ROOM)
        except Exception as error:
            self._show_traceback()
            text = f"internal error, {type(error).__name__}: {error}. This is a defect of bmflow; run again with --debug and report it"
            return self._fail(text, contracts.FAILED, False)

    def _is_transient(self, error: BmflowError) -> bool:
        """Whether the failure is one of the machinery; a stage that uses the network fails by it unless it says otherwise."""
        if isinstance(error, CompileError) or error.exit_code != contracts.FAILED:
            return False
        return self._stage.network or bool(getattr(error, "retryable", False))

    def _show_traceback(self) -> None:
        if self._request.debug:
            traceback.print_exc(file=sys.stderr)

    def _attempt(self) -> int:
        start = time.perf_counter()
        job, items = self._job()
        outside = step_of(self._stage.name).fingerprint(job) if self._stage.outside else ""
        digests = {port: tuple(item.digest for item in found) for port, found in items.items()}
        name = cache.key(self._stage, job.params, digests, outside)
        job = replace(job, key=name, digests=digests, scratch=self._result_file.parent / f".{self._stage.name}-{name[:16]}.scratch")
        self._result = replace(self._result, key=name, toolchain=cache.toolchain(), inputs=items)
        self._time("inputs", start)
        if not self._stage.volatile and (done := self._finished(name)):
            return self._skip(done)
        outcome = self._step(step_of(self._stage.name), job)  # loaded only now: it may take longer than looking for finished work
        return self._publish(job, outcome)

    def _job(self) -> tuple[Job, dict[str, list[Item]]]:
        """Local files of the inputs with their digests, and places for the outputs inside the workshop."""
        inputs: dict[str, tuple[Path, ...]] = {}
        items: dict[str, list[Item]] = {}
        for name, paths in self._request.inputs.items():
            files = [self._input(self._stage.input(name), path, number) for number, path in enumerate(paths)]
            items[name] = [Item(redact(path), cache.digest(file), cache.size(file)) for path, file in zip(paths, files, strict=True)]
            inputs[name] = tuple(files)
        outputs: dict[str, Path] = {}
        for port in self._stage.outputs:
            outputs[port.name] = self._folder("out", port.name) / port.file
        return Job(self._stage, inputs, outputs, self._request.params, Path(), self._origin), items

    def _folder(self, *parts: str) -> Path:
        assert self._work is not None
        folder = self._work.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _input(self, port: Port, path: str, number: int) -> Path:
        """The local file of an input, under the suffix that its port declares."""
        place = self._folder("in", port.name, str(number)) / port.file
        if uri.is_remote(path):
            return uri.fetch(path, place)
        file = uri.local(path)
        if not file.exists():
            raise InputError(f"--in-{port.name} {redact(path)}: no such file or folder; expected {port.help}")
        if file.is_dir() != port.folder:
            expected, found = ("a folder", "a file") if port.folder else ("a file", "a folder")
            raise InputError(f"--in-{port.name} {redact(path)}: expected {expected}, found {found}")
        if port.folder or file.suffix == place.suffix:
            return file
        place.symlink_to(file)
        return place

    def _finished(self, name: str) -> Result | None:
        """The result of an earlier run of the same work whose outputs are intact, at their places or in the cache."""
        known = self._read_result()
        if known and known.has_outputs and known.key == name and self._intact(known):
            return known
        return self._from_cache(name) if self._request.cache else None

    def _read_result(self) -> Result | None:
        if self._remote:
            try:
                uri.fetch(self._request.result, self._result_file)
            except InputError:
                return None
        return Result.parse(self._result_file.read_text()) if self._result_file.is_file() else None

    def _intact(self, known: Result) -> bool:
        for name, place in self._request.outputs.items():
            item = known.outputs.get(name)
            if item is None or item.path != place:
                return False
            if uri.is_remote(place):
                if uri.size(place) != item.bytes:
                    return False
            elif not uri.local(place).exists() or cache.digest(uri.local(place)) != item.digest:
                return False
        return True

    def _from_cache(self, name: str) -> Result | None:
        found = cache.Store(Path(self._request.cache)).find(name)
        known = Result.parse((found / "result.json").read_text()) if found else None
        if not found or not known:
            return None
        files = {port: found / port for port in self._request.outputs}
        if any(not file.exists() or cache.digest(file) != known.outputs[port].digest for port, file in files.items()):
            LOG.warning("%s: altered since it was kept; the work is done anew", found)
            return None
        copies = self._folder("cached")
        for port, file in files.items():
            cache.copy(file, copies / port)
        with self._hold:
            self._place({port: copies / port for port in files})
        outputs = {port: replace(item, path=self._request.outputs[port]) for port, item in known.outputs.items()}
        return replace(known, outputs=outputs)

    def _skip(self, done: Result) -> int:
        LOG.info("%s: done already, outputs intact (%s)", self._stage.name, done.key[:12])
        seconds = {**done.seconds, "skipped": round(time.perf_counter() - self._started, 3)}
        self._result = replace(done, command=self._result.command, seconds=seconds, inputs=self._result.inputs)
        return self._finish()

    def _step(self, step: ModuleType, job: Job) -> Outcome:
        start = time.perf_counter()
        os.chdir(self._folder("cwd"))
        if self._stage.resumes:
            job.scratch.mkdir(parents=True, exist_ok=True)
        run: Callable[[Job], Outcome] = step.run
        try:
            outcome = run(job)
        finally:
            os.chdir(self._origin)  # relative places of outputs and of the cache are the caller's
        self._time("work", start)
        if self._stage.resumes:
            shutil.rmtree(job.scratch, ignore_errors=True)
        return outcome

    def _publish(self, job: Job, outcome: Outcome) -> int:
        start = time.perf_counter()
        missing = [name for name, file in job.outputs.items() if not file.exists()]
        if missing:
            raise RuntimeError(f"the step wrote no {', '.join(missing)}")
        items = {name: Item(self._request.outputs[name], cache.digest(file), cache.size(file)) for name, file in job.outputs.items()}
        code = contracts.BELOW_BAR if outcome.verdict else contracts.DONE
        self._result = replace(
            self._result, status="below_bar" if outcome.verdict else "done", exit_code=code, error=redact(outcome.verdict), outputs=items,
            metrics=dict(outcome.metrics), facts={name: redact(text) for name, text in outcome.facts.items()}, versions=versions(),
        )  # fmt: skip
        self._keep(job)
        with self._hold:
            self._place(job.outputs)
            self._time("outputs", start)
            return self._finish()

    def _keep(self, job: Job) -> None:
        """Put the work into the cache; must come before the outputs are moved away."""
        if not self._request.cache or self._stage.volatile:
            return
        text = self._folder("kept") / "result.json"
        text.write_text(self._result.json())
        cache.Store(Path(self._request.cache)).put(self._result.key, {**job.outputs, "result.json": text})

    def _place(self, files: Mapping[str, Path]) -> None:
        """Move finished files to where they were asked for; no result says so until all are there."""
        self._result_file.unlink(missing_ok=True)
        here = {uri.local(place): files[name] for name, place in self._request.outputs.items() if not uri.is_remote(place)}
        for name, place in self._request.outputs.items():
            if uri.is_remote(place):
                uri.put(files[name], place)
        commit.publish(here)

    def _finish(self) -> int:
        """Write result.json last of all, answer the orchestrator, say one line."""
        self._write_result()
        self._request.executor.answer(self._stage, self._result)
        if self._request.copies:
            self._copy_outputs()
            self._copy_result()
        figures = "  ".join(f"{name} {value:.6g}" for name, value in list(self._result.metrics.items())[:6])
        if self._result.error:
            print(f"{self._stage.name}: {self._result.error}", file=sys.stderr)
        LOG.info("%s: %s in %.1f s  %s", self._stage.name, self._result.status, time.perf_counter() - self._started, figures)
        return self._result.exit_code

    def _write_result(self) -> None:
        self._time("total", self._started)
        self._result = replace(self._result, peak_bytes=peak_bytes())
        commit.sweep(self._result_file)
        assert self._work is not None
        self._work.mkdir(exist_ok=True)
        part = self._work / "result.json"
        part.write_text(self._result.json())
        os.replace(part, self._result_file)
        if self._remote:
            uri.put(self._result_file, self._request.result)

    def _copy_outputs(self) -> None:
        """Put copies of the outputs beside each other, under the names that they have in a run's folder."""
        folder, ready = Path(self._request.copies), self._folder("copies")
        files: dict[Path, Path] = {}
        for name, place in self._request.outputs.items():
            file = self._stage.output(name).file
            part = ready / file
            if uri.is_remote(place):
                uri.fetch(place, part)
            else:
                cache.copy(uri.local(place), part)
            files[folder / file] = part
        commit.publish(files)

    def _copy_result(self) -> None:
        """The result beside the copies of the outputs, last of all; its paths are theirs."""
        if not self._request.copies:
            return
        folder = Path(self._request.copies)
        outputs = {name: replace(item, path=str(folder / self._stage.output(name).file)) for name, item in self._result.outputs.items()}
        folder.mkdir(parents=True, exist_ok=True)
        artifacts.write_text(folder / RESULT.file, replace(self._result, outputs=outputs).json())

    def _fail(self, text: str, code: int, retryable: bool) -> int:
        message = redact(text)
        print(f"{self._stage.name}: {message}", file=sys.stderr)
        self._result = replace(
            self._result, status=_STATUS.get(code, "failed"), exit_code=code, error=message, retryable=retryable, outputs={}, versions=versions(),
        )  # fmt: skip
        with contextlib.suppress(OSError, BmflowError):  # a full disk is reported on standard error at least
            self._write_result()
            self._copy_result()
        return code

    def _terminated(self, name: str) -> None:
        """Called in another thread when a signal came: leave nothing behind but the word that it was stopped."""
        text = f"stopped by {name}; no output was written, run it again to go on"
        print(f"{self._stage.name}: {text}", file=sys.stderr)
        self._result = replace(self._result, status="terminated", exit_code=contracts.FAILED, error=text, retryable=True, outputs={})
        if self._work:
            with contextlib.suppress(OSError, BmflowError):
                self._write_result()
                self._copy_result()
            shutil.rmtree(self._work, ignore_errors=True)

    def _time(self, part: str, start: float) -> None:
        self._result = replace(self._result, seconds={**self._result.seconds, part: round(time.perf_counter() - start, 3)})


def step_of(name: str) -> ModuleType:
    """The module of a stage's step.

    Raises:
        CompileError: this version has none.
    """
    try:
        return import_module(f"bmflow_components.steps.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"bmflow_components.steps.{name}":
            raise InputError(f"stage {name} needs {error.name}, which is not installed; install the extras of this stage") from error
        raise CompileError(f"the stage {name} is not available in this version") from error


def _shown(request: Request) -> dict[str, Any]:
    return {name: redact(value) if isinstance(value, str) else value for name, value in request.params.items()}


def _disk(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in _NO_ROOM:
        return f"{where}no room left on the disk ({error.strerror}); free some space and run the stage again"
    return f"{where}{error.strerror or error}; check that the place exists and may be written to"
