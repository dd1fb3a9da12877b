"""Similarity figures against their formulas, and the verdicts of a comparison."""

from __future__ import annotations

import numpy as np
import pytest
from bmflow.numerics.similarity import Verdict, compare, compare_arrays, cosine, euclid, sqnr

A = np.array([3.0, 4.0], np.float32)


def test_cosine_of_orthogonal_and_parallel_vectors() -> None:
    assert cosine(A, np.array([-4.0, 3.0])) == pytest.approx(0.0)
    assert cosine(A, 7 * A) == pytest.approx(1.0)
    assert cosine(A, np.zeros(2)) == 0.0


def test_euclid_follows_its_formula() -> None:
    # |a-b| = 1, |(a+b)/2| = |(3, 4.5)|
    expected = 1 - 1 / (np.hypot(3, 4.5) + 1e-7)
    assert euclid(A, np.array([3.0, 5.0])) == pytest.approx(expected)


def test_sqnr_is_the_ratio_of_variances_in_decibel() -> None:
    signal = np.array([1.0, -1.0, 1.0, -1.0])
    noise = np.array([0.1, 0.1, -0.1, -0.1])
    assert sqnr(signal, signal - noise) == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("target", "reference", "verdict"),
    [
        (A, A.copy(), Verdict.EQUAL),
        (A, A * (1 + 5e-5), Verdict.CLOSE),
        (A, A * 1.005, Verdict.SIMILAR),
        (A, A * 1.5, Verdict.NOT_SIMILAR),
        (A, np.zeros((3, 1)), Verdict.NOT_MATCH),
        (np.array([1, 2], np.int8), np.array([1, 3], np.int8), Verdict.NOT_EQUAL),
    ],
)  # fmt: skip
def test_verdict_follows_the_first_matching_rule(target: np.ndarray, reference: np.ndarray, verdict: Verdict) -> None:
    assert compare_arrays("x", target, reference).verdict is verdict


def test_comparison_of_nothing_fails_and_says_what_each_side_has() -> None:
    report = compare({"a": A}, {"b": A})
    assert not report.passed
    assert "target has a, reference has b" in report.text()


def test_report_names_the_first_diverging_layer_and_its_neighbours() -> None:
    references = dict.fromkeys("abcde", A)
    report = compare(references | {"c": -A, "d": -A}, references)
    assert report.diverging().startswith("first diverging layer: c;")
    assert all(f"{name} (" in report.diverging() for name in "abcde")


def test_excepted_tensors_are_left_out() -> None:
    assert compare({"a": A, "b": -A}, {"a": A, "b": A}, excepts=["b"]).passed


def test_uint16_arrays_are_read_as_bf16_bits() -> None:
    assert compare_arrays("x", np.array([0x3F80], np.uint16), np.array([1.0], np.float32)).verdict is Verdict.EQUAL


def test_printed_summary_has_the_lines_users_know() -> None:
    text = compare({"y_Relu": A * 1.01}, {"y_Relu": A}).text(2, "t.npz", "r.npz")
    lines = text.splitlines()
    expected = ["1 compared", "1 passed", "  0 equal, 0 close, 1 similar", "0 failed", "  0 not equal, 0 not similar"]
    assert set(expected) | {"npz compare PASSED."} <= set(lines)
    assert "min_similiarity = (1.000000, 0.990050, " in text
