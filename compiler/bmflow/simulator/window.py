"""The sliding window that CONV and PorD share: padding, zeros inserted between inputs, stride, dilation (instruction notes, 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bmflow.ir.types import DType
from bmflow.simulator.instruction import Fields
from bmflow.simulator.memory import Machine
from bmflow.simulator.operand import Local, Shape, constant, load

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Geometry: pads are top, left, bottom, right; `insert` zeros between neighbours; `pad_value` in the operand's type."""

    kernel: Pair
    stride: Pair
    dilation: Pair
    insert: Pair
    pads: tuple[int, int, int, int]
    pad_value: float | int

    def extended(self, shape: Shape) -> Shape:
        """Shape of an input with insertions and padding."""
        n, c, h, w = shape
        high = (h - 1) * (self.insert[0] + 1) + 1 + self.pads[0] + self.pads[2]
        wide = (w - 1) * (self.insert[1] + 1) + 1 + self.pads[1] + self.pads[3]
        return n, c, high, wide

    @property
    def is_plain(self) -> bool:
        """Whether the input is used as it is."""
        return not any(self.pads) and not any(self.insert)

    def interior(self, extended: np.ndarray, shape: Shape) -> np.ndarray:
        """The part of an extended input that holds the input itself."""
        _, _, h, w = shape
        sy, sx = self.insert[0] + 1, self.insert[1] + 1
        top, left = self.pads[0], self.pads[1]
        return extended[..., top : top + (h - 1) * sy + 1 : sy, left : left + (w - 1) * sx + 1 : sx]


def read_window(fields: Fields, x_shape: Shape, y_shape: Shape, dtype: DType) -> Window:
    """The geometry of a CONV or PorD command.

    Raises:
        InputError: the sizes contradict each other, or a padding mode other than a constant.
    """
    fields.support(fields["pad_mode"] == 0, f"padding mode {fields['pad_mode']}")
    kernel, stride = (fields["opd1_h"], fields["opd1_w"]), (fields["res_op_y_str"], fields["res_op_x_str"])
    fields.require_sizes("the kernel", kernel)
    fields.require_sizes("the stride", stride)
    fields.support(bool(fields["opd3_const"]), "a tensor of padding values")
    pads = (fields["opd0_up_pad"], fields["opd0_lf_pad"], fields["opd0_dn_pad"], fields["opd0_rt_pad"])
    dilation = (fields["opd1_y_ins0"] + 1, fields["opd1_x_ins0"] + 1)
    window = Window(kernel, stride, dilation, (fields["opd0_y_ins0"], fields["opd0_x_ins0"]), pads, _pad_value(fields, dtype))
    for axis in (0, 1):
        extent = window.extended(x_shape)[2 + axis] - dilation[axis] * (kernel[axis] - 1) - 1
        fits = extent >= 0 and extent // stride[axis] + 1 == y_shape[2 + axis]
        fields.require(fits, f"a window {kernel} with stride {stride}, padding {pads} over {x_shape} does not give {y_shape}")
    return window


def _pad_value(fields: Fields, dtype: DType) -> float | int:
    """The padding constant, which is also what is inserted.

    Unconfirmed: how the register holds two values; all copies of the operand's width must agree where something is inserted.
    """
    bits, width = fields["opd3_addr"], 8 * dtype.itemsize
    low = bits & ((1 << width) - 1)
    if fields["opd0_y_ins0"] or fields["opd0_x_ins0"]:
        same = bits in (low, sum(low << shift for shift in range(0, 32, width)))
        fields.support(
            same and (low == 0 or bits != low or width == 32), f"a padding value that may differ from the inserted one ({bits:#x})"
        )
    return constant(bits, dtype)


def fill_extended(machine: Machine, x: Local, window: Window) -> tuple[np.ndarray, Callable[[], None]]:
    """A dense extended copy of an input as values (float32 or int32), and the call that makes it."""
    shape = window.extended(x.shape)
    kind = np.float32 if x.dtype.is_float else np.int32
    extended = machine.scratch("extended", shape, kind)
    pairs = x.pairs(machine, window.interior(extended, x.shape))

    def fill() -> None:
        if not window.is_plain:
            extended.fill(window.pad_value)
        for source, part in pairs:
            if x.dtype is DType.BF16:
                part[...] = load(source, x.dtype)
            else:
                part[...] = source

    return extended, fill
