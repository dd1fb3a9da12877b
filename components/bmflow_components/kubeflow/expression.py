"""Conditions of compiled pipelines: comparisons of parameters and constants, joined by `&&`, `||` and `!`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from bmflow.errors import InputError

Value = str | float | bool
_TOKEN = re.compile(
    r"\s*(?:(?P<word>true|false)\b|(?P<param>inputs\.parameter_values\['[^']+'\])|(?P<text>'[^']*'|\"[^\"]*\")|(?P<number>-?\d+(?:\.\d+)?)"
    r"|(?P<sign>&&|\|\||==|!=|<=|>=|<|>|!|\(|\)))"
)
_COMPARE: Mapping[str, Callable[[Value, Value], bool]] = {
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b,
    "<": lambda a, b: float(a) < float(b), "<=": lambda a, b: float(a) <= float(b),
    ">": lambda a, b: float(a) > float(b), ">=": lambda a, b: float(a) >= float(b),
}  # fmt: skip


def holds(text: str, values: Mapping[str, Value]) -> bool:
    """Whether a condition holds for the values of parameters.

    Raises:
        InputError: not of this form, or of a parameter that there is none of.
    """
    return _Reader(text, values).whole()


class _Reader:
    """Reads from the loosest to the tightest: or, and, not, comparison."""

    def __init__(self, text: str, values: Mapping[str, Value]) -> None:
        self._text = text
        self._values = values
        self._tokens = self._split(text)
        self._at = 0

    def _split(self, text: str) -> Sequence[str]:
        found: list[str] = []
        at = 0
        while at < len(text.rstrip()):
            match = _TOKEN.match(text, at)
            if not match:
                raise self._wrong(text[at:])
            found.append(match.group().strip())
            at = match.end()
        return found

    def _wrong(self, found: str) -> InputError:
        return InputError(f"condition {self._text}: expected comparisons joined by && and ||, found {found or 'its end'}")

    def whole(self) -> bool:
        value = self._any()
        if self._at < len(self._tokens):
            raise self._wrong(self._tokens[self._at])
        return bool(value)

    def _next(self, *signs: str) -> str:
        """The next token if it is one of these, and go past it."""
        if self._at < len(self._tokens) and self._tokens[self._at] in signs:
            self._at += 1
            return self._tokens[self._at - 1]
        return ""

    def _any(self) -> Value:
        value = self._all()
        while self._next("||"):
            other = self._all()
            value = bool(value) or bool(other)
        return value

    def _all(self) -> Value:
        value = self._not()
        while self._next("&&"):
            other = self._not()
            value = bool(value) and bool(other)
        return value

    def _not(self) -> Value:
        if self._next("!"):
            return not self._not()
        value = self._one()
        sign = self._next(*_COMPARE)
        return _COMPARE[sign](value, self._one()) if sign else value

    def _one(self) -> Value:
        if self._next("("):
            value = self._any()
            if not self._next(")"):
                raise self._wrong(" ".join(self._tokens[self._at :]))
            return value
        if self._at == len(self._tokens):
            raise self._wrong("")
        self._at += 1
        return self._read(self._tokens[self._at - 1])

    def _read(self, token: str) -> Value:
        if token in ("true", "false"):
            return token == "true"
        if token.startswith("inputs."):
            name = token.split("'")[1]
            if name not in self._values:
                raise InputError(f"condition {self._text}: there is no parameter {name}")
            return self._values[name]
        if token[0] in "'\"":
            return token[1:-1]
        if token[0].isdigit() or token[0] == "-":
            return float(token)
        raise self._wrong(token)
