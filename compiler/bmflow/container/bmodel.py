"""A program as a bmodel file, and a bmodel file as what a simulator needs.

`write` packs one compiled network, `write_model` any number of nets and stages, `read` gives them back. Stages with host layers,
several cores or dynamic shapes are refused by `read`; the tools that list, cut and join files (`container.edit`) take those too.
"""

from __future__ import annotations

import os
import time as clock

from bmflow import __version__
from bmflow.container import image
from bmflow.container.model import Bmodel, CommandGroup, Net, Stage
from bmflow.container.pack import model_table, stage_of
from bmflow.container.unpack import bmodel_of
from bmflow.errors import InputError
from bmflow.isa.program import Program

__all__ = ["Bmodel", "CommandGroup", "Net", "Stage", "creation_time", "read", "write", "write_model"]

VERSION = f"2.2+bmflow-{__version__}"
"""Format version, and who wrote the file."""


def write(program: Program, time: str | None = None) -> bytes:
    """The file of one network; the same program and time give the same bytes.

    Args:
        time: creation time as C's ctime writes it, newline included; None takes `creation_time()`.
    Raises:
        CompileError: a command cannot be encoded.
    """
    net = Net(program.name, (stage_of(program),))
    return write_model(Bmodel(VERSION, creation_time() if time is None else time, program.target.chip, (net,)))


def write_model(model: Bmodel) -> bytes:
    """The file of a whole model."""
    return image.store(model_table(model))


def read(data: bytes, path: str = "") -> Bmodel:
    """Read a file; `path` begins every error message.

    Raises:
        InputError: not a bmodel, cut short, damaged, changed after it was written, or made of parts this version cannot run.
    """
    return bmodel_of(image.load(data, path), path or "bmodel")


def creation_time() -> str:
    """Now, as C's ctime writes it; SOURCE_DATE_EPOCH (seconds since 1970, UTC) replaces the clock, for reproducible files.

    Raises:
        InputError: SOURCE_DATE_EPOCH is set but is no number of seconds.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return clock.ctime() + "\n"
    try:
        return clock.asctime(clock.gmtime(int(epoch))) + "\n"
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(f"SOURCE_DATE_EPOCH: expected seconds since 1970, found {epoch!r}; correct or unset it") from error
