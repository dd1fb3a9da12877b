"""MM2: matrix products, rows across lanes and columns along w (instruction notes, 3.4).

Unconfirmed: int32 sums wrap; float sums are kept in f32 and rounded once; opd1_c and opd1_w are the sizes of the right operand as stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from bmflow.ir.types import DType
from bmflow.simulator.instruction import Fields, Run, Work
from bmflow.simulator.memory import Machine
from bmflow.simulator.operand import Local, load, store

NN, NT = 4, 5
CUBE_POSITIONS = 4
"""Columns of the result per cube step for 8- and 16-bit operands (instruction notes, 1.2)."""
EXACT = 1 << 24
"""Integers up to this one are exact in f32, and so is any sum of some whose absolute values together stay below it."""


def decode_matmul(fields: Fields) -> None:
    """Read mm2.nn or mm2.nt."""
    kind = fields["tsk_eu_typ"]
    fields.support(kind in (NN, NT), f"operation {fields.instruction.name}")
    fields.support(not (fields["opd0_const"] or fields["opd1_const"]), "a matrix product with a constant operand")
    m, n, stored = fields["res0_c"], fields["res0_w"], (fields["opd1_c"], fields["opd1_w"])
    k, columns = stored if kind == NN else stored[::-1]
    fields.require_sizes("the matrix product", (m, k, n))
    fields.require(columns == n, f"a right operand of {columns} columns for a result of {n}")
    left_dtype, right_dtype = fields.dtype("opd0_prec", fields["opd0_sign"]), fields.dtype("opd0_prec", fields["opd1_sign"])
    y_dtype = fields.dtype("res0_prec", 1)
    integer = not left_dtype.is_float
    fits = y_dtype is DType.I32 and left_dtype.itemsize == 1 if integer else y_dtype in (left_dtype, DType.F32)
    fields.support(fits, f"a matrix product of {left_dtype.value} into {y_dtype.value}")
    fields.support(not integer or bool(fields["opd2_const"] and not fields["opd2_addr"]), "a zero point of the right operand")
    left = fields.local("opd0_addr", (1, m, 1, k), left_dtype)
    right = fields.local("opd1_addr", (1, stored[0], 1, stored[1]), right_dtype)
    y = fields.local("res0_addr", (1, m, 1, n), y_dtype)
    _expect_rules(fields, left, right, y)
    add_old = bool(fields["res_add"])
    fields.reads(left, right, *([y] if add_old else []))
    fields.writes(y)
    fields.instruction.work = _work(fields, m, k, n, left_dtype)
    fields.instruction.operation = MatMul(left, right, y, kind == NT, add_old)


def _expect_rules(fields: Fields, left: Local, right: Local, y: Local) -> None:
    lanes = (left.lane, right.lane, y.lane)
    fields.expect(not any(lanes), f"operands start in lanes {', '.join(map(str, lanes))}, they must start in lane 0")
    if fields["res_add"]:
        fields.expect(fields["tsk_eu_typ"] != NT, "old results are added, which the form nt does not do")
        fields.expect(y.dtype.itemsize == DType.F32.itemsize, f"results of type {y.dtype.value} are added up")


def _work(fields: Fields, m: int, k: int, n: int, dtype: DType) -> Work:
    """Rows fill lanes, summands vectors (performance notes, 1)."""
    positions = CUBE_POSITIONS if dtype.itemsize < DType.F32.itemsize else 1
    vectors = -(-k * dtype.itemsize // fields.memory.eu_bytes)
    return Work("cube", -(-m // fields.memory.lanes) * vectors * -(-n // positions), m * k * n)


@dataclass(frozen=True)
class MatMul:
    """Y = L @ R (+ old Y); `transposed`: R is stored (n, k)."""

    left: Local
    right: Local
    y: Local
    transposed: bool
    add_old: bool

    def bind(self, machine: Machine) -> Run:
        """Prepare the product of dense float32 copies."""
        left, fill_left = _dense(machine, "left", self.left)
        right, fill_right = _dense(machine, "right", self.right)
        right = right.T if self.transposed else right
        multiply, result = self._multiply(machine, left, right)
        results = self.y.pairs(machine, result.reshape(self.y.shape))

        def run() -> None:
            fill_left()
            fill_right()
            multiply()
            for view, part in results:
                if not self.add_old:
                    store(view, self.y.dtype, part)
                elif self.y.dtype is DType.I32:
                    np.add(view, part, out=view)
                else:
                    store(view, self.y.dtype, load(view, self.y.dtype) + part)

        return run

    def _multiply(self, machine: Machine, left: np.ndarray, right: np.ndarray) -> tuple[Run, np.ndarray]:
        """The product as a dense array, float32 or int32, and the call that makes it."""
        m, n = self.y.shape[1], self.y.shape[3]
        total = machine.scratch("product", (m, n), np.float32)
        if self.left.dtype.is_float:
            return partial(_multiply_floats, left, right, total), total
        sums = machine.scratch("sums", (m, n), np.int32)
        step = EXACT // (_largest(self.left.dtype) * _largest(self.right.dtype))
        pieces = [(left[:, first : first + step], right[first : first + step]) for first in range(0, left.shape[1], step)]

        def multiply() -> None:
            for index, (some, other) in enumerate(pieces):
                np.matmul(some, other, out=total)
                if index == 0:
                    np.copyto(sums, total, casting="unsafe")
                else:
                    np.add(sums, total.astype(np.int32), out=sums)

        return multiply, sums


def _multiply_floats(left: np.ndarray, right: np.ndarray, total: np.ndarray) -> None:
    np.matmul(left, right, out=total)


def _dense(machine: Machine, name: str, local: Local) -> tuple[np.ndarray, Run]:
    """A matrix as float32, and the call that fetches it."""
    rows, columns = local.shape[1], local.shape[3]
    dense = machine.scratch(name, (rows, columns), np.float32)
    pairs = local.pairs(machine, dense.reshape(local.shape))

    def fill() -> None:
        for view, part in pairs:
            if local.dtype is DType.BF16:
                part[...] = load(view, local.dtype)
            else:
                np.copyto(part, view, casting="unsafe")

    return dense, fill


def _largest(dtype: DType) -> int:
    low, high = dtype.limits
    return max(-low, high)
