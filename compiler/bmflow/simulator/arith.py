"""AR: arithmetic element by element, with constants and broadcast strides (instruction notes, 3.5).

Integers are calculated wide, shifted with rounding, then saturated or wrapped to the result type; floats in f32 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import partial

import numpy as np

from bmflow.ir.types import DType
from bmflow.numerics.rounding import Rounding, round_real, rshift_round
from bmflow.simulator.chunks import buffer, run_all, split
from bmflow.simulator.instruction import Fields, Run, Work
from bmflow.simulator.memory import Machine
from bmflow.simulator.operand import Local, Shape, constant_array, load, store


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


UNARY = (Op.NOT, Op.CAST, Op.COPY, Op.ABS)
SHIFTED = (Op.MUL, Op.ADD, Op.SUB, Op.ADDS, Op.SUBS, Op.MULS)
SATURATING = (Op.ADDS, Op.SUBS, Op.MULS, Op.CAST)
BITWISE = (Op.NOT, Op.AND, Op.OR, Op.XOR)
UFUNCS: dict[Op, np.ufunc] = {
    Op.MUL: np.multiply, Op.MULS: np.multiply, Op.ADD: np.add, Op.ADDS: np.add, Op.SUB: np.subtract, Op.SUBS: np.subtract,
    Op.MAX: np.maximum, Op.MIN: np.minimum, Op.AND: np.bitwise_and, Op.OR: np.bitwise_or, Op.XOR: np.bitwise_xor,
    Op.DIV: np.divide,  # unconfirmed: the iterations reach the correctly rounded quotient
}  # fmt: skip
CONVERSIONS = (Rounding.HALF_TO_EVEN, Rounding.HALF_AWAY, Rounding.TOWARD_ZERO, Rounding.DOWN, Rounding.UP)
"""Rounding modes between floats and integers (instruction notes, 1.5)."""


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
    fields.instruction.operation = Arith(op, y, tuple(operands), tuple(dtypes), shift, rounding)


def _operand(fields: Fields, name: str, shape: Shape, dtype: DType) -> Local | np.ndarray:
    """An operand in local memory, or one stored element that counts for all."""
    if fields[f"{name}_const"]:
        return constant_array(fields[f"{name}_addr"], dtype)
    return fields.local(f"{name}_addr", shape, dtype, _strides(fields, name), layout=fields[f"{name}_str"])


def _strides(fields: Fields, name: str) -> Shape | None:
    """Explicit strides; None for the layouts that need none."""
    if fields[f"{name}_str"] != 3:
        return None
    return fields[f"{name}_n_str"], fields[f"{name}_c_str"], fields[f"{name}_h_str"], fields[f"{name}_w_str"]


def _check_types(fields: Fields, op: Op, dtypes: list[DType], y: DType) -> None:
    text = f"{op.name.lower()} of {', '.join(dtype.value for dtype in dtypes)} into {y.value}"
    if op is Op.CAST:
        between = y.is_float != dtypes[0].is_float
        fields.expect(
            not between or fields["opd2_n_str"] in CONVERSIONS, f"{text} with rounding mode {fields['opd2_n_str']}, it knows 0 to 4"
        )
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
    """One AR command. A chunk is done in the type it is stored in, or in the narrowest one that gives the same bits as the definition."""

    op: Op
    y: Local
    operands: tuple[Local | np.ndarray, ...]
    dtypes: tuple[DType, ...]
    rshift: int
    rounding: Rounding

    def bind(self, machine: Machine) -> Run:
        """Prepare the arithmetic: the work on each chunk."""
        results = self.y.views(machine)
        sources = [operand.views(machine) if isinstance(operand, Local) else [operand] * len(results) for operand in self.operands]
        parts = zip(results, *sources, strict=True)
        steps = [self._step(machine, chunk[0], chunk[1:]) for part in parts for chunk in split(part)]
        return steps[0] if len(steps) == 1 else partial(run_all, steps)

    def _step(self, machine: Machine, y: np.ndarray, operands: tuple[np.ndarray, ...]) -> Run:
        """The shortest way to do one chunk."""
        if self.op is Op.COPY:
            return partial(np.copyto, y, operands[0], casting="unsafe")
        if self.op is Op.CAST:
            return self._cast_step(machine, y, operands[0])
        same = len({*self.dtypes, self.y.dtype}) == 1 and self.rshift == 0
        if same and self.op in UFUNCS and (self.y.dtype is DType.F32 or self.op in (Op.ADD, Op.SUB, Op.MUL, Op.MAX, Op.MIN)):
            wide = self.y.dtype.is_float and self.y.dtype is not DType.F32
            return partial(self._by_definition, y, operands) if wide else partial(UFUNCS[self.op], *operands, out=y)
        if self._wraps_in_32_bits():
            return partial(self._in_32_bits_wrapping, y, operands, buffer(machine, "arith", y, np.int32))
        if self._fits_32_bits():
            return partial(self._in_32_bits, y, operands, buffer(machine, "arith", y, np.int32))
        if same and self.op in (Op.ADDS, Op.SUBS):
            return partial(self._unless_it_overflows, y, operands)
        return partial(self._by_definition, y, operands)

    def _by_definition(self, y: np.ndarray, operands: tuple[np.ndarray, ...]) -> None:
        values = [load(operand, dtype) for operand, dtype in zip(operands, self.dtypes, strict=True)]
        store(y, self.y.dtype, np.broadcast_to(self._compute(values), y.shape))

    def _fits_32_bits(self) -> bool:
        """Whether an integer sum or product with half a unit of its shift stays below 2^31, and the rounding is a plain one."""
        if (
            self.op not in SHIFTED
            or self.y.dtype.is_float
            or not (0 <= self.rshift < 16 and (self.rshift == 0 or self.rounding is Rounding.HALF_UP))
        ):
            return False
        a, b = (max(-low, high) for low, high in (dtype.limits for dtype in self.dtypes))
        return (a * b if self.op in (Op.MUL, Op.MULS) else a + b) + (1 << 15) < 1 << 31

    def _wraps_in_32_bits(self) -> bool:
        """Whether the low 32 bits are all that matters: results that wrap, without a right shift."""
        return self.op in (Op.ADD, Op.SUB, Op.MUL) and not self.y.dtype.is_float and -32 < self.rshift <= 0

    def _in_32_bits_wrapping(self, y: np.ndarray, operands: tuple[np.ndarray, ...], room: np.ndarray) -> None:
        UFUNCS[self.op](*operands, out=room, dtype=np.int32, casting="unsafe")
        if self.rshift:
            np.left_shift(room, -self.rshift, out=room)
        np.copyto(y, room, casting="unsafe")

    def _in_32_bits(self, y: np.ndarray, operands: tuple[np.ndarray, ...], room: np.ndarray) -> None:
        UFUNCS[self.op](*operands, out=room, dtype=np.int32)
        if self.rshift:
            np.add(room, 1 << (self.rshift - 1), out=room)
            np.right_shift(room, self.rshift, out=room)
        if self.op in SATURATING and self.y.dtype.itemsize < room.itemsize:
            low, high = self.y.dtype.limits
            np.maximum(room, low, out=room)
            np.minimum(room, high, out=room)
        elif self.op in SATURATING and not self.y.dtype.signed:
            np.maximum(room, 0, out=room)
        np.copyto(y, room, casting="unsafe")

    def _unless_it_overflows(self, y: np.ndarray, operands: tuple[np.ndarray, ...]) -> None:
        """Add or subtract in the type itself where the extremes show that nothing saturates."""
        (a_low, a_high), (b_low, b_high) = ((int(operand.min()), int(operand.max())) for operand in operands)
        least, most = (a_low + b_low, a_high + b_high) if self.op is Op.ADDS else (a_low - b_high, a_high - b_low)
        low, high = self.y.dtype.limits
        if low <= least and most <= high:
            UFUNCS[self.op](*operands, out=y)
        else:
            self._by_definition(y, operands)

    def _compute(self, values: list[np.ndarray]) -> np.ndarray:
        first = values[0]
        match self.op:
            case Op.COPY:
                return first
            case Op.NOT:
                return np.invert(first)
            case Op.ABS:
                return np.abs(first)
            case Op.ABS_SUB:
                return np.abs(first - values[1])
            case Op.CAST:
                return self._cast(first)
        result = UFUNCS[self.op](first, values[1])
        if self.y.dtype.is_float:
            return result
        shifted = rshift_round(result, self.rshift, self.rounding) if self.rshift else result
        # What wraps is cut to its low bits when it is stored.
        return np.clip(shifted, *self.y.dtype.limits) if self.op in SATURATING else shifted

    def _cast(self, values: np.ndarray) -> np.ndarray:
        """Unconfirmed: conversions to integers saturate, NaN becomes 0; integers become floats to the nearest, ties to even."""
        if self.y.dtype.is_float:
            return values.astype(np.float32)
        if values.dtype == np.int64:
            return np.clip(values, *self.y.dtype.limits)
        rounded = round_real(np.nan_to_num(values, nan=0.0), self.rounding)
        return np.clip(rounded, *self.y.dtype.limits).astype(np.int64)

    def _cast_step(self, machine: Machine, y: np.ndarray, x: np.ndarray) -> Run:
        [source], target = self.dtypes, self.y.dtype
        if DType.BF16 not in (source, target) and target.is_float and (source.is_float or source.itemsize <= 2 or target is DType.F32):
            return partial(np.copyto, y, x, casting="unsafe")
        if source in (DType.F32, DType.F16) and not target.is_float and self.rounding in CONVERSIONS:
            return partial(
                self._cast_to_integers, y, x, buffer(machine, "cast", y, np.float64), buffer(machine, "cast from", y, np.float64)
            )
        return partial(self._by_definition, y, (x,))

    def _cast_to_integers(self, y: np.ndarray, x: np.ndarray, room: np.ndarray, spare: np.ndarray) -> None:
        """In 64-bit floats, where |x| + 0.5 is exact for every f32 number but the smallest, which stay below 1."""
        np.copyto(room, x)
        match self.rounding:
            case Rounding.HALF_AWAY:
                np.copyto(spare, room)
                np.abs(room, out=room)
                np.add(room, 0.5, out=room)
                np.floor(room, out=room)
                np.copysign(room, spare, out=room)
            case Rounding.HALF_TO_EVEN:
                np.rint(room, out=room)
            case Rounding.TOWARD_ZERO:
                np.trunc(room, out=room)
            case Rounding.DOWN:
                np.floor(room, out=room)
            case _:
                np.ceil(room, out=room)
        if np.isnan(room.sum()):  # also for infinities of both signs
            return self._by_definition(y, (x,))
        low, high = self.y.dtype.limits
        np.maximum(room, low, out=room)
        np.minimum(room, high, out=room)
        return np.copyto(y, room, casting="unsafe")
