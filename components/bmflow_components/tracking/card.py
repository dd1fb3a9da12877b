"""The model card: what a bmodel is for, what it takes, how good it is and where it comes from; Markdown for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from bmflow_components.tracking.redact import redact

SCHEMA = 1
LONGEST = 5000
"""Characters that MLflow keeps of a description."""


@dataclass(frozen=True)
class Card:
    """What the card says.

    Attributes:
        inputs: one text each: name, shape, type.
        preprocess: setting by name, as recorded on the network's input.
        accuracy: (figure, float network, this bmodel).
        digests: SHA-256 by what it is of.
        data: revision and address of the data by use (training, calibration, evaluation).
        limits: what it must not be used for, or what is not known.
        command: how to make the same file again.
    """

    model: str
    chip: str
    quantize: str
    summary: str
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    classes: Sequence[str] = ()
    preprocess: Mapping[str, object] = field(default_factory=dict[str, object])
    accuracy: Sequence[tuple[str, float | None, float | None]] = ()
    size_bytes: int = 0
    estimate_ms: float | None = None
    data: Mapping[str, str] = field(default_factory=dict[str, str])
    digests: Mapping[str, str] = field(default_factory=dict[str, str])
    toolchain: Mapping[str, str] = field(default_factory=dict[str, str])
    limits: Sequence[str] = ()
    licence: str = ""
    command: str = ""

    def json(self) -> str:
        """The card for programs."""
        return redact(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, ensure_ascii=False)) + "\n"

    def markdown(self) -> str:
        """The card for people, short enough for a description in MLflow."""
        parts = [
            f"# {self.model} for {self.chip}, {self.quantize}",
            self.summary,
            _section("Input and output", self._interface()),
            _section("Preprocessing", [f"{name}: `{value}`" for name, value in self.preprocess.items() if value != ""]),
            self._accuracy(),
            _section("Cost", self._cost()),
            _section("Data", [f"{use}: `{where}`" for use, where in self.data.items()]),
            _section("Limits", list(self.limits)),
            _section("Digests", [f"{what}: `{digest}`" for what, digest in self.digests.items()]),
            _section("Made with", [f"{tool} {version}" for tool, version in self.toolchain.items()]),
            f"Licence: {self.licence}" if self.licence else "",
            f"## Make it again\n\n    {self.command}" if self.command else "",
        ]  # fmt: skip
        text = redact("\n\n".join(part for part in parts if part)) + "\n"
        return text if len(text) <= LONGEST else text[: LONGEST - 40].rsplit("\n", 1)[0] + "\n\n(cut; whole in model_card.json)\n"

    def _interface(self) -> list[str]:
        lines = [*(f"takes `{text}`" for text in self.inputs), *(f"gives `{text}`" for text in self.outputs)]
        if not self.classes:
            return lines
        more = f" and {len(self.classes) - 12} more" if len(self.classes) > 12 else ""
        return [*lines, f"finds {len(self.classes)} classes: {', '.join(self.classes[:12])}{more}"]

    def _cost(self) -> list[str]:
        size = [f"{self.size_bytes / 2**20:.2f} MiB"] if self.size_bytes else []
        return size + (
            [f"{self.estimate_ms:.3f} ms for one inference, estimated from assumed rates"] if self.estimate_ms is not None else []
        )

    def _accuracy(self) -> str:
        if not self.accuracy:
            return ""
        rows = [
            f"| {name} | {_number(before)} | {_number(after)} | {_difference(before, after)} |" for name, before, after in self.accuracy
        ]
        return "\n".join(["## Accuracy", "", f"| | float | {self.quantize} | difference |", "|---|---:|---:|---:|", *rows])


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([f"## {title}", "", *(f"- {line}" for line in lines)]) if lines else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _difference(before: float | None, after: float | None) -> str:
    return "-" if before is None or after is None else f"{after - before:+.4f}"
