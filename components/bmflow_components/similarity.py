"""Comparisons of tensors as JSON, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bmflow.cli import common
from bmflow.errors import InputError
from bmflow.numerics.similarity import Report, TensorComparison


def rows(report: Report, about: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """One row a layer, in network order.

    Args:
        about: op and number type (`op`, `mode`) by layer name.
    """
    return [{"name": tensor.name, **about.get(tensor.name, {}), **_figures(tensor)} for tensor in report.tensors]


def _figures(tensor: TensorComparison) -> dict[str, Any]:
    sqnr = round(tensor.sqnr, 4) if math.isfinite(tensor.sqnr) else None
    return {
        "verdict": tensor.verdict.value, "passed": tensor.verdict.passed, "cosine": round(tensor.cosine, 7), "euclid": round(tensor.euclid, 7),
        "sqnr_db": sqnr,
    }  # fmt: skip


def summary(what: str, report: Report, tolerance: tuple[float, float]) -> dict[str, Any]:
    """The verdict of a comparison and its smallest figures."""
    cosine, euclid, sqnr = report.minimum()
    return {
        "what": what, "passed": report.passed, "compared": len(report.tensors), "failed": len(report.failures), "tolerance": list(tolerance),
        "lowest_cosine": round(cosine, 7), "lowest_euclid": round(euclid, 7), "lowest_sqnr_db": round(sqnr, 4) if math.isfinite(sqnr) else None,
    }  # fmt: skip


def bounds(text: str, name: str) -> tuple[float, float]:
    """Two lower bounds, cosine and Euclidean.

    Raises:
        InputError: not two numbers.
    """
    try:
        cosine, euclid = common.float_list(text)
    except ValueError as error:
        raise InputError(f"--{name} {text}: expected two numbers such as 0.99,0.90") from error
    return cosine, euclid
