"""Plain values as YAML in block style, the same text for the same values; no library needed where things are generated."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

_PLAIN = re.compile(r"^[A-Za-z_/][A-Za-z0-9_./@-]*$")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def dump(value: Mapping[str, object]) -> str:
    """The YAML text of a mapping; keys in their order. A text of several lines is folded: a reader joins them by spaces."""
    return "\n".join(_mapping(value, 0)) + "\n"


def _mapping(value: Mapping[str, object], depth: int) -> Iterator[str]:
    for key, item in value.items():
        yield from _entry(f"{'  ' * depth}{scalar(key)}:", item, depth)


def _entry(head: str, item: object, depth: int) -> Iterator[str]:
    if isinstance(item, Mapping) and item:
        yield head
        yield from _mapping(item, depth + 1)
    elif isinstance(item, Sequence) and not isinstance(item, str) and item:
        yield head
        for element in item:
            yield from _element(element, depth)
    elif isinstance(item, str) and "\n" in item:
        yield f"{head} >-"
        yield from (f"{'  ' * (depth + 1)}{line}" for line in item.split("\n"))
    else:
        yield f"{head} {scalar(item)}"


def _element(element: object, depth: int) -> Iterator[str]:
    """A list's element; lists stand at the depth of their key."""
    mark = f"{'  ' * depth}- "
    if isinstance(element, Mapping) and element:
        lines = list(_mapping(element, depth + 1))
        yield mark + lines[0].lstrip()
        yield from lines[1:]
    else:
        yield mark + scalar(element)


def scalar(value: object) -> str:
    """A value on one line: plain words as they are, all other texts quoted as JSON quotes them."""
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, Mapping | list | tuple):
        return "{}" if isinstance(value, Mapping) else "[]"
    text = str(value)
    return text if _PLAIN.match(text) and text.lower() not in _WORDS else json.dumps(text, ensure_ascii=False)
