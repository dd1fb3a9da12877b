"""How alike two tensors are, and the comparison of two sets of named tensors that every validation step uses.

Definitions: cosine = <a, b> / (|a| |b|); Euclidean similarity = 1 - |a - b| / (|(a + b) / 2| + 1e-7);
SQNR = 10 log10(var(a) / var(a - b)) in dB. A comparison of nothing fails.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Real = NDArray[np.float32]

_CLOSE_ORDERS = (5, 4, 3)
_INFINITY_STAND_IN = 10000.0


class Verdict(Enum):
    """Outcome for one tensor; the value is the word that is printed (spelled as users know it)."""

    EQUAL = "EQUAL"
    CLOSE = "CLOSE"
    SIMILAR = "SIMILAR"
    NOT_SIMILAR = "NOT_SIMLIAR"
    NOT_EQUAL = "NOT_EQUAL"
    NOT_MATCH = "NOT_MATCH"

    @property
    def passed(self) -> bool:
        """Whether the tensor counts as passed."""
        return self in (Verdict.EQUAL, Verdict.CLOSE, Verdict.SIMILAR)


@dataclass(frozen=True)
class Tolerance:
    """Lower bounds that cosine and Euclidean similarity must exceed."""

    cosine: float = 0.99
    euclid: float = 0.99


@dataclass(frozen=True)
class TensorComparison:
    """One tensor's verdict; figures are 1, 1, inf where they were not needed. `extremes` are the largest values of each side."""

    name: str
    verdict: Verdict
    shape: tuple[int, ...]
    dtype: str
    cosine: float = 1.0
    euclid: float = 1.0
    sqnr: float = float("inf")
    close_order: int = 0
    reason: str = ""
    extremes: tuple[tuple[int, float, float], ...] = ()

    def lines(self, verbosity: int) -> list[str]:
        """The printed block of this tensor."""
        mark = "PASSED" if self.verdict.passed else "FAILED"
        lines = [f"[{self.name:<32}] {self.verdict.value:>12} [{mark}]"]
        if verbosity < 1:
            return lines
        lines.append(f"    {self.shape} {self.dtype}")
        if self.reason:
            lines.append(f"    {self.reason}")
        if self.verdict is Verdict.CLOSE:
            lines.append(f"    close order            = {self.close_order}")
        if self.verdict in (Verdict.SIMILAR, Verdict.NOT_SIMILAR):
            lines.append(f"    cosine_similarity      = {self.cosine:.6f}")
            lines.append(f"    euclidean_similarity   = {self.euclid:.6f}")
            lines.append(f"    sqnr_similarity        = {self.sqnr:.6f}")
        if not self.verdict.passed and self.extremes and verbosity >= 2:
            lines.append("    top-k:")
            lines += [f"     idx {index}  target {target:.6g}  ref {reference:.6g}" for index, target, reference in self.extremes]
        return lines


@dataclass(frozen=True)
class Report:
    """Comparison of two sets of tensors, in the order of the reference."""

    tensors: tuple[TensorComparison, ...]
    target_names: tuple[str, ...] = field(repr=False, default=())
    reference_names: tuple[str, ...] = field(repr=False, default=())

    @property
    def failures(self) -> tuple[TensorComparison, ...]:
        """Tensors that did not pass, first in network order first."""
        return tuple(tensor for tensor in self.tensors if not tensor.verdict.passed)

    @property
    def passed(self) -> bool:
        """True when at least one tensor was compared and none failed."""
        return bool(self.tensors) and not self.failures

    def minimum(self) -> tuple[float, float, float]:
        """Smallest cosine, Euclidean similarity and SQNR over the tensors they were computed for, from 1, 1, inf."""
        return (
            min((t.cosine for t in self.tensors), default=1.0),
            min((t.euclid for t in self.tensors), default=1.0),
            min((t.sqnr for t in self.tensors), default=float("inf")),
        )

    def text(self, verbosity: int = 2, target: str = "", reference: str = "") -> str:
        """The whole printed report: blocks, counts, the smallest figures, and the verdict line."""
        count = {verdict: sum(t.verdict is verdict for t in self.tensors) for verdict in Verdict}
        passed = len(self.tensors) - len(self.failures)
        lines = [line for tensor in self.tensors for line in tensor.lines(verbosity)] if verbosity > 0 else []
        lines.append(f"{len(self.tensors)} compared")
        lines.append(f"{passed} passed")
        lines.append(f"  {count[Verdict.EQUAL]} equal, {count[Verdict.CLOSE]} close, {count[Verdict.SIMILAR]} similar")
        lines.append(f"{len(self.failures)} failed")
        not_equal = count[Verdict.NOT_EQUAL] + count[Verdict.NOT_MATCH]
        lines.append(f"  {not_equal} not equal, {count[Verdict.NOT_SIMILAR]} not similar")
        cosine_low, euclid_low, sqnr_low = self.minimum()
        lines.append(f"min_similiarity = ({cosine_low:.6f}, {euclid_low:.6f}, {sqnr_low:.6f})")
        if target:
            lines.append(f"Target    {target}")
        if reference:
            lines.append(f"Reference {reference}")
        lines.append(f"npz compare {'PASSED' if self.passed else 'FAILED'}.")
        if not self.tensors:
            lines.append(self.nothing_in_common())
        return "\n".join(lines)

    def nothing_in_common(self) -> str:
        """One sentence for a comparison of nothing."""
        return (
            f"no name is in both files, so nothing was compared; target has {_some(self.target_names)}, "
            f"reference has {_some(self.reference_names)}"
        )

    def diverging(self) -> str:
        """Name the first layer that fails with the layers around it and their similarity; empty when all passed."""
        if not self.failures:
            return ""
        first = self.tensors.index(self.failures[0])
        around = self.tensors[max(0, first - 2) : first + 3]
        listed = ", ".join(f"{t.name} ({t.cosine:.4f}, {t.euclid:.4f})" for t in around)
        return f"first diverging layer: {self.failures[0].name}; (cosine, euclid) around it: {listed}"


