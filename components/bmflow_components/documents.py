"""JSON files that stages exchange: written the same for the same content, read with an error that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bmflow import artifacts
from bmflow.errors import InputError

SCHEMA = 1


def write(path: Path, content: dict[str, Any], indent: int | None = 1) -> None:
    """Write a JSON object with the schema's number."""
    artifacts.write_text(path, json.dumps({"schema": SCHEMA, **content}, indent=indent, ensure_ascii=False) + "\n")


def read(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        what: what the file should be, for the message.
    Raises:
        InputError: missing, not JSON, or of another schema.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected {what}, but it cannot be read ({error})") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema", "none") if isinstance(data, dict) else type(data).__name__
        raise InputError(f"{path}: expected {what} of schema {SCHEMA}, found schema {found}; was it made by another version?")
    return data
