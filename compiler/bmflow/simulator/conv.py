"""CONV: sums over input channels and taps on the cube (instruction notes, 3.1).

Unconfirmed: int32 sums wrap; float sums are kept in f32 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from bmflow.ir.types import DType
from bmflow.simulator.instruction import Fields, Run, Work
from bmflow.simulator.memory import Machine, Plane
from bmflow.simulator.operand import Local, Shape, align, constant, load, storage, store
from bmflow.simulator.sessions import bound_conv, conv_session
from bmflow.simulator.window import Window, fill_extended, read_window

CUBE_POSITIONS = 4
"""Output positions per cube step for 8- and 16-bit operands (instruction notes, 1.2)."""
SIGN = 0x80


def decode_conv(fields: Fields) -> None:
    """Read conv.normal."""
    fields.support(fields["tsk_eu_typ"] == 0, "a convolution with requantization inside")
    fields.support(not fields["kernel_rotate"], "a rotated kernel")
    fields.support(not fields["opd1_const"], "a constant filter")
    n, oc, oh, ow = fields.shape("res0")
    x_shape = (n, fields["opd0_c"], fields["opd0_h"], fields["opd0_w"])
    fields.require_sizes("operand 0", x_shape)
    x_dtype, w_dtype = fields.dtype("opd0_prec", fields["opd0_sign"]), fields.dtype("opd0_prec", fields["opd1_sign"])
    integer = not x_dtype.is_float
    fields.support(x_dtype.is_float or x_dtype.itemsize == 1, f"a convolution of {x_dtype.value}")
    y_dtype = fields.dtype("res0_prec", 1)
    fits = y_dtype is DType.I32 if integer else y_dtype in (x_dtype, DType.F32)
    fields.support(fits, f"a convolution of {x_dtype.value} into {y_dtype.value}")
    window = read_window(fields, x_shape, (n, oc, oh, ow), x_dtype)
    x = fields.local("opd0_addr", x_shape, x_dtype, _input_strides(fields))
    y = fields.local("res0_addr", (n, oc, oh, ow), y_dtype)
    w = _filter(fields, oc, x_shape[1], window, w_dtype)
    bias = None if integer or fields["opd2_const"] else fields.local("opd2_addr", (1, oc, 1, 1), DType.F32, layout=1)
    _expect_lanes(fields, x, y, w.local, bias)
    zero, constant_bias = _constants(fields, w_dtype)
    conv = Conv(x, w, y, bias, window, zero, constant_bias, bool(fields["res_add"]))
    fields.reads(x, w.local, *([bias] if bias else []), *([y] if conv.add_old else []))
    fields.writes(y)
    fields.instruction.work = _work(fields, conv)
    fields.instruction.operation = conv


def _input_strides(fields: Fields) -> Shape | None:
    code = fields["opd0_str"]
    fields.support(code in (0, 3), f"layout code {code} of a convolution input")
    if code == 0:
        return None
    return fields["opd0_n_str"], fields["opd0_c_str"], fields["opd0_h_str"], fields["opd0_w_str"]


def _filter(fields: Fields, oc: int, ic: int, window: Window, dtype: DType) -> Filter:
    """Where the packed filter lies."""
    parallel, taps = fields.target.ic_parallel[dtype.value], prod(window.kernel)
    groups = -(-ic // parallel)
    row = groups * taps * parallel
    row_stride = align(row, fields.memory.eu_bytes // dtype.itemsize)
    if dtype is not DType.F32:
        fields.expect(fields["opd1_addr"] % fields.memory.eu_bytes == 0, f"the filter at {fields['opd1_addr']:#x} is not aligned")
    rows = -(-(fields["opd1_addr"] // fields.memory.lmem_bytes + oc) // fields.memory.lanes)
    return Filter(fields.local("opd1_addr", (1, oc, 1, row), dtype, (rows * row_stride, row_stride, row, 1)), ic, window.kernel, parallel)


def _constants(fields: Fields, w_dtype: DType) -> tuple[int, float]:
    """Kernel zero point of integers, constant bias of floats."""
    if w_dtype.is_float:
        value = constant(fields["opd2_addr"], DType.F32) if fields["opd2_const"] else 0.0
        return 0, float(value)
    fields.support(bool(fields["opd2_const"]), "a kernel zero point per channel")
    signed = fields["opd2_sign"] and w_dtype.signed
    zero = constant(fields["opd2_addr"], DType.I8 if signed else DType.U8)
    low, high = w_dtype.limits
    fields.support(low <= zero <= high, f"a kernel zero point {zero} for {w_dtype.value}")
    return int(zero), 0.0


def _expect_lanes(fields: Fields, x: Local, y: Local, w: Local, bias: Local | None) -> None:
    fields.expect(x.lane == 0 or x.dtype is DType.F32, f"the input starts in lane {x.lane}, it must start in lane 0")
    same = w.lane == y.lane and (bias is None or bias.lane == y.lane)
    fields.expect(same, f"filter, bias and result start in different lanes ({w.lane}, {bias.lane if bias else y.lane}, {y.lane})")


def _work(fields: Fields, conv: Conv) -> Work:
    n, oc, oh, ow = conv.y.shape
    ic, taps = conv.x.shape[1], prod(conv.window.kernel)
    parallel = conv.w.parallel
    positions = CUBE_POSITIONS if parallel > 1 else fields.memory.eu_bytes // conv.w.local.dtype.itemsize
    steps = n * -(-oc // fields.memory.lanes) * -(-oh * ow // positions) * -(-ic // parallel) * taps
    return Work("cube", steps, n * oc * oh * ow * ic * taps)


@dataclass(frozen=True)
class Filter:
    """A packed filter: in each lane and channel row, groups of `parallel` input channels, taps, channels of the group (instruction notes, 1.6)."""

    local: Local
    ic: int
    kernel: tuple[int, int]
    parallel: int

    def unpacked(self, machine: Machine, dtype: np.dtype) -> tuple[np.ndarray, Run]:
        """The filter as dense (oc, ic, kh, kw), signed bytes moved up by 128, and the call that makes it."""
        oc, taps = self.local.shape[1], prod(self.kernel)
        groups = -(-self.ic // self.parallel)
        padded = machine.scratch("filter", (oc, groups * self.parallel, *self.kernel), dtype)
        exact = padded if self.ic == padded.shape[1] else machine.scratch("exact filter", (oc, self.ic, *self.kernel), dtype)
        parts = padded.reshape(oc, groups, self.parallel, taps)
        moves = [
            (view, parts[first : first + view.shape[0] * view.shape[1]].reshape(*view.shape[:2], *parts.shape[1:]))
            for first, view in self._views(machine, groups, taps)
        ]  # fmt: skip
        flip = SIGN if self.local.dtype.signed else 0

        def unpack() -> None:
            for view, part in moves:
                if dtype == np.uint8:
                    np.bitwise_xor(view, flip, out=part)
                else:
                    part[...] = load(view, self.local.dtype)
            if exact is not padded:
                exact[...] = padded[:, : self.ic]

        return exact, unpack

    def _views(self, machine: Machine, groups: int, taps: int) -> list[tuple[int, np.ndarray]]:
        """First channel and array (rows, lanes, groups, parallel, taps) of each block of channel rows; bytes unsigned."""
        dtype = storage(self.local.dtype)
        size, row = dtype.itemsize, self.local.strides[1] * dtype.itemsize
        strides = (row, machine.pitch, taps * self.parallel * size, size, self.parallel * size)
        kind = np.dtype(np.uint8) if size == 1 else dtype
        views: list[tuple[int, np.ndarray]] = []
        for p in self.local.pieces(machine.memory):
            shape = (p.rows, p.lanes, groups, self.parallel, taps)
            views.append((p.channel, machine.view(Plane.LMEM, kind, p.lane, self.local.offset + p.row * row, shape, strides)))
        return views


@dataclass(frozen=True)
class Conv:
    """Y = sum of X * (W - zero) (+ bias) (+ old Y)."""

    x: Local
    w: Filter
    y: Local
    bias: Local | None
    window: Window
    zero: int
    constant_bias: float
    add_old: bool

    def bind(self, machine: Machine) -> Run:
        """Prepare the convolution."""
        return self._bind_float(machine) if self.x.dtype.is_float else self._bind_integer(machine)

    def _bind_integer(self, machine: Machine) -> Run:
        y, compute = self.sums(machine)
        results = self.y.pairs(machine, y)

        def run() -> None:
            compute()
            for view, part in results:
                if self.add_old:
                    np.add(view, part, out=view)
                else:
                    view[...] = part

        return run

    def sums(self, machine: Machine) -> tuple[np.ndarray, Run]:
        """The sums of an integer convolution as a dense array, and the call that makes them."""
        x, fill = self._bytes_of_input(machine)
        w, unpack = self.w.unpacked(machine, np.dtype(np.uint8))
        y = machine.scratch("y", self.y.shape, np.int32)
        x_zero = np.array(SIGN if self.x.dtype.signed else 0, np.uint8)
        w_zero = np.array(self.zero + (SIGN if self.w.local.dtype.signed else 0), np.uint8)
        session = conv_session(self.window.kernel, self.window.stride, self.window.dilation, True, machine.threads)
        conv = bound_conv(session, {"x": x, "w": w, "xz": x_zero, "wz": w_zero}, y)

        def compute() -> None:
            fill()
            unpack()
            conv()

        return y, compute

    @property
    def largest_sum(self) -> int:
        """A bound of the absolute value of an integer sum."""
        return self.x.shape[1] * prod(self.window.kernel) * 255 * 510

    def _bytes_of_input(self, machine: Machine) -> tuple[np.ndarray, Run]:
        """The input as dense uint8, signed values moved up by 128, and the call that makes it."""
        flip = SIGN if self.x.dtype.signed else 0
        extended = machine.scratch("x", self.window.extended(self.x.shape), np.uint8)
        pairs = [(view.view(np.uint8), part) for view, part in self.x.pairs(machine, self.window.interior(extended, self.x.shape))]
        padding = (int(self.window.pad_value) & 0xFF) ^ flip

        def fill() -> None:
            if not self.window.is_plain:
                extended.fill(padding)
            for view, part in pairs:
                np.bitwise_xor(view, flip, out=part)

        return extended, fill

    def _bind_float(self, machine: Machine) -> Run:
        x, fill = fill_extended(machine, self.x, self.window)
        w, unpack = self.w.unpacked(machine, np.dtype(np.float32))
        y = machine.scratch("y", self.y.shape, np.float32)
        session = conv_session(self.window.kernel, self.window.stride, self.window.dilation, False, machine.threads)
        conv = bound_conv(session, {"x": x, "w": w}, y)
        results = self.y.pairs(machine, y)
        biases = self.bias.views(machine) if self.bias else [np.float32(self.constant_bias)] * len(results)

        def run() -> None:
            fill()
            unpack()
            conv()
            for (view, part), bias in zip(results, biases, strict=True):
                total = part + bias
                if self.add_old:
                    total += load(view, self.y.dtype)
                store(view, self.y.dtype, total)

        return run
