"""PorD: depthwise convolutions and pools, each channel for itself (instruction notes, 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from bmflow.ir.types import DType
from bmflow.numerics.rounding import Rounding, rshift_round
from bmflow.simulator.instruction import Fields, Run, Work
from bmflow.simulator.memory import Machine
from bmflow.simulator.operand import Local, constant, element_type, load, store
from bmflow.simulator.window import Window, fill_extended, read_window

DEPTHWISE, AVERAGE, DEPTHWISE_RELU, MAXIMUM = 0, 1, 2, 4
Reduce = Callable[[np.ndarray], np.ndarray]


def decode_pool(fields: Fields) -> None:
    """Read a PorD command: depthwise (with and without relu), average of floats, maximum."""
    kind = fields["tsk_eu_typ"]
    fields.support(kind in (DEPTHWISE, AVERAGE, DEPTHWISE_RELU, MAXIMUM), f"pool {fields.instruction.name}")
    fields.support(not fields["kernel_rotate"], "a rotated kernel")
    n, c, oh, ow = fields.shape("res0")
    x_dtype = fields.dtype("opd0_prec", fields["opd0_sign"])
    x_shape = (n, c, fields["opd0_h"], fields["opd0_w"])
    fields.require_sizes("operand 0", x_shape)
    window = read_window(fields, x_shape, (n, c, oh, ow), x_dtype)
    x = fields.local("opd0_addr", x_shape, x_dtype)
    w, bias = (_filter(fields, x, window), _bias(fields, x)) if kind in (DEPTHWISE, DEPTHWISE_RELU) else (None, None)
    signed = fields["opd0_sign"] | (fields["opd1_sign"] | fields["opd2_sign"] if w is not None else 0)
    y = fields.local("res0_addr", (n, c, oh, ow), _result_type(fields, kind, x_dtype, signed))
    fields.require(x.lane == y.lane, f"input and result start in different lanes ({x.lane}, {y.lane})")
    pool = Pool(kind, x, y, window, w, bias, *_narrowing(fields, kind))
    fields.reads(x, *(operand for operand in (w, bias) if isinstance(operand, Local)))
    fields.writes(y)
    steps = fields.vector_steps(y.shape, x_dtype.itemsize) * prod(window.kernel)
    fields.instruction.work = Work("vector", steps, prod(y.shape) * prod(window.kernel) if w is not None else 0)
    fields.instruction.operation = pool


def _result_type(fields: Fields, kind: int, x_dtype: DType, signed: int) -> DType:
    relu = kind == DEPTHWISE_RELU and fields["res0_prec"] != 4
    dtype = fields.dtype("res0_prec", 0 if relu else signed)
    same = dtype.is_float == x_dtype.is_float and (dtype is x_dtype or kind != MAXIMUM)
    fields.require(same, f"a pool of {x_dtype.value} into {dtype.value}")
    fields.support(x_dtype.is_float or kind != AVERAGE, "an average of integers")
    fields.support(x_dtype.is_float or x_dtype.itemsize == 1 or kind == MAXIMUM, f"a depthwise convolution of {x_dtype.value}")
    return dtype


def _filter(fields: Fields, x: Local, window: Window) -> Local | float:
    """The compact filter (1, c, kh, kw), or the number all taps are."""
    dtype = element_type(fields["opd0_prec"], fields["opd1_sign"])
    assert dtype is not None, "operand 0 has the same code and was read already"
    if fields["opd1_const"]:
        return constant(fields["opd1_addr"], dtype)
    return _in_lane_of(fields, x, fields.local("opd1_addr", (1, x.shape[1], *window.kernel), dtype, layout=1))


def _bias(fields: Fields, x: Local) -> Local | float:
    dtype = x.dtype if x.dtype.is_float else (DType.I32 if fields["opd2_sign"] else DType.U32)
    if fields["opd2_const"]:
        return constant(fields["opd2_addr"], dtype)
    return _in_lane_of(fields, x, fields.local("opd2_addr", (1, x.shape[1], 1, 1), dtype, layout=1))


def _in_lane_of(fields: Fields, x: Local, operand: Local) -> Local:
    fields.require(operand.lane == x.lane, f"operands start in different lanes ({operand.lane}, {x.lane})")
    return operand


def _narrowing(fields: Fields, kind: int) -> tuple[int, Rounding, float]:
    """Right shift and rounding of an integer result; factor of an average."""
    shift = int(constant(fields["res1_addr"], DType.I8))
    if kind == AVERAGE:
        fields.support(bool(fields["opd1_const"]), "an average with a factor per channel")
        # Unconfirmed: the factor is an f32 constant for every float type.
        return 0, Rounding.HALF_TO_EVEN, float(constant(fields["opd1_addr"], DType.F32))
    return -shift, fields.rounding("opd2_n_str"), 1.0


@dataclass(frozen=True)
class Pool:
    """One PorD command; for integers `rshift` narrows the sum."""

    kind: int
    x: Local
    y: Local
    window: Window
    w: Local | float | None
    bias: Local | float | None
    rshift: int
    rounding: Rounding
    factor: float

    def bind(self, machine: Machine) -> Run:
        """Prepare the pool."""
        if self.kind == MAXIMUM:
            return self._bind_maximum(machine)
        extended, fill = fill_extended(machine, self.x, self.window)
        views, weights, biases = self.y.views(machine), self._parts(machine, self.w), self._parts(machine, self.bias)
        pieces = self.y.pieces(machine.memory)

        def run() -> None:
            fill()
            for view, piece, weight, bias in zip(views, pieces, weights, biases, strict=True):
                part = extended[:, piece.channel : piece.channel + piece.rows * piece.lanes]
                total = self._uniform(part, weight) if weight is None or weight.ndim == 0 else self._weighted(part, weight)
                self._finish(view, total.reshape(view.shape), bias)

        return run

    def _parts(self, machine: Machine, operand: Local | float | None) -> list[np.ndarray | None]:
        """An operand for each piece of the result: an array (1, rows, lanes, h, w), a number, or nothing."""
        count = len(self.y.pieces(machine.memory))
        if isinstance(operand, Local):
            return list(operand.views(machine))
        return [None if operand is None else np.asarray(operand, np.float32 if self.x.dtype.is_float else np.int64)] * count

    def _taps(self, part: np.ndarray) -> list[np.ndarray]:
        """The inputs of each tap, in the order of the filter."""
        (kh, kw), (sy, sx), (dy, dx) = self.window.kernel, self.window.stride, self.window.dilation
        _, _, oh, ow = self.y.shape
        return [
            part[:, :, i * dy : i * dy + (oh - 1) * sy + 1 : sy, j * dx : j * dx + (ow - 1) * sx + 1 : sx]
            for i in range(kh) for j in range(kw)
        ]  # fmt: skip

    def _weighted(self, part: np.ndarray, weight: np.ndarray) -> np.ndarray:
        assert isinstance(self.w, Local)
        values = load(weight, self.w.dtype).astype(part.dtype, copy=False).reshape(part.shape[1], -1)
        total = np.zeros((*part.shape[:2], *self.y.shape[2:]), part.dtype)
        for tap, inputs in enumerate(self._taps(part)):
            total += inputs * values[:, tap, None, None]
        return total

    def _uniform(self, part: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """All taps have one weight: columns first, then rows."""
        total = self._fold(part, np.add)
        return total if weight is None else total * weight.astype(part.dtype)

    def _fold(self, part: np.ndarray, operation: np.ufunc) -> np.ndarray:
        """Reduce each window, along w and then along h."""
        (kh, kw), (sy, sx), (dy, dx) = self.window.kernel, self.window.stride, self.window.dilation
        _, _, oh, ow = self.y.shape
        columns = _reduce([part[..., j * dx : j * dx + (ow - 1) * sx + 1 : sx] for j in range(kw)], operation)
        return _reduce([columns[:, :, i * dy : i * dy + (oh - 1) * sy + 1 : sy] for i in range(kh)], operation)

    def _finish(self, view: np.ndarray, total: np.ndarray, bias: np.ndarray | None) -> None:
        if self.x.dtype.is_float:
            result = total * np.float32(self.factor) if self.kind == AVERAGE else total
            if bias is not None:
                result = result + (load(bias, self.x.dtype) if bias.ndim else bias)
            result = np.maximum(result, 0) if self.kind == DEPTHWISE_RELU else result
        else:
            result = rshift_round(total.astype(np.int64) + (0 if bias is None else bias.astype(np.int64)), self.rshift, self.rounding)
            low, high = self.y.dtype.limits
            result = np.clip(result, 0 if self.kind == DEPTHWISE_RELU else low, high)
        store(view, self.y.dtype, result)

    def _bind_maximum(self, machine: Machine) -> Run:
        """Unconfirmed: how NaN is ordered; here it wins."""
        dtype = self.x.dtype
        kind = np.dtype(np.float32) if dtype.is_float else dtype.numpy
        extended = machine.scratch("extended", self.window.extended(self.x.shape), kind)
        pairs = self.x.pairs(machine, self.window.interior(extended, self.x.shape))
        views, pieces = self.y.views(machine), self.y.pieces(machine.memory)

        def run() -> None:
            if not self.window.is_plain:
                extended.fill(self.window.pad_value)
            for source, part in pairs:
                part[...] = load(source, dtype) if dtype is DType.BF16 else source
            for view, piece in zip(views, pieces, strict=True):
                part = extended[:, piece.channel : piece.channel + piece.rows * piece.lanes]
                store(view, self.y.dtype, self._fold(part, np.maximum).reshape(view.shape))

        return run


def _reduce(parts: list[np.ndarray], operation: np.ufunc) -> np.ndarray:
    if len(parts) == 1:
        return parts[0]
    total = operation(parts[0], parts[1])
    for part in parts[2:]:
        operation(total, part, out=total)
    return total
