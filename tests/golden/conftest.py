"""Compare a text with a stored one; `--update-golden` stores it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Compare = Callable[[str, str], None]


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Compare:
    """Assert that a text equals the file of that name beside the tests."""

    def compare(name: str, text: str) -> None:
        path = Path(__file__).parent / name
        if request.config.getoption("--update-golden"):
            path.write_text(text)
        assert path.is_file(), f"{name} is missing; run with --update-golden and read what it writes"
        assert text == path.read_text()

    return compare
