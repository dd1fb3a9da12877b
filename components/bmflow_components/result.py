"""result.json: what a process did, for the orchestrator, the next run of the same stage, and the report."""

from __future__ import annotations

import json
import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

from bmflow_components.ports import Value

SCHEMA = 1
STATUSES = ("done", "below_bar", "bad_input", "failed", "terminated")
_TOOLS = ("bmflow", "numpy", "onnx", "onnxruntime", "opencv-python-headless", "pycocotools", "xdsl", "torch", "mlflow", "dvc")


@dataclass(frozen=True)
class Item:
    """A file or folder that went in or came out."""

    path: str
    digest: str
    bytes: int


@dataclass(frozen=True)
class Result:
    """What happened.

    Attributes:
        status: one of STATUSES; `below_bar` keeps its outputs.
        error: one paragraph: where, what was expected, what was found, what to do.
        retryable: the failure is one of the machinery, so trying again makes sense.
        key: names the work.
        metrics, facts: what the step said.
        seconds: by part: inputs, work, outputs, total.
        command: the command line, secrets hidden.
    """

    stage: str
    stage_version: int
    status: str
    exit_code: int
    error: str = ""
    retryable: bool = False
    key: str = ""
    toolchain: str = ""
    params: Mapping[str, Value] = field(default_factory=dict[str, Value])
    inputs: Mapping[str, Sequence[Item]] = field(default_factory=dict[str, Sequence[Item]])
    outputs: Mapping[str, Item] = field(default_factory=dict[str, Item])
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    started: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    peak_bytes: int = 0
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    command: Sequence[str] = ()

    @property
    def has_outputs(self) -> bool:
        """Whether the stage ended with its outputs in place."""
        return self.status in ("done", "below_bar") and bool(self.outputs)

    def json(self) -> str:
        """The file's text."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    @staticmethod
    def parse(text: str) -> Result | None:
        """Read a file's text; None when it is damaged or of another schema, which means that nothing is known."""
        try:
            data: dict[str, Any] = json.loads(text)
            if data.pop("schema") != SCHEMA:
                return None
            data["inputs"] = {port: [Item(**item) for item in found] for port, found in data["inputs"].items()}
            data["outputs"] = {port: Item(**item) for port, item in data["outputs"].items()}
            return Result(**data)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def versions() -> dict[str, str]:
    """Versions of Python and of the tools that are installed and loaded."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in _TOOLS:
        module = {"opencv-python-headless": "cv2"}.get(name, name)
        if module in sys.modules:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
    return found


def peak_bytes() -> int:
    """Most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
