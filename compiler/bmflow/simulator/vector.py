"""Requantization, look-up, series, and moves between lanes (instruction notes, 3.6 to 3.9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np

from bmflow.ir.types import DType
from bmflow.numerics.rounding import Rounding, rshift_round
from bmflow.simulator.chunks import buffer, split
from bmflow.simulator.instruction import Fields, Run, Work
from bmflow.simulator.memory import Machine
from bmflow.simulator.operand import Local, Shape, line_strides, load, store

REQUANT_INTEGER = 1
REQUANT_PASSES = 3
ITERATIONS = 4
"""Of an inverse square root, so many that the starting value, which no source describes, cannot show any more."""
GATHER = 5
BYTES = 256
TABLE_PER_LANE = 4
TAYLOR, RSQRT = 13, 17
LANE_COPY, LANE_BROADCAST = 2, 3


def decode_requant(fields: Fields) -> None:
    """Read quant.rq1: R = sat(round_shift(A * multiplier, shift) + zero point)."""
    fields.support(fields["tsk_eu_typ"] == REQUANT_INTEGER, f"quantization {fields.instruction.name}")
    shape = fields.shape("res0")
    x_dtype, y_dtype = fields.dtype("opd0_prec", fields["opd0_sign"]), fields.dtype("res0_prec", fields["opd2_sign"])
    fields.require(not x_dtype.is_float and not y_dtype.is_float, f"a requantization of {x_dtype.value} into {y_dtype.value}")
    x, y = fields.local("opd0_addr", shape, x_dtype), fields.local("res0_addr", shape, y_dtype)
    table = _requant_table(fields, shape)
    lanes = {x.lane, y.lane} | ({table.lane} if isinstance(table, Local) else set())
    fields.require(len(lanes) == 1, f"operands start in different lanes ({', '.join(map(str, sorted(lanes)))})")
    fields.reads(x, *([table] if isinstance(table, Local) else []))
    fields.writes(y)
    fields.instruction.work = Work("vector", fields.vector_steps(shape, max(x_dtype.itemsize, y_dtype.itemsize)) * REQUANT_PASSES)
    fields.instruction.operation = Requant(x, y, table, fields.rounding("opd2_n_str", fields["opd2_n_str"] & 7))


def _requant_table(fields: Fields, shape: Shape) -> Local | tuple[int, int, int]:
    """Rows (multiplier, shift, zero point), or one such row for all channels; a negative shift is a right shift."""
    if not fields["opd1_const"]:
        fields.expect(fields["opd1_addr"] % 8 == 0, f"the table at {fields['opd1_addr']:#x} is no multiple of 8 bytes")
        stride = fields.memory.eu_bytes // DType.I32.itemsize
        return fields.local("opd1_addr", (1, shape[1], 1, 3), DType.I32, (0, stride, 3, 1))
    # Unconfirmed: the zero point in bits 8..23, as the chip's own decoder reads it.
    packed = fields["opd2_addr"]
    multiplier, shift, zero = np.array([fields["opd1_addr"], packed << 24 & 0xFFFFFFFF, packed << 8 & 0xFFFFFFFF], np.uint32).view(np.int32)
    return int(multiplier), int(shift) >> 24, int(zero) >> 16


@dataclass(frozen=True)
class Requant:
    """One rq1 command; the product is 64 bits wide (unconfirmed)."""

    x: Local
    y: Local
    table: Local | tuple[int, int, int]
    rounding: Rounding

    def bind(self, machine: Machine) -> Run:
        """Prepare the requantization."""
        parts = self.parts(machine)

        def run() -> None:
            for part in parts:
                for step in part.steps():
                    step()

        return run

    def parts(self, machine: Machine) -> list[RequantPart]:
        """The work on each block of channel rows."""
        xs, ys = self.x.views(machine), self.y.views(machine)
        table = self.table
        rows = table.views(machine) if isinstance(table, Local) else [np.array(table, np.int64).reshape(1, 1, 1, 1, 3)] * len(xs)
        return [RequantPart(machine, x, y, row, self.rounding, self.y.dtype) for x, y, row in zip(xs, ys, rows, strict=True)]


class RequantPart:
    """Requantization of one block of channel rows, chunk by chunk, in 64-bit floats where they give the exact result."""

    def __init__(self, machine: Machine, x: np.ndarray, y: np.ndarray, row: np.ndarray, rounding: Rounding, dtype: DType) -> None:
        self._row, self._rounding, self._bits = row, rounding, 8 * dtype.itemsize
        kinds = (np.float64, np.float64, np.int64, np.int64, np.int64)
        self._numbers = _Numbers(*(np.zeros((*row.shape[:3], 1, 1), kind) for kind in kinds))
        self._fast: list[Run] = []
        self._exact: list[Run] = []
        for cx, cy, factor, offset, *rest in split((x, y, *self._numbers)):
            room = buffer(machine, "requant", cx, np.float64)
            self._fast.append(partial(_requant_floats, cx, cy, factor, offset, room, dtype.limits))
            self._exact.append(partial(_requant_integers, cx, cy, tuple(rest), rounding, dtype.limits))

    def steps(self) -> list[Run]:
        """Read the table as it is now; the work on each chunk.

        64-bit floats are exact when every product that does not saturate anyway, together with one half and the zero point, has at most
        53 bits: results of b bits keep |product * 2^-s| below 2^(b+1), and the sum is a multiple of 2^-s below 2^(b+2).
        """
        numbers, bits = self._numbers, self._bits
        for k, words in enumerate((numbers.multiplier, numbers.shift, numbers.zero)):
            np.copyto(words, self._row[..., k : k + 1])
        shift, zero = numbers.shift, numbers.zero
        if self._rounding is not Rounding.HALF_UP or shift.min() < bits + 2 - 53 or shift.max() > 0 or abs(zero).max() > 1 << bits:
            return self._exact
        np.ldexp(numbers.multiplier.astype(np.float64), shift, out=numbers.factor)
        np.add(zero, 0.5, out=numbers.offset)
        return self._fast


class _Numbers(NamedTuple):
    """One row of the table for each channel, (1, rows, lanes, 1, 1): factor and offset as floats, the three words as integers."""

    factor: np.ndarray
    offset: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray
    zero: np.ndarray


def _requant_floats(
    x: np.ndarray, y: np.ndarray, factor: np.ndarray, offset: np.ndarray, room: np.ndarray, limits: tuple[int, int]
) -> None:  # fmt: skip
    np.multiply(x, factor, out=room)
    np.add(room, offset, out=room)
    np.floor(room, out=room)
    np.clip(room, *limits, out=room)
    np.copyto(y, room, casting="unsafe")


def _requant_integers(x: np.ndarray, y: np.ndarray, numbers: tuple[np.ndarray, ...], rounding: Rounding, limits: tuple[int, int]) -> None:
    multiplier, shift, zero = numbers
    result = rshift_round(x.astype(np.int64) * multiplier, -shift, rounding) + zero
    np.copyto(y, np.clip(result, *limits), casting="unsafe")


def decode_gather(fields: Fields) -> None:
    """Read sg.pe_s_gather_d1coor: R[n,c,0,i] = A[0,c,0,B[n,c,0,i]], indices past the end mean the last entry."""
    fields.support(fields["tsk_eu_typ"] == GATHER, f"operation {fields.instruction.name}")
    fields.support(not fields["opd3_const"], "a gather with an index that skips")
    shape = fields.shape("res0")
    n, c, h, w = shape
    fields.require(
        h == 1 and (fields["opd1_c"], fields["opd1_w"]) == (c, w), f"a result {shape} of {fields['opd1_c']} x {fields['opd1_w']} indices"
    )
    entries = fields["opd0_w"] * fields["opd0_h"]
    fields.require_sizes("the table", (entries,))
    y_dtype, index_dtype = fields.dtype("res0_prec"), fields.dtype("opd1_prec")
    fields.require(index_dtype in (DType.U8, DType.U16), f"indices of type {index_dtype.value}")
    fields.require(fields.dtype("opd0_prec").itemsize == y_dtype.itemsize, "a table of another type than the result")
    y, index = fields.local("res0_addr", shape, y_dtype), fields.local("opd1_addr", shape, index_dtype)
    shared = fields["opd0_str"] == TABLE_PER_LANE
    table = fields.local("opd0_addr", (1, c, 1, entries), y_dtype, (0, 0, 0, 1)) if shared else fields.local(
        "opd0_addr", (1, c, 1, entries), y_dtype, layout=fields["opd0_str"]
    )  # fmt: skip
    fields.expect(table.offset % fields.memory.eu_bytes == 0, f"the table at {fields['opd0_addr']:#x} is not aligned")
    fields.require(y.lane == index.lane == table.lane, f"operands start in different lanes ({y.lane}, {index.lane}, {table.lane})")
    _expect_separate_banks(fields, y, index, table)
    fields.reads(index, table)
    fields.writes(y)
    fields.instruction.work = Work("gather", n * -(-c // fields.memory.lanes) * w)
    fields.instruction.operation = Gather(y, index, table)


def _expect_separate_banks(fields: Fields, *operands: Local) -> None:
    size = fields.memory.bank_bytes
    banks = [
        set(range(min(b.offset for b in blocks) // size, (max(b.end for b in blocks) - 1) // size + 1))
        for blocks in (operand.blocks(fields.memory) for operand in operands)
    ]
    separate = not (banks[0] & banks[1] or banks[0] & banks[2] or banks[1] & banks[2])
    fields.expect(separate, f"result, indices and table share a bank ({', '.join(str(sorted(b)) for b in banks)})")


@dataclass(frozen=True)
class Gather:
    """One look-up; `table` has (1, c, 1, entries) elements, all channels of a lane the same ones where its channel stride is 0."""

    y: Local
    index: Local
    table: Local

    def bind(self, machine: Machine) -> Run:
        """Prepare the look-up."""
        parts = list(zip(self.y.views(machine), self.index.views(machine), self.table.views(machine), strict=True))
        bytes_only = self.table.shape[3] == BYTES and self.index.dtype is DType.U8 and self.y.dtype is DType.U8
        if bytes_only and self.table.strides[1] == 0:
            return _look_up_bytes(parts)
        last = self.table.shape[3] - 1

        def run() -> None:
            for y, index, table in parts:
                chosen = np.minimum(index.astype(np.intp), last)
                y[...] = np.take_along_axis(np.broadcast_to(table, (*y.shape[:4], last + 1)), chosen, axis=4)

        return run


def _look_up_bytes(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Run:
    """Look bytes up in one table per lane; in one go where the tables of all lanes are equal."""
    plan: list[tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]] = []
    for y, index, table in parts:
        images = [(y[k, row, :, 0], index[k, row, :, 0]) for k in range(y.shape[0]) for row in range(y.shape[1])]
        plan.append((table[0, 0, :, 0], images))

    def run() -> None:
        for tables, images in plan:
            shared = (tables == tables[0]).all()
            for y, index in images:
                if shared:
                    cv2.LUT(index, tables[0], y)
                else:
                    for lane, table in enumerate(tables):
                        y[lane] = table[index[lane]]

    return run


def decode_special_function(fields: Fields) -> None:
    """Read sfu.taylor or sfu.rsqrt."""
    kind = fields["tsk_eu_typ"]
    fields.support(kind in (TAYLOR, RSQRT), f"function {fields.instruction.name}")
    shape, dtype = fields.shape("res0"), fields.dtype("opd0_prec", 1)
    fields.require(dtype.is_float and fields.dtype("res0_prec", 1) is dtype, f"{fields.instruction.name} of {dtype.value}")
    x, y = fields.local("opd0_addr", shape, dtype), fields.local("res0_addr", shape, dtype)
    fields.require(x.lane == y.lane, "operands start in different lanes")
    if kind == TAYLOR:
        _decode_series(fields, x, y)
        return
    iterations = fields["opd2_n_str"] + 1
    fields.support(iterations == ITERATIONS, f"a square root of {iterations} iterations")
    fields.reads(x)
    fields.writes(y)
    fields.instruction.work = Work("vector", fields.vector_steps(shape, dtype.itemsize) * iterations)
    fields.instruction.operation = InverseRoot(x, y)


def _decode_series(fields: Fields, x: Local, y: Local) -> None:
    """R = sum of coefficients[k] * x^k."""
    shape, dtype, terms = x.shape, x.dtype, fields["opd1_n"]
    fields.require_sizes("the series", (terms,))
    coefficients = fields.local("opd1_addr", (1, shape[1], 1, terms), dtype, (0, 0, 0, 1))
    fields.require(x.lane == coefficients.lane, "operands start in different lanes")
    fields.reads(x, coefficients)
    fields.writes(y)
    fields.instruction.work = Work("vector", fields.vector_steps(shape, dtype.itemsize) * (2 * terms - 1))
    fields.instruction.operation = Series(x, y, coefficients)


@dataclass(frozen=True)
class Series:
    """One taylor command. Unconfirmed: Horner's rule, every step in f32, one rounding at the end."""

    x: Local
    y: Local
    coefficients: Local

    def bind(self, machine: Machine) -> Run:
        """Prepare the series."""
        dtype = self.x.dtype
        parts = list(zip(self.x.views(machine), self.y.views(machine), self.coefficients.views(machine), strict=True))
        terms = self.coefficients.shape[3]

        def run() -> None:
            for x, y, row in parts:
                values, factors = load(x, dtype), load(row, dtype)
                total = np.broadcast_to(factors[..., terms - 1 :], values.shape).copy()
                for k in reversed(range(terms - 1)):
                    np.multiply(total, values, out=total)
                    np.add(total, factors[..., k : k + 1], out=total)
                store(y, dtype, total)

        return run


