"""The calibration table: the range of every tensor, in the text format users know (`name threshold min max`)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bmflow import __version__, artifacts
from bmflow.errors import InputError

INFINITY = 6.5e4
"""What the text `inf` counts as when read."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_METHOD, _BINS, _SAMPLES, _TUNE, _MLIR = (
    "# quantization threshold calculation method: ", "# histogram number: ", "# sample number: ", "# tune number: ", "# mlir: ",
)  # fmt: skip
_COLUMNS = "# op_name    threshold    min    max"
WEIGHTS = "weights: "
"""How the note with the digest of the module's weights begins."""
_FP8 = ("#tpu-mlir-fp8", "mqbench-fp8", "#weight_scale_fp8")


@dataclass(frozen=True)
class Range:
    """What calibration says of one tensor, real units: `threshold` > 0 bounds |x| (symmetric), `low` <= x <= `high` (asymmetric)."""

    threshold: float
    low: float
    high: float


@dataclass(frozen=True)
class CalibrationTable:
    """Ranges by layer name in graph order, how they were found, and the optional blocks.

    `asym_ops` are quantized asymmetrically; `weight_scales` (from quantization-aware training) replace computed scales per channel.
    `notes` are comment lines without their mark. The text carries no time, so that the same data gives the same bytes.
    """

    ranges: Mapping[str, Range]
    method: str = "kl"
    bins: int = 2048
    samples: int = 0
    tune: int = 0
    mlir: str = ""
    asym_ops: tuple[str, ...] = ()
    weight_scales: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    notes: tuple[str, ...] = ()

    @property
    def weights(self) -> str:
        """Digest of the weights the ranges were found with, from the note that begins `weights: `; empty when there is none."""
        return next((note.removeprefix(WEIGHTS) for note in self.notes if note.startswith(WEIGHTS)), "")

    def text(self) -> str:
        """The file's content."""
        lines = [
            f"# mlir version: bmflow {__version__} cali version 1.0", _MLIR + self.mlir, _METHOD + self.method, f"{_BINS}{self.bins}",
            f"{_SAMPLES}{self.samples}", *(f"# {note}" for note in self.notes), "###", f"{_TUNE}{self.tune}", "###", _COLUMNS,
        ]  # fmt: skip
        lines += [f"{name} {r.threshold:.7f} {r.low:.7f} {r.high:.7f}" for name, r in self.ranges.items()]
        if self.asym_ops:
            lines += ["#asym_op", *self.asym_ops]
        if self.weight_scales:
            lines += ["#weight_scale"]
            lines += [f"{name} {len(scales)} {' '.join(f'{s:.9g}' for s in scales)}" for name, scales in self.weight_scales.items()]
        return "\n".join(lines) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the file atomically.

        Raises:
            InputError: the folder cannot be written to.
        """
        artifacts.write_text(path, self.text())

    @classmethod
    def load(cls, path: str | Path) -> CalibrationTable:
        """Read a file.

        Raises:
            InputError: missing, not text, or malformed; the message names the line.
        """
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as a calibration table ({error}); give the file run_calibration wrote") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, where: str = "<text>") -> CalibrationTable:
        """Read the content of a file; `where` begins the messages.

        Raises:
            InputError: malformed text, a tensor given twice, no tensor at all, or a table for FP8 or INT4 operators.
        """
        reader = _Reader(where)
        for number, line in enumerate(text.splitlines(), 1):
            reader.read(line.strip(), number)
        if not reader.ranges:
            raise InputError(f"{where}: holds no line `name threshold min max`; expected a calibration table, as run_calibration writes it")
        return cls(
            reader.ranges, reader.header.get(_METHOD, ""), reader.count(_BINS), reader.count(_SAMPLES), reader.count(_TUNE),
            reader.header.get(_MLIR, ""), tuple(reader.asym_ops), reader.weight_scales, tuple(reader.notes),
        )  # fmt: skip


class _Reader:
    """Collects a table line by line; a flagged comment such as `#asym_op` begins another block."""

    def __init__(self, where: str):
        self.where = where
        self.ranges: dict[str, Range] = {}
        self.header: dict[str, str] = {}
        self.asym_ops: list[str] = []
        self.weight_scales: dict[str, tuple[float, ...]] = {}
        self.notes: list[str] = []
        self._block: Callable[[str, str], None] = self._range
        self._blocks: dict[str, Callable[[str, str], None]] = {
            "#int4_th": self._int4_range, "#asym_op": self._asym_op, "#int4_op": self._int4_op, "#weight_scale": self._weight_scale,
        }  # fmt: skip

    def read(self, line: str, number: int) -> None:
        """Take one stripped line."""
        at = f"{self.where}, line {number}"
        if line.startswith("#"):
            self._comment(line, at)
        elif line:
            self._block(line, at)

    def count(self, key: str) -> int:
        """A whole number of the header, 0 when absent."""
        text = self.header.get(key, "0")
        return int(text) if text.isdigit() else 0

    def _comment(self, line: str, at: str) -> None:
        if any(flag in line for flag in _FP8):
            raise InputError(f"{at}: an FP8 table; this version quantizes to 8-bit integers and needs a table without that block")
        if line in self._blocks:
            self._block = self._blocks[line]
            return
        for key in (_METHOD, _BINS, _SAMPLES, _TUNE, _MLIR):
            if line.startswith(key.rstrip()):
                self.header[key] = line[len(key) :].strip()
                return
        note = line.lstrip("#").strip()
        if note and not note.startswith(("mlir version:", "genetated time:", "op_name")):
            self.notes.append(note)

    def _range(self, line: str, at: str) -> None:
        name, found = self._four_fields(line, at)
        if name in self.ranges:
            raise InputError(f"{at}: {name} appears twice; keep one of the two lines")
        self.ranges[name] = found

    def _four_fields(self, line: str, at: str) -> tuple[str, Range]:
        fields = line.rsplit(None, 3)
        if len(fields) != 4:
            raise InputError(f"{at}: expected `name threshold min max`, found `{line}`")
        threshold, low, high = (_number(text, at) for text in fields[1:])
        if threshold < 0 or low > high:
            raise InputError(f"{at}: expected threshold >= 0 and min <= max, found `{line}`")
        return fields[0], Range(threshold, low, high)

    def _int4_range(self, line: str, at: str) -> None:
        self._four_fields(line, at)  # 4-bit ranges beside the 8-bit ones; nothing here reads them

    def _asym_op(self, line: str, at: str) -> None:
        self.asym_ops.append(line)

    def _int4_op(self, line: str, at: str) -> None:
        raise InputError(f"{at}: {line} is to run in INT4, which this version cannot; remove the #int4_op block")

    def _weight_scale(self, line: str, at: str) -> None:
        name, *fields = line.split()
        numbers = iter(fields)
        scales = tuple(self._counted(numbers, line, at))
        offsets = list(self._counted(numbers, line, at))
        if not scales or any(offsets) or next(numbers, None) is not None:
            raise InputError(f"{at}: expected `name N s1 ... sN`, scales of symmetric weights, found `{_short(line)}`")
        self.weight_scales[name] = scales

    @staticmethod
    def _counted(numbers: Iterator[str], line: str, at: str) -> Iterator[float]:
        count = next(numbers, "0")
        if not count.isdigit():
            raise InputError(f"{at}: expected a count of numbers, found `{count}`")
        for _ in range(int(count)):
            text = next(numbers, None)
            if text is None:
                raise InputError(f"{at}: fewer numbers than the {count} announced in `{_short(line)}`")
            yield _number(text, at)


def _number(text: str, at: str) -> float:
    if text.lower() in ("inf", "+inf", "-inf"):
        return math.copysign(INFINITY, float(text))
    if not _NUMBER.fullmatch(text):
        raise InputError(f"{at}: expected a number, found `{text}`")
    return float(text)


def _short(line: str) -> str:
    return line if len(line) <= 80 else line[:77] + "..."
