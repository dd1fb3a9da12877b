"""The errors bmflow raises on purpose, each with the exit code its command ends with.

A message says where, what was expected, what was found, and what to do next. Anything else that reaches the
command line is a defect of bmflow and is reported as such (exit code 1, traceback with `--debug`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BmflowError(Exception):
    """Base of every expected error; `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(BmflowError):
    """What the user gave (file, option, table, picture) cannot be used; exit code 2."""

    exit_code = 2


class CompileError(BmflowError):
    """The input is sound, but this version cannot compile it; exit code 1."""

    exit_code = 1


class BelowBarError(BmflowError):
    """It ran, but a comparison or an accuracy bar was missed; exit code 3."""

    exit_code = 3


class NumericRangeError(CompileError):
    """A number lies outside the range that a fixed-point form can hold."""


def nearest_names(name: str, known: Iterable[str], count: int = 3) -> str:
    """Say which known names resemble `name`, for the end of an error message.

    Returns:
        `did you mean a, b?`, or an empty text when nothing is close.
    """
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else ""
