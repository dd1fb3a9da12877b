"""What stages are made of, as plain values: ports, parameters, resources. The standard library alone; imported in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

Value = str | int | float | bool


class Kind(Enum):
    """What a file or folder holds; the value is shown to people."""

    DATASET = "Dataset"
    DETECTOR = "Detector"
    MODEL = "Model"
    MLIR = "Mlir"
    TABLE = "Table"
    BMODEL = "Bmodel"
    METRICS = "Metrics"
    RECORD = "Record"
    PICTURES = "Pictures"
    REPORT = "Report"


class Image(Enum):
    """Targets of the Containerfile."""

    COMPILER = "compiler"
    TRAIN = "train"


@dataclass(frozen=True)
class Port:
    """A file or folder that goes in or comes out.

    Attributes:
        file: name it has in a run's folder, suffix included; inside a process it is always seen under this name.
        folder: it is a folder.
        optional: an input that may be left out.
        many: an input that takes any number of files, such as one for each candidate.
    """

    name: str
    kind: Kind
    file: str
    help: str
    folder: bool = False
    optional: bool = False
    many: bool = False


@dataclass(frozen=True)
class Param:
    """A setting; its type is that of the default.

    Attributes:
        shared: one setting for all stages of a pipeline that have it, so its name stands without the stage's.
        basic: belongs among the few settings that a form shows first.
        least: smallest number allowed.
    """

    name: str
    default: Value
    help: str
    choices: tuple[str, ...] = ()
    shared: bool = False
    basic: bool = False
    least: float | None = None

    @property
    def type(self) -> type[Value]:
        """str, int, float or bool."""
        return type(self.default)

    def read(self, text: str) -> Value:
        """Turn a text into a value.

        Raises:
            ValueError: of another type, not among the choices, or too small; the message begins with what was expected.
        """
        value = _read(text.strip(), self.type)
        if self.choices and str(value) not in self.choices:
            raise ValueError(f"expected one of {', '.join(self.choices)}, found {text}")
        if self.least is not None and not isinstance(value, str) and not value >= self.least:
            raise ValueError(f"expected {self.least:g} or more, found {text}")
        return value

    @staticmethod
    def text(value: Value) -> str:
        """The value as it stands on a command line."""
        return str(value).lower() if isinstance(value, bool) else str(value)


def _read(text: str, kind: type[Value]) -> Value:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"expected true or false, found {text}")
        return text.lower() == "true"
    words = {int: "a whole number", float: "a number", str: "a text"}
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"expected {words[kind]}, found {text}") from None


@dataclass(frozen=True)
class Resources:
    """What a stage may use: cores, bytes as Kubernetes writes them, seconds before it is stopped. No stage needs a GPU."""

    cpu: str = "1"
    memory: str = "1Gi"
    timeout_s: int = 3600


@dataclass(frozen=True)
class Stage:
    """A process with files in and files out.

    Attributes:
        summary: one sentence in the imperative.
        version: raised when the same inputs give other outputs although no code of this distribution changed.
        retries: further tries after a failure of the machinery (never after bad input, a compile error or a missed bar).
        network: it may open connections; all others run with the network off.
        secrets: environment variables taken from a secret, each optional; never logged.
        env: environment variables that are no secret.
        volatile: what it gives or does depends on the world outside, so it is never skipped as done already.
        outside: its outputs also follow from what is no input, which its step names by `fingerprint`.
        resumes: what it had done when it was killed is kept for the next try.
    """

    name: str
    summary: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    params: tuple[Param, ...]
    image: Image = Image.COMPILER
    resources: Resources = field(default_factory=Resources)
    version: int = 1
    retries: int = 0
    network: bool = False
    secrets: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    volatile: bool = False
    resumes: bool = False
    outside: bool = False

    def input(self, name: str) -> Port:
        """The input of a name; KeyError when there is none."""
        return {port.name: port for port in self.inputs}[name]

    def output(self, name: str) -> Port:
        """The output of a name; KeyError when there is none."""
        return {port.name: port for port in self.outputs}[name]

    def param(self, name: str) -> Param:
        """The parameter of a name; KeyError when there is none."""
        return {param.name: param for param in self.params}[name]

    def defaults(self) -> Mapping[str, Value]:
        """Every parameter at its default."""
        return {param.name: param.default for param in self.params}


RESULT = Port("result", Kind.RECORD, "result.json", "what the process did: status, figures, digests, durations, versions, command")
"""Every stage gives it beside its outputs (`--result`); graphs refer to it as `node.result`."""
