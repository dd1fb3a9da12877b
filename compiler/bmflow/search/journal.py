"""Scores that were found before: within a run, and in a file from which an interrupted search goes on to the same result.

The file has one JSON object a line. The first holds the digest of everything scores depend on (module, weights, samples, options); a file
of another digest is begun anew. Each further line holds a key, which candidates of the same outputs share, the score,
and the seconds it took.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bmflow.errors import InputError
from bmflow.search.evaluator import Evaluator
from bmflow.search.plan import Candidate, Plan
from bmflow.search.scores import Score

LOG = logging.getLogger("bmflow")


class Journal:
    """The file; without a path nothing is remembered beyond the run."""

    def __init__(self, path: str | Path = "", digest: str = ""):
        """Read what is there.

        Raises:
            InputError: the file cannot be written.
        """
        self.path, self.known = str(path), dict[str, tuple[Score, float]]()
        if not self.path:
            return
        lines = _lines(self.path)
        header: dict[str, Any] = {"digest": digest}
        kept = [line for line in lines[1:] if "key" in line]
        if lines and lines[0] != header:
            LOG.info("%s: made for another network, other samples or options; begun anew", path)
            kept = []
        self.known = {str(line["key"]): (Score(*(float(line[name]) for name in _FIELDS)), float(line["seconds"])) for line in kept}
        if kept:
            LOG.info("%s: goes on behind %d scores found before", path, len(kept))
        self._begin([header, *kept])

    def add(self, key: str, score: Score, seconds: float) -> None:
        """Remember a score; it is on the disk when this returns."""
        seconds = round(seconds, 4)  # as the file has it, so that a time budget ends at the same place in a later run
        self.known[key] = (score, seconds)
        if self.path:
            with open(self.path, "a") as stream:
                stream.write(json.dumps({"key": key, **asdict(score), "seconds": seconds}) + "\n")
                stream.flush()
                os.fsync(stream.fileno())

    def _begin(self, lines: list[dict[str, Any]]) -> None:
        """Write what counts, without a last line that was cut short."""
        try:
            Path(self.path).write_text("".join(json.dumps(line) + "\n" for line in lines))
        except OSError as error:
            raise InputError(f"{self.path}: cannot write here ({error.strerror}); choose a writable folder") from error


_FIELDS = ("cosine", "noise", "compatible", "snr_loss")


def _lines(path: str) -> list[dict[str, Any]]:
    try:
        texts = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    lines: list[dict[str, Any]] = []
    for text in texts:
        try:
            line = json.loads(text)
        except ValueError:
            break  # cut short
        if isinstance(line, dict):
            lines.append(line)
    return lines


class Scorer:
    """Scores candidates with an evaluator, each once; `seconds` is what all scores asked for so far took, now or in an earlier run."""

    def __init__(self, evaluator: Evaluator, journal: Journal, what: str = ""):
        """`what` tells scores of one journal apart that were found by different evaluators."""
        self.evaluator, self.seconds, self.journal, self._what = evaluator, 0.0, journal, what
        self._asked: dict[str, Score] = {}
        self._base: Candidate | None = None
        self._is_kept = True

    def start_from(self, candidate: Candidate) -> None:
        """Say which candidate the next ones resemble; its inner values are computed when a score first needs them."""
        self._base, self._is_kept = candidate, False

    def score(self, candidate: Candidate) -> Score:
        """The score of a candidate."""
        plan = self.evaluator.planner.plan(candidate)
        key = hashlib.sha256(f"{self._what} {self.evaluator.identity(plan)}".encode()).hexdigest()[:32]
        if key not in self._asked:
            if key not in self.journal.known:
                self._measure(key, plan)
            self._asked[key], seconds = self.journal.known[key]
            self.seconds += seconds
        return self._asked[key]

    def _measure(self, key: str, plan: Plan) -> None:
        start = time.perf_counter()
        if self._base is not None and not self._is_kept:
            self.evaluator.keep(self._base)
            self._is_kept = True
        score = self.evaluator.score(plan)
        self.journal.add(key, score, time.perf_counter() - start)