def cosine(a: Array, b: Array) -> float:
    """<a, b> / (|a| |b|) in float64; 0 when either tensor is all zero."""
    x, y = _flat64(a), _flat64(b)
    norm = float(np.linalg.norm(x)) * float(np.linalg.norm(y))
    return float(np.dot(x, y)) / norm if norm > 0 else 0.0


def euclid(a: Array, b: Array) -> float:
    """1 - |a - b| / (|(a + b) / 2| + 1e-7); may be negative; 0 when not finite."""
    x, y = _flat64(a), _flat64(b)
    value = 1 - float(np.linalg.norm(x - y)) / (float(np.linalg.norm((x + y) / 2)) + 1e-7)
    return value if np.isfinite(value) else 0.0


def sqnr(a: Array, b: Array) -> float:
    """10 log10 of the variance of `a` over the variance of the difference, dB; inf when either is 0."""
    x, noise = _flat64(a), _flat64(a) - _flat64(b)
    signal, error = float(np.sum((x - x.mean()) ** 2)), float(np.sum((noise - noise.mean()) ** 2))
    return 10 * float(np.log10(signal / error)) if signal > 0 and error > 0 else float("inf")


def compare_arrays(
    name: str, target: Array, reference: Array, tolerance: Tolerance | None = None, int8_close: bool = False
) -> TensorComparison:
    """Compare one tensor; the reference takes the target's shape where the element counts agree or one can be cropped.

    Args:
        int8_close: let int8 tensors that differ be judged by similarity instead of failing.
    """
    tolerance = tolerance or Tolerance()
    shape, dtype = tuple(target.shape), str(target.dtype)
    fitted = _fit(reference, shape)
    if fitted is None:
        reason = f"shapes do not match: target {shape}, reference {tuple(reference.shape)}"
        return TensorComparison(name, Verdict.NOT_MATCH, shape, dtype, 0.0, 0.0, float("-inf"), reason=reason)
    left, right = _common_type(target, fitted)
    if np.array_equal(left, right):
        return TensorComparison(name, Verdict.EQUAL, shape, dtype)
    if left.dtype == np.int8 and not int8_close:
        return _measure(name, left, right, Verdict.NOT_EQUAL, dtype)
    for order in _CLOSE_ORDERS:
        if np.allclose(left, right, rtol=10.0**-order, atol=1e-8, equal_nan=True):
            return TensorComparison(name, Verdict.CLOSE, shape, dtype, close_order=order)
    figures = _measure(name, left, right, Verdict.SIMILAR, dtype)
    if figures.cosine > tolerance.cosine and figures.euclid > tolerance.euclid:
        return figures
    return _measure(name, left, right, Verdict.NOT_SIMILAR, dtype)


def compare(
    targets: Mapping[str, Array],
    references: Mapping[str, Array],
    tolerance: Tolerance | tuple[float, float] = (0.99, 0.99),
    excepts: Collection[str] = (),
    int8_close: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Compare every tensor whose name is in both sets, in the order of `references`, leaving out `excepts`."""
    bounds = tolerance if isinstance(tolerance, Tolerance) else Tolerance(*tolerance)
    results: list[TensorComparison] = []
    for name, reference in references.items():
        if name not in targets or name in excepts:
            continue
        if progress:
            progress(name)
        results.append(compare_arrays(name, targets[name], reference, bounds, int8_close))
    return Report(tuple(results), tuple(targets), tuple(references))


def _measure(name: str, left: Array, right: Array, verdict: Verdict, dtype: str) -> TensorComparison:
    x, y = _finite(left), _finite(right)
    extremes = _extremes(x, y) if not verdict.passed else ()
    return TensorComparison(name, verdict, tuple(left.shape), dtype, cosine(x, y), euclid(x, y), sqnr(x, y), extremes=extremes)


def _extremes(x: Array, y: Array, count: int = 10) -> tuple[tuple[int, float, float], ...]:
    flat_x, flat_y = _flat64(x), _flat64(y)
    order = np.argsort(-np.abs(flat_x - flat_y), kind="stable")[:count]
    return tuple((int(i), float(flat_x[i]), float(flat_y[i])) for i in order)


def _fit(array: Array, shape: tuple[int, ...]) -> Array | None:
    if array.size == int(np.prod(shape)):
        return array.reshape(shape)
    if array.ndim == len(shape) and all(have >= want for have, want in zip(array.shape, shape, strict=True)):
        return array[tuple(slice(0, want) for want in shape)]
    return None


def _common_type(target: Array, reference: Array) -> tuple[Array, Array]:
    target, reference = _widen_bf16(target), _widen_bf16(reference)
    for kind in (np.int8, np.int32):
        if target.dtype == kind or reference.dtype == kind:
            return target.astype(kind), reference.astype(kind)
    return target.astype(np.float32), reference.astype(np.float32)


def _widen_bf16(array: Array) -> Array:
    return (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array


def _finite(array: Array) -> Real:
    return np.nan_to_num(array.astype(np.float32), nan=0.0, posinf=_INFINITY_STAND_IN, neginf=-_INFINITY_STAND_IN)


def _flat64(array: Array) -> NDArray[np.float64]:
    return array.astype(np.float64).ravel()


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") if names else "no arrays"
