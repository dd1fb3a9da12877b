"""Fixtures of the pipeline's tests."""

from __future__ import annotations

import pytest
from containers import Image, built


@pytest.fixture(scope="session")
def image() -> Image:
    """The compiler's image; minutes the first time."""
    return built()
