"""From calibration table to ranges, and from a range to scale and zero point (quantization notes, 6.1 and 6.3).

A range belongs to a layer name. An activation is unsigned exactly when its range begins at 0 or above.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bmflow.dialects.top.elementwise import TopGELUOp, TopMulOp, TopReluOp, TopScaledActiveOp, TopSigmoidOp, TopSiLUOp, TopSoftmaxOp
from bmflow.dialects.top.pool import TopMaxPoolOp
from bmflow.dialects.top.shape import TopDepth2SpaceOp, TopPermuteOp, TopReshapeOp, TopSliceOp, TopUpsampleOp
from bmflow.errors import InputError, nearest_names
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.types import DType, Quantization
from bmflow.numerics.fixed_point import half_away
from bmflow.passes.rewrite import producer, users
from bmflow.tables.calibration import CalibrationTable, Range

COPIES = (TopReluOp, TopMaxPoolOp, TopReshapeOp, TopPermuteOp, TopSliceOp, TopUpsampleOp, TopDepth2SpaceOp)
"""Ops whose result has the scale of their input: they move or select values."""
WEIGHT_SCALE_SUFFIX = "_weight"
"""`#weight_scale` lines of a table name `<layer>_weight`."""


@dataclass(frozen=True)
class Interval:
    """low <= x <= high in real units."""

    low: float
    high: float

    @property
    def threshold(self) -> float:
        """Largest magnitude."""
        return max(abs(self.low), abs(self.high))

    @property
    def signed(self) -> bool:
        """Whether negative numbers occur."""
        return self.low < 0


Ranges = dict[str, Interval]


def quantize(interval: Interval, asymmetric: bool) -> Quantization:
    """Storage type, scale and zero point of an 8-bit activation.

    Symmetric: -127..127 or 0..255 span the threshold, zero point 0. Asymmetric: the whole storage range spans low..high; where
    zero would lie outside, the zero point is the end of the storage range and the scale follows from the other end.
    """
    dtype = DType.I8 if interval.signed else DType.U8
    smallest, largest = dtype.limits
    if not asymmetric:
        return Quantization(dtype, interval.threshold / largest)
    low, high = (interval.low, interval.high) if interval.low < interval.high else (min(interval.low, 0.0), max(interval.high, 0.0))
    scale = (high - low) / (largest - smallest)
    zero = smallest - low / scale
    if zero < smallest:
        return Quantization(dtype, high / (largest - smallest), smallest)
    if zero > largest:
        return Quantization(dtype, low / (smallest - largest), largest)
    return Quantization(dtype, scale, half_away(zero))


def import_ranges(module: Module, table: CalibrationTable, asymmetric: bool) -> Ranges:
    """Ranges of all calibrated layers; a layer without a row, or with an empty range, is left out.

    Raises:
        InputError: the table speaks of layers or weights the module does not have.
    """
    _check_names(module, table)
    asymmetric_layers = asymmetric_names(module, table, asymmetric)
    ranges: Ranges = {}
    for op in module.layers():
        found = _interval(op, table.ranges.get(op.layer_name), op.layer_name in asymmetric_layers)
        if found.threshold > 0:
            ranges[op.layer_name] = found
    return ranges


def asymmetric_names(module: Module, table: CalibrationTable | None, asymmetric: bool) -> frozenset[str]:
    """Layers whose result has a zero point: all of them, or the SiLUs and GELUs that the table's `#asym_op` block lists, and copies of those.

    The block also lists the convolutions and matrix products that read those activations; they need nothing, a zero point is part of
    the type they read.
    """
    if asymmetric:
        return frozenset(op.layer_name for op in module.layers())
    listed = set(table.asym_ops) if table else set[str]()
    found: set[str] = set()
    for op in module.layers():
        if (isinstance(op, TopSiLUOp | TopGELUOp | TopScaledActiveOp) and op.layer_name in listed) or (
            isinstance(op, COPIES) and layer_name(op.operands[0]) in found
        ):
            found.add(op.layer_name)
    return frozenset(found)


def _interval(op: LayerOp, row: Range | None, asymmetric: bool) -> Interval:
    if feeds_scaled_active(op):
        return Interval(-1.0, 1.0)
    if isinstance(op, TopSigmoidOp | TopSoftmaxOp) or (isinstance(op, TopScaledActiveOp) and op["mode"] == "SIGMOID"):
        return Interval(0.0, 1.0)
    if row is None:
        return Interval(0.0, 0.0)
    symmetric_low = -row.threshold if row.low < 0 else 0.0
    if isinstance(op, TopMulOp):
        low, high = (0.0 if _never_negative(op) else symmetric_low), row.threshold
    else:
        low, high = (row.low, row.high) if asymmetric else (symmetric_low, row.threshold)
    return Interval(0.0, max(high, 0.0)) if op.settings().get("do_relu") else Interval(low, high)


def feeds_scaled_active(op: LayerOp) -> bool:
    """Whether the result is the argument of a ScaledActive, which weight equalization has scaled to -1..1 channel by channel."""
    readers = users(op.results[0])
    return bool(readers) and all(isinstance(reader, TopScaledActiveOp) for reader in readers)


def _never_negative(op: TopMulOp) -> bool:
    """A square, or a product of results of Sigmoid and Relu."""
    square = len(op.operands) == 2 and op.operands[0] is op.operands[1]
    return square or all(isinstance(producer(value), TopSigmoidOp | TopReluOp) for value in op.operands)


def _check_names(module: Module, table: CalibrationTable) -> None:
    layers = [op.layer_name for op in module.layers()]
    require_known([*table.ranges, *table.asym_ops], layers, "the calibration table", f"calibrate {module.name} again")
    weights = [name + WEIGHT_SCALE_SUFFIX for name in layers]
    require_known(table.weight_scales, weights, "the #weight_scale block", "name them <layer>_weight")


def require_known(names: Iterable[str], known: Sequence[str], where: str, advice: str) -> None:
    """Refuse names that the module does not have.

    Raises:
        InputError: naming them and what they resemble.
    """
    have = set(known)
    unknown = [name for name in names if name not in have]
    if unknown:
        hints = [f"{name} ({nearest_names(name, known)})" if nearest_names(name, known) else name for name in unknown[:5]]
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise InputError(f"{where}: no such layer in this network: {', '.join(hints)}{more}; {advice}")
