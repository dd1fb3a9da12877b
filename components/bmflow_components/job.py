"""What a step sees of the process it runs in, and what it hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bmflow.errors import InputError

from bmflow_components.ports import Stage, Value


@dataclass(frozen=True)
class Job:
    """One run of a stage, on local files; the current folder is a temporary one.

    Attributes:
        inputs: files by port, seen under the suffix that the port declares.
        outputs: where each output is to be written; it appears in its place only when the step ends well.
        scratch: folder that is kept for the next try when a stage that resumes is killed.
        origin: folder the process was started in.
        key: names the work: stage, tool, parameters, inputs.
        digests: of the inputs, in the order of the files.
    """

    stage: Stage
    inputs: Mapping[str, tuple[Path, ...]]
    outputs: Mapping[str, Path]
    params: Mapping[str, Value]
    scratch: Path
    origin: Path
    key: str = ""
    digests: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    def input(self, name: str) -> Path:
        """The file of an input.

        Raises:
            InputError: it was not given.
        """
        found = self.inputs.get(name)
        if not found:
            raise InputError(f"stage {self.stage.name} needs --in-{name} here: {self.stage.input(name).help}")
        return found[0]

    def optional(self, name: str) -> Path | None:
        """The file of an input, None when it was not given."""
        return next(iter(self.inputs.get(name, ())), None)

    def many(self, name: str) -> tuple[Path, ...]:
        """All files of an input."""
        return self.inputs.get(name, ())

    def output(self, name: str) -> Path:
        """Where to write an output."""
        return self.outputs[name]

    def text(self, name: str) -> str:
        """A parameter as text."""
        return str(self.params[name])

    def whole(self, name: str) -> int:
        """A parameter as whole number."""
        return int(self.params[name])

    def real(self, name: str) -> float:
        """A parameter as number."""
        return float(self.params[name])

    def flag(self, name: str) -> bool:
        """A parameter that is true or false."""
        return bool(self.params[name])


@dataclass(frozen=True)
class Outcome:
    """What a step says beside its outputs.

    Attributes:
        metrics: figures for result.json and the orchestrator's page.
        facts: short texts likewise.
        verdict: not empty: it ran, but a bar was missed (exit 3); outputs are kept, and this is the reason.
    """

    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    verdict: str = ""