@dataclass(frozen=True)
class InverseRoot:
    """One rsqrt command. Unconfirmed: four iterations reach the correctly rounded value."""

    x: Local
    y: Local

    def bind(self, machine: Machine) -> Run:
        """Prepare the function."""
        dtype = self.x.dtype
        parts = list(zip(self.x.views(machine), self.y.views(machine), strict=True))

        def run() -> None:
            for x, y in parts:
                store(y, dtype, (1.0 / np.sqrt(load(x, dtype).astype(np.float64))).astype(np.float32))

        return run


def decode_between_lanes(fields: Fields) -> None:
    """Read TRANS&BC: lane copy, lane broadcast, transposes of c and w."""
    kind = fields["tsk_eu_typ"]
    fields.support(kind <= LANE_BROADCAST, f"operation {fields.instruction.name}")
    n, c, h, w = shape = fields.shape("res0")
    dtype = fields.dtype("res0_prec")
    source: Shape = {LANE_COPY: shape, LANE_BROADCAST: (n, 1, h, w)}.get(kind, (n, w, h, c))
    given = (fields["opd0_c"], fields["opd0_w"])
    fields.require(given == (source[1], source[3]), f"a source of {given[0]} channels and width {given[1]} for a result {shape}")
    fields.support(dtype.itemsize in (1, 2, 4), f"elements of {dtype.value}")
    y, x = fields.local("res0_addr", shape, dtype), _source(fields, kind, source, dtype)
    if kind == LANE_BROADCAST:
        fields.require(y.lane + c <= fields.memory.lanes, f"a broadcast to lanes {y.lane} .. {y.lane + c - 1}")
    else:
        fields.expect(x.offset != y.offset or x.lane != y.lane, "source and result are the same place")
    if kind < LANE_COPY:
        zero = x if kind == 0 else y
        fields.expect(zero.lane == 0, f"a transpose that starts in lane {zero.lane}, it must start in lane 0")
    fields.reads(x)
    fields.writes(y)
    fields.instruction.work = Work("vector", fields.vector_steps(shape, dtype.itemsize))
    fields.instruction.operation = BetweenLanes(kind, x, y)


