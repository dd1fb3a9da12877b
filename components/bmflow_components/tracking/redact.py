"""Keep passwords, tokens and keys out of logs, parameters, tags, reports and error messages."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

HIDDEN = "***"
_NAME = r"[\w.-]*(?:secret|passw|credential|api_?key|access_?key|private_?key|authorization|(?<![a-z])token(?!i))[\w.-]*"
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)[^/\s@'\"]+(?=@)")
_ASSIGNED = re.compile(rf"((?:^|[\s?&;,'\"{{(-]){_NAME}['\"]?\s*[=:]\s*['\"]?)([^\s&'\"]+)", re.IGNORECASE)
_OPTION = re.compile(rf"(--{_NAME}\s+)([^\s'\"-][^\s'\"]*)", re.IGNORECASE)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
_SHORTEST = 6
"""Shorter values of secret variables are not searched for: they would hide common words."""


def is_secret_name(name: str) -> bool:
    """Whether a parameter or variable of this name is likely to hold a secret."""
    return _SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """Hide user names and passwords in URLs, values given to secret-looking names, and the values of secret environment variables."""
    for value in _secret_values():
        text = text.replace(value, HIDDEN)
    text = _USER_INFO.sub(HIDDEN, text)
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    return _OPTION.sub(rf"\1{HIDDEN}", _ASSIGNED.sub(rf"\1{HIDDEN}", text))


def redact_items(items: Mapping[str, object]) -> dict[str, str]:
    """Parameters or tags as texts, secrets hidden by name and by content."""
    return {name: HIDDEN if is_secret_name(name) and value else redact(str(value)) for name, value in items.items()}


def _secret_values() -> list[str]:
    values = {
        value
        for name, value in os.environ.items()
        if is_secret_name(name) and len(value) >= _SHORTEST and not name.endswith(("FILE", "PATH", "DIR"))
    }
    return sorted(values, key=len, reverse=True)
