"""A stage with a step that does what it is told, run by the real process contract: `python toy_stage.py toy --in-text ...`.

Every run of the step appends `start MODE TAG TIME` and `end MODE TAG TIME` to the file that TOY_LOG names.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import time
from pathlib import Path
from types import ModuleType

from bmflow.errors import CompileError, InputError
from bmflow_components import cache, contracts, pipelines, process
from bmflow_components.job import Job, Outcome
from bmflow_components.ports import Kind, Param, Port, Stage

TOY = Stage(
    "toy",
    "Do as told.",
    inputs=(
        Port("text", Kind.RECORD, "text.txt", "a text"),
        Port("more", Kind.RECORD, "more.txt", "further texts", many=True, optional=True),
    ),
    outputs=(Port("file", Kind.METRICS, "out.json", "a file"), Port("parts", Kind.RECORD, "parts", "a folder", folder=True)),
    params=(
        Param("mode", "write", "what to do"),
        Param("tag", "", "goes into the outputs"),
        Param("processor", "", "axis"),
        Param("quantize", "", "axis"),
        Param("seconds", 0.0, "to wait before writing", least=0),
    ),
)
NET = Stage("net", "Do as told, with the network.", TOY.inputs, TOY.outputs, TOY.params, network=True, retries=2)
SECRET = "s3cr3t-t0ken-value"


def run(job: Job) -> Outcome:
    """The step."""
    _log("start", job)
    assert job.input("text").suffix == ".txt", "an input is seen under the suffix of its port"
    _MODES[job.text("mode")](job)
    if job.text("mode") == "below":
        write(job)
        return Outcome({"figure": 0.25}, {}, "0.25 is below the bar of 0.5")
    _log("end", job)
    return Outcome({"figure": 0.75}, {"said": job.text("tag")})


def write(job: Job) -> None:
    """Both outputs; the text joins the inputs and the tag."""
    time.sleep(job.real("seconds"))
    text = "|".join(
        [job.input("text").read_text(), *(file.read_text() for file in job.many("more")), job.text("tag"), job.text("quantize")]
    )
    job.output("parts").mkdir()
    for number in range(3):
        (job.output("parts") / f"{number}.txt").write_text(f"{number} {text}")
    job.output("file").write_text(text)


def _hang(job: Job) -> None:
    job.output("parts").mkdir()
    (job.output("parts") / "0.txt").write_text("half")
    time.sleep(60)


def _native(job: Job) -> None:
    """Stay in native code that no signal interrupts."""
    job.output("file").write_text("half")
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2 * 10**8)


def _full(_: Job) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/big")


def _input(_: Job) -> None:
    raise InputError(f"expected a sound file, found one with token={SECRET} in https://me:{SECRET}@host/x")


def _compile(_: Job) -> None:
    raise CompileError("layer conv1: cannot be compiled")


def _bug(_: Job) -> None:
    raise ZeroDivisionError("oops")


def _nothing(_: Job) -> None:
    """Forget the outputs."""


_MODES = {
    "write": write, "hang": _hang, "native": _native, "full": _full, "input": _input, "compile": _compile, "bug": _bug, "nothing": _nothing,
    "below": lambda job: None,
}  # fmt: skip


def _log(what: str, job: Job) -> None:
    with Path(os.environ["TOY_LOG"]).open("a") as log:
        log.write(f"{what} {job.text('mode')} {job.text('tag') or '-'} {time.monotonic()}\n")


def install() -> None:
    """Make the toy stages known to this process, and the tool the same however the sources change while tests run."""
    cache.toolchain = lambda: "toy"  # type: ignore[assignment]
    for stage in (TOY, NET):
        module = ModuleType(f"bmflow_components.steps.{stage.name}")
        module.run = run  # type: ignore[attr-defined]
        sys.modules[module.__name__] = module
        contracts._BY_NAME[stage.name] = stage
        pipelines._STAGES[stage.name] = stage
    contracts.STAGES = (*contracts.STAGES, TOY, NET)


if __name__ == "__main__":
    install()
    raise SystemExit(process.main())