def _source(fields: Fields, kind: int, shape: Shape, dtype: DType) -> Local:
    """The source; that of a c-w transpose is line-aligned."""
    if kind:
        return fields.local("opd0_addr", shape, dtype)
    lane = fields["opd0_addr"] // fields.memory.lmem_bytes
    return fields.local("opd0_addr", shape, dtype, line_strides(fields.memory, lane, shape, dtype))


@dataclass(frozen=True)
class BetweenLanes:
    """One TRANS&BC command. Unconfirmed: a w-c transpose has EU-aligned operands on both sides."""

    kind: int
    x: Local
    y: Local

    def bind(self, machine: Machine) -> Run:
        """Prepare the move, by way of a dense copy of the source."""
        dense = machine.scratch("moved", self.x.shape, f"u{self.x.dtype.itemsize}")
        turned = dense if self.kind >= LANE_COPY else dense.transpose(0, 3, 2, 1)
        wide = np.broadcast_to(turned, self.y.shape)
        sources = _as_bits(self.x.pairs(machine, dense))
        results = _as_bits(self.y.pairs(machine, wide))

        def run() -> None:
            for view, part in sources:
                part[...] = view
            for view, part in results:
                view[...] = part

        return run


def _as_bits(pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pairs with the stored elements as unsigned integers."""
    return [(view.view(f"u{view.itemsize}"), part) for view, part in pairs]
