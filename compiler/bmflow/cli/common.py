"""What every command shares: parsing, the log lines users know, and errors turned into one paragraph and an exit code."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from bmflow import __version__
from bmflow.errors import BmflowError, InputError

_T = TypeVar("_T")
LOG = logging.getLogger("bmflow")


def parser(prog: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """An option parser with --version and --debug; `epilog` shows examples as they are typed."""
    result = argparse.ArgumentParser(
        prog=prog, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("-V", "--version", action="version", version=f"bmflow {__version__}")
    result.add_argument("--debug", action="store_true", help="keep intermediate files; show a traceback when something fails")
    return result


def main(parse: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int], argv: Sequence[str] | None = None) -> int:
    """Parse, run, and return the exit code: 0 done, 2 bad input, 3 below the bar, 1 anything else, 130 interrupted."""
    options = parse.parse_args(argv)
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # it is read when OpenCV is imported, which comes later; our message says more
    logging.basicConfig(
        stream=sys.stdout, level=logging.INFO, format="%(asctime)s - %(levelname)s : %(message)s", datefmt="%Y/%m/%d %H:%M:%S"
    )
    try:
        return run(options)
    except BmflowError as error:
        return _fail(options, error, f"{parse.prog}: {error}", error.exit_code)
    except KeyboardInterrupt:
        print(f"\n{parse.prog}: interrupted; nothing half-written was left", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception as error:
        text = f"{parse.prog}: internal error, {type(error).__name__}: {error}. This is a defect of bmflow; run again with --debug and report it"
        return _fail(options, error, text, 1)


def _fail(options: argparse.Namespace, error: Exception, text: str, code: int) -> int:
    if options.debug:
        traceback.print_exception(error, file=sys.stderr)
    print(text, file=sys.stderr)
    return code


def comma_list(text: str) -> list[str]:
    """Split a comma-separated option value; spaces around items and empty items are dropped."""
    return [item.strip() for item in text.split(",") if item.strip()]


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """The values of an option that is given as NAME=VALUE, by name.

    Raises:
        InputError: one without a name or a sign.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise InputError(f"{option} {text}: expected NAME=VALUE")
        found[name] = value
    return found


def float_list(text: str) -> list[float]:
    """Comma-separated numbers; argparse reports a ValueError as a usage error."""
    return [float(item) for item in comma_list(text)]


def progress(items: Iterable[_T], total: int, what: str) -> Iterable[_T]:
    """Pass the items on under a progress bar on standard error with the time left; no bar when that is no terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(items, description=what, total=total, console=console, disable=not console.is_terminal)


def status(what: str) -> AbstractContextManager[object]:
    """Show on standard error what a long step is doing, with a moving sign; nothing when that is no terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    return console.status(what) if console.is_terminal else nullcontext()


def int_list(text: str) -> list[int]:
    """Comma-separated whole numbers, brackets allowed."""
    return [int(item) for item in comma_list(text.strip("[]()"))]


def tolerance(text: str) -> tuple[float, float]:
    """`cosine,euclid` lower bounds."""
    values = float_list(text)
    if len(values) != 2:
        raise argparse.ArgumentTypeError(f"expected two numbers such as 0.99,0.90, found {text}")
    return values[0], values[1]
