"""The `.mlir` text: generic-form MLIR that `mlir-opt --allow-unregistered-dialect` also reads, locations included."""

from __future__ import annotations

import re
from importlib import import_module
from io import StringIO

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, Builtin, FloatAttr, IntegerAttr, ModuleOp, f64, i64
from xdsl.dialects.func import Func
from xdsl.ir import Attribute
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import DiagnosticException, ParseError, VerifyException

from bmflow.errors import InputError
from bmflow.ir.types import Quant, float_text

_ALIAS = re.compile(r"^(#loc\w*) = (.*)$", re.MULTILINE)
_NESTED = re.compile(r"#loc\w*")
_STRING_OR_COMMENT = re.compile(r'//[^\n]*+|"(?:[^"\\\n\v\f]++|\\(?:["nt\\]|[0-9A-Fa-f]{2}))*+"')


def context() -> Context:
    """A context that knows builtin, func, quant, top and tpu."""
    dialects = import_module("bmflow.dialects")  # by name: the op definitions stand above this room
    result = Context()
    for dialect in (Builtin, Func, Quant, *dialects.DIALECTS):
        result.load_dialect(dialect)
    return result


def parse(source: str, path: str = "<text>") -> ModuleOp:
    """Parse and verify a module.

    Raises:
        InputError: with path, line and column of the first problem.
    """
    _check_strings(source, path)
    try:
        module = Parser(context(), _aliases_first(source), path).parse_module()
        module.verify()
    except (ParseError, DiagnosticException, VerifyException) as error:
        raise InputError(f"{path}: not a module this version reads: {_one_paragraph(error)}") from error
    except (RecursionError, ValueError, AssertionError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{path}: damaged .mlir text ({type(error).__name__}: {error})") from error
    return module


def _check_strings(source: str, path: str) -> None:
    """Refuse a string that does not end on its line: the lexer's own search for its end takes exponential time."""
    rest = _STRING_OR_COMMENT.sub(lambda match: " " * len(match[0]), source)
    at = rest.find('"')
    if at >= 0:
        raise InputError(
            f"{path}: not a module this version reads: line {source.count(chr(10), 0, at) + 1}: a string is not closed or has a bad escape"
        )


def print_module(module: ModuleOp) -> str:
    """Print in generic form with `loc("layer name")` on every op."""
    stream = StringIO()
    _Printer(stream, print_debuginfo=True).print_op(module)
    return stream.getvalue().removeprefix("builtin.") + "\n"


class _Printer(Printer):
    """Prints numbers the way LLVM does: no type on i64 and f64 inside lists, floats that survive the round trip."""

    def print_attribute(self, attribute: Attribute) -> None:
        match attribute:
            case ArrayAttr():
                self.print_string("[")
                self.print_list(attribute.data, self._print_item)
                self.print_string("]")
            case FloatAttr() if attribute.type == f64:
                self.print_string(f"{float_text(attribute.value.data)} : f64")
            case _:
                super().print_attribute(attribute)

    def _print_item(self, attribute: Attribute) -> None:
        match attribute:
            case IntegerAttr() if attribute.type == i64:
                self.print_string(str(attribute.value.data))
            case FloatAttr() if attribute.type == f64:
                self.print_string(float_text(attribute.value.data))
            case _:
                self.print_attribute(attribute)


def _aliases_first(source: str) -> str:
    """Move location aliases, which LLVM prints after their uses, to the front in an order without forward references."""
    aliases: dict[str, str] = dict(_ALIAS.findall(source))
    if not aliases:
        return source
    ordered: list[str] = []
    pending = dict(aliases)
    while pending:
        ready = [n for n, body in pending.items() if not any(r in pending for r in _NESTED.findall(body))]
        if not ready:
            raise InputError(f"location aliases refer to each other in a circle: {', '.join(list(pending)[:5])}")
        ordered += [f"{name} = {pending.pop(name)}" for name in ready]
    return "\n".join(ordered) + "\n" + _ALIAS.sub("", source)


def _one_paragraph(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(line for line in lines if set(line) - set("^~ |"))[:500]
