"""AR: arithmetic element by element, with constants and broadcast strides (instruction notes, 3.5).

Integers are calculated wide, shifted with rounding, then saturated or wrapped to the result type; floats in f32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

import numpy as np

from bmflow.ir.types import DType
from bmflow.numerics.rounding import Rounding, round_real, rshift_round
from bmflow.simulator.instruction import Fields, Run, Work
from bmflow.simulator.memory import Machine
from bmflow.simulator.operand import Local, Shape, load, store


class Op(IntEnum):
    """Operations by code; the S forms saturate, the plain integer forms wrap."""

    MUL = 0
    NOT = 1
    ADD = 2
    SUB = 3
    MAX = 4
    MIN = 5
    AND = 7
    OR = 8
    XOR = 9
    DIV = 12
    CAST = 14
    ADDS = 15
    SUBS = 16
    COPY = 19
    MULS = 20
    ABS = 26
    ABS_SUB = 27


Binary = Callable[[np.ndarray, np.ndarray], np.ndarray]
UNARY = (Op.NOT, Op.CAST, Op.COPY, Op.ABS)
SHIFTED = (Op.MUL, Op.ADD, Op.SUB, Op.ADDS, Op.SUBS, Op.MULS)
SATURATING = (Op.ADDS, Op.SUBS, Op.MULS, Op.CAST)
BITWISE = (Op.NOT, Op.AND, Op.OR, Op.XOR)
FUNCTIONS: dict[Op, Binary] = {
    Op.MUL: np.multiply, Op.MULS: np.multiply, Op.ADD: np.add, Op.ADDS: np.add, Op.SUB: np.subtract, Op.SUBS: np.subtract,
    Op.MAX: np.maximum, Op.MIN: np.minimum, Op.AND: np.bitwise_and, Op.OR: np.bitwise_or, Op.XOR: np.bitwise_xor,
    Op.DIV: np.divide,  # unconfirmed: the iterations reach the correctly rounded quotient
    Op.ABS_SUB: lambda a, b: np.abs(a - b),
}  # fmt: skip


def decode_arith(fields: Fields) -> None:
    """Read an AR command."""
    code = fields["tsk_eu_typ"]
    fields.support(code in list(Op), f"operation {fields.instruction.name}")
    op = Op(code)
    shape = fields.shape("res0")
    count = 1 if op in UNARY else 2
    fields.require(fields["tsk_opd_num"] in (count, 3 if op in SHIFTED else count), f"{fields['tsk_opd_num']} operands")
    operands = [_operand(fields, f"opd{k}", shape, fields.dtype(f"opd{k}_prec", fields[f"opd{k}_sign"])) for k in range(count)]
    dtypes = [fields.dtype(f"opd{k}_prec", fields[f"opd{k}_sign"]) for k in range(count)]
    sign = fields["opd2_sign"] if op is Op.CAST else int(any(dtype.signed for dtype in dtypes))
    y_dtype = fields.dtype("res0_prec", sign)
    _check_types(fields, op, dtypes, y_dtype)
    y = fields.local("res0_addr", shape, y_dtype, _strides(fields, "res0"), layout=fields["res0_str"])
    locals_ = [operand for operand in operands if isinstance(operand, Local)]
    lanes = {operand.lane for operand in (*locals_, y)}
    fields.require(len(lanes) == 1, f"operands start in different lanes ({', '.join(map(str, sorted(lanes)))})")
    shift, rounding = _shift(fields, op)
    fields.reads(*locals_)
    fields.writes(y)
    widest = max(dtype.itemsize for dtype in (*dtypes, y_dtype))
    passes = 5 * (fields["opd2_n_str"] + 1) if op is Op.DIV else 1
    fields.instruction.work = Work("vector", fields.vector_steps(shape, widest) * passes)
    fields.instruction.bind = Arith(op, y, tuple(operands), tuple(dtypes), shift, rounding).bind


def _operand(fields: Fields, name: str, shape: Shape, dtype: DType) -> Local | float | int:
    if fields[f"{name}_const"]:
        return fields.constant(f"{name}_addr", dtype)
    return fields.local(f"{name}_addr", shape, dtype, _strides(fields, name), layout=fields[f"{name}_str"])


def _strides(fields: Fields, name: str) -> Shape | None:
    """Explicit strides; None for the layouts that need none."""
    if fields[f"{name}_str"] != 3:
        return None
    return fields[f"{name}_n_str"], fields[f"{name}_c_str"], fields[f"{name}_h_str"], fields[f"{name}_w_str"]


def _check_types(fields: Fields, op: Op, dtypes: list[DType], y: DType) -> None:
    text = f"{op.name.lower()} of {', '.join(dtype.value for dtype in dtypes)} into {y.value}"
    if op is Op.CAST:
        return
    fields.require(len({dtype.is_float for dtype in (*dtypes, y)}) == 1, text)
    if y.is_float:
        fields.support(len({*dtypes, y}) == 1 and op not in BITWISE, text)
        return
    fields.support(op not in (Op.DIV, Op.ABS_SUB), text)
    if op in (Op.MAX, Op.MIN):
        fields.require(len({*dtypes, y}) == 1, f"{text}: the types must be equal")
    elif op in (Op.COPY, Op.ABS, *BITWISE):
        fields.require(len({dtype.itemsize for dtype in (*dtypes, y)}) == 1, text)


def _shift(fields: Fields, op: Op) -> tuple[int, Rounding]:
    """Right shift of an integer result and its rounding, or the rounding of a conversion."""
    if op is Op.CAST:
        return 0, fields.rounding("opd2_n_str")
    if op not in SHIFTED or fields["tsk_opd_num"] < 3:
        return 0, Rounding.HALF_TO_EVEN
    fields.support(bool(fields["opd2_const"]), "a shift per channel")
    return -int(fields.constant("opd2_addr", DType.I8)), fields.rounding("opd2_n_str")


@dataclass(frozen=True)
class Arith:
    """One AR command."""

    op: Op
    y: Local
    operands: tuple[Local | float | int, ...]
    dtypes: tuple[DType, ...]
    rshift: int
    rounding: Rounding

    def bind(self, machine: Machine) -> Run:
        """Prepare the arithmetic."""
        results = self.y.views(machine)
        count = len(results)
        sources = [
            [partial(load, view, dtype) for view in operand.views(machine)] if isinstance(operand, Local) else [partial(_number, operand)] * count
            for operand, dtype in zip(self.operands, self.dtypes, strict=True)
        ]  # fmt: skip
        parts = list(zip(results, zip(*sources, strict=True), strict=True))
        compute = self._compute

        def run() -> None:
            for view, loads in parts:
                values = [one() for one in loads]
                store(view, self.y.dtype, np.broadcast_to(compute(values), view.shape))

        return run

    def _compute(self, values: list[np.ndarray]) -> np.ndarray:
        first = values[0]
        match self.op:
            case Op.COPY:
                return first
            case Op.NOT:
                return np.invert(first)
            case Op.ABS:
                return np.abs(first)
            case Op.CAST:
                return self._cast(first)
        result = FUNCTIONS[self.op](first, values[1])
        if self.y.dtype.is_float:
            return result
        return self._narrow(rshift_round(result, self.rshift, self.rounding) if self.rshift else result)

    def _narrow(self, values: np.ndarray) -> np.ndarray:
        """Saturate; what wraps is cut when it is stored."""
        return np.clip(values, *self.y.dtype.limits) if self.op in SATURATING else values

    def _cast(self, values: np.ndarray) -> np.ndarray:
        """Unconfirmed: conversions to integers saturate, NaN becomes 0; integers become floats to the nearest, ties to even."""
        if self.y.dtype.is_float:
            return values.astype(np.float32)
        if values.dtype == np.int64:
            return np.clip(values, *self.y.dtype.limits)
        rounded = round_real(np.nan_to_num(values, nan=0.0), self.rounding)
        return np.clip(rounded, *self.y.dtype.limits).astype(np.int64)


def _number(value: float | int) -> np.ndarray:
    return np.asarray(value, np.float32 if isinstance(value, float) else np.int64)
