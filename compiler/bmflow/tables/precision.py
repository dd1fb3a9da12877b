"""The quantize table: the number type of single layers, in the text format users know (`name MODE`), or inline as `a:F16,b:INT8`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bmflow import artifacts
from bmflow.errors import InputError, nearest_names

MODES = (
    "F32", "F16", "BF16", "INT8", "UINT8", "INT4", "W8F16", "W8BF16", "W4F16", "W4BF16", "W4INT8", "F8", "F8E4M3", "F8E5M2",
    "INT8F16DYN", "INT8BF16DYN", "INT4F16DYN", "INT4BF16DYN", "F8E4M3F16DYN", "F8E4M3BF16DYN", "F4F16DYN", "F4BF16DYN",
)  # fmt: skip
"""Every type the format knows; which of them a processor has is checked when a network is lowered."""
_LINE = re.compile(r"(?P<name>\S.*?)\s+(?P<mode>[A-Za-z]\w*)(?:\s+(?P<group>\d+))?")
_SAMPLES, _CHIP, _WEIGHTS, _COLUMNS = "# sample number: ", "# chip: ", "# weights: ", "# op_name   quantize_mode"
_MIX = re.compile(r"(?P<chip>\S*)(?:\s+mix_mode: (?P<mix>\S+))?")


@dataclass(frozen=True)
class PrecisionTable:
    """Modes (upper case) by layer name, why each was chosen, and the search they came from.

    `reasons` become comment lines in front of the layers they explain, such as `# pattern layers`. `mix_mode` is the float
    type of the search, `weights` the digest of the weights that the modes were found with, empty where these play no part. The text
    carries no time, so that the same data gives the same bytes.
    """

    modes: Mapping[str, str]
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])
    chip: str = ""
    mix_mode: str = ""
    samples: int = 0
    weights: str = ""

    def text(self) -> str:
        """The file's content."""
        return "\n".join((*self._header(), *self._body())) + "\n"

    def _header(self) -> Iterator[str]:
        if self.samples:
            yield f"{_SAMPLES}{self.samples}"
        if self.chip:
            yield _CHIP + self.chip + (f"  mix_mode: {self.mix_mode}" if self.mix_mode else "")
        if self.weights:
            yield _WEIGHTS + self.weights
        for mode, count in Counter(self.modes.values()).items():
            yield f"# number of {mode} layer: {count}"
        yield "###"
        yield _COLUMNS

    def _body(self) -> Iterator[str]:
        last = ""
        for name, mode in self.modes.items():
            reason = self.reasons.get(name, "")
            if reason != last:
                yield f"# {reason}".rstrip()
            yield f"{name} {mode}"
            last = reason

    def save(self, path: str | Path) -> None:
        """Write the file atomically.

        Raises:
            InputError: the folder cannot be written to.
        """
        artifacts.write_text(path, self.text())

    @classmethod
    def load(cls, source: str | Path) -> PrecisionTable:
        """Read a file, or an inline list `layer:MODE,layer:MODE` where no such file exists.

        Raises:
            InputError: missing, not text, or malformed; the message names the line.
        """
        if ":" in str(source) and not Path(source).is_file():
            lines = [" ".join(item.rpartition(":")[::2]) for item in str(source).split(",")]
            return cls.parse("\n".join(lines), "the inline quantize table")
        try:
            text = Path(source).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{source}: cannot be read as a quantize table ({error}); give a file with lines `layer MODE`, or `layer:MODE,layer:MODE`"
            ) from error
        return cls.parse(text, str(source))

    @classmethod
    def parse(cls, text: str, where: str = "<text>") -> PrecisionTable:
        """Read the content of a file; of two lines for one layer the last one counts. `where` begins the messages.

        Raises:
            InputError: a malformed line or an unknown mode.
        """
        modes: dict[str, str] = {}
        reasons: dict[str, str] = {}
        header: dict[str, str] = {}
        reason, in_body = "", False
        for number, line in enumerate(map(str.strip, text.splitlines()), 1):
            if line.startswith("#"):
                in_body = in_body or line.startswith("# op_name")
                header |= {key: line[len(key) :].strip() for key in (_SAMPLES, _CHIP, _WEIGHTS) if not in_body and line.startswith(key)}
                reason = line.lstrip("#").strip() if in_body and not line.startswith("# op_name") else ""
            elif line:
                name, mode = _read_line(line, f"{where}, line {number}")
                modes[name] = mode
                reasons.pop(name, None)
                if reason:
                    reasons[name] = reason
        samples, chip = header.get(_SAMPLES, ""), _MIX.match(header.get(_CHIP, ""))
        assert chip is not None, "the pattern takes any text"
        return cls(modes, reasons, chip["chip"], chip["mix"] or "", int(samples) if samples.isdigit() else 0, header.get(_WEIGHTS, ""))


def _read_line(line: str, at: str) -> tuple[str, str]:
    """Layer name and mode; the group size of a W4 or W8 mode is checked but not kept, since no processor here has those modes."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise InputError(f"{at}: expected `layer MODE`, found `{line}`")
    mode = match["mode"].upper()
    if mode not in MODES:
        hint = nearest_names(mode, MODES)
        raise InputError(
            f"{at}: {match['name']} is to run in {match['mode']}, which is no known type; {hint or 'use F32, F16, BF16 or INT8'}"
        )
    return match["name"], mode
