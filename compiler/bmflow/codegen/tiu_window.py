"""Commands that slide a window: CONV on the cube, depthwise convolution and pools (BM1684X instruction notes, 3.1 and 3.2)."""

from __future__ import annotations

from bmflow.codegen.dependencies import Access, Engine
from bmflow.codegen.fields import (
    DIMS,
    PRECISION,
    Layout,
    constant_bits,
    is_aligned,
    lane_rows,
    pad_pair_bits,
    sign,
    sizes,
    span,
    strides_that_fit,
)
from bmflow.codegen.operand import Constant, Local
from bmflow.codegen.stream import CommandStreams
from bmflow.ir.types import DType

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]
MAX_STEP = 15
"""Largest stride, dilation and padding of one command."""
CONV_STRIDES = (1 << 16, 1 << 16, 1 << 16, 1 << 16)
DEPTHWISE, AVERAGE, MAXIMUM = 0, 1, 4


class WindowCommands(CommandStreams):
    """conv, depthwise, max_pool, avg_pool."""

    def conv(
        self, out: Local, x: Local, filter: Local, *, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair = (1, 1),
        bias: Local | None = None, kernel_zero: int = 0, pad_value: float = 0, res_add: bool = False,
    ) -> None:  # fmt: skip
        """out = sum over input channels and taps (+ bias, floats only) (+ old out if res_add).

        Args:
            out: (n, oc, oh, ow); i32 for 8-bit operands, f16/bf16/f32 for floats.
            x: (n, ic, ih, iw) from lane 0 on.
            filter: first byte of the packed filter, shape (1, oc, ic, kh*kw); one vector aligned.
            bias: (1, oc, 1, 1) f32, compact.
            pads: top, left, bottom, right, 0..15; `pad_value` is what is there.
        Source: BM1684X instruction notes, 3.1; unconfirmed: float sums are kept in f32 and rounded once.
        """
        integer = not x.dtype.is_float
        self._check_window(out, x, kernel, stride, pads, dilation)
        self.require(x.lane == 0 or x.dtype is DType.F32, f"a convolution input from lane {x.lane} on")
        self.require(is_aligned(self.memory, out), "a convolution result that is not aligned")
        self.require(out.lane == filter.lane, "a convolution result and a filter in different lanes")
        alignment = 4 if filter.dtype is DType.F32 else self.memory.eu_bytes
        self.require(filter.address % alignment == 0, f"a filter at {filter.address}, no multiple of {alignment}")
        self.require((x.dtype.itemsize, integer) == (filter.dtype.itemsize, not filter.dtype.is_float), "a filter of another type")
        self.require(bias is None or (not integer and bias.dtype is DType.F32), "a bias inside an integer convolution")
        fields = self._conv_operand(x) | self._window_fields(out, x, kernel, stride, pads, dilation) | sizes(out, "res0") | {
            "tsk_typ": 0, "tsk_eu_typ": 0, "opd0_c": x.shape[1], "opd1_sign": sign(filter.dtype), "opd1_addr": self.tiu_address(filter),
            "opd2_const": int(bias is None), "opd2_addr": constant_bits(Constant(kernel_zero, filter.dtype)) if integer else 0,
            "opd2_sign": sign(filter.dtype) if integer and kernel_zero else 0,
            "opd3_const": 1, "opd3_addr": pad_pair_bits(pad_value, x.dtype), "res_add": int(res_add),
        }  # fmt: skip
        if bias is not None:
            fields |= {"opd2_addr": self.tiu_address(bias), "opd2_sign": 1}
        reads = [x, self._filter_bytes(filter, kernel), *([bias] if bias else []), *([out] if res_add else [])]
        self.append(Engine.TIU, "sCONV", fields, [out], reads)

    def depthwise(
        self, out: Local, x: Local, filter: Local | Constant, *, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair = (1, 1),
        bias: Local | None = None, pad_value: float = 0,
    ) -> None:  # fmt: skip
        """out[c] = sum over taps of x[c] * filter[c] (+ bias[c]); i32 result for 8-bit operands, else all of one float type.

        Args:
            filter: (1, c, kh, kw) compact, or one number for all taps.
            bias: (1, c, 1, 1) compact; i32 for 8-bit operands, else the operand's type.
        """
        fields = self._pord(DEPTHWISE, out, x, kernel, stride, pads, dilation)
        reads = [x]
        if isinstance(filter, Constant):
            fields |= {"opd1_const": 1, "opd1_addr": constant_bits(filter)}
        else:
            fields |= {"opd1_addr": self.tiu_address(filter)}
            reads.append(filter)
        fields |= {"opd1_sign": sign(filter.dtype), "opd2_const": int(bias is None), "opd3_const": 1}
        fields |= {"opd3_addr": pad_pair_bits(pad_value, x.dtype)}
        if bias is not None:
            self.require(bias.dtype is (x.dtype if x.dtype.is_float else DType.I32), f"a depthwise bias of type {bias.dtype.value}")
            fields |= {"opd2_addr": self.tiu_address(bias), "opd2_sign": sign(bias.dtype)}
            reads.append(bias)
        self.append(Engine.TIU, "sPorD", fields, [out], reads)

    def max_pool(self, out: Local, x: Local, *, kernel: Pair, stride: Pair, pads: Pads, pad_value: float) -> None:
        """out = largest value of each window; one type."""
        self.require(out.dtype is x.dtype, "a maximum of another type")
        fields = self._pord(MAXIMUM, out, x, kernel, stride, pads, (1, 1))
        fields |= {"opd3_const": 1, "opd3_addr": constant_bits(Constant(pad_value, x.dtype))}
        self.append(Engine.TIU, "sPorD", fields, [out], [x])

    def avg_pool(self, out: Local, x: Local, *, kernel: Pair, stride: Pair, pads: Pads, scale: float) -> None:
        """out = sum of each window * scale (f32), floats only; padding counts as zeros.

        Unconfirmed: the scale as an f32 constant operand 1 for every float type, a sum in f32, one rounding.
        """
        self.require(out.dtype is x.dtype and x.dtype.is_float, "a float average of another type")
        fields = self._pord(AVERAGE, out, x, kernel, stride, pads, (1, 1))
        fields |= {"opd1_const": 1, "opd1_sign": 1, "opd1_addr": constant_bits(Constant(scale, DType.F32)), "opd3_const": 1}
        self.append(Engine.TIU, "sPorD", fields, [out], [x])

    def _pord(self, kind: int, out: Local, x: Local, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair) -> dict[str, int]:
        self._check_window(out, x, kernel, stride, pads, dilation)
        self.require(out.lane == x.lane and out.shape[1] == x.shape[1], "a pool between different lanes")
        self.require(is_aligned(self.memory, out) and is_aligned(self.memory, x), "a pool of operands that are not aligned")
        fields = self._window_fields(out, x, kernel, stride, pads, dilation) | sizes(out, "res0")
        return fields | {"tsk_typ": 1, "tsk_eu_typ": kind}

    def _check_window(self, out: Local, x: Local, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair) -> None:
        self.require_sizes(out.shape, x.shape, kernel)
        self.require(all(1 <= step <= MAX_STEP for step in (*stride, *dilation)), f"stride {stride}, dilation {dilation}")
        self.require(all(0 <= pad <= MAX_STEP for pad in pads), f"padding {pads}")
        for axis in (0, 1):
            extent = x.shape[2 + axis] + pads[axis] + pads[2 + axis] - dilation[axis] * (kernel[axis] - 1) - 1
            matches = extent >= 0 and extent // stride[axis] + 1 == out.shape[2 + axis]
            self.require(matches, f"window {kernel} over {x.shape} with padding {pads} gives {out.shape}")

    def _window_fields(self, out: Local, x: Local, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair) -> dict[str, int]:
        return {
            "cmd_short": 1, "res0_prec": PRECISION[out.dtype], "opd0_prec": PRECISION[x.dtype], "opd0_sign": sign(x.dtype),
            "res0_addr": self.tiu_address(out), "opd0_addr": self.tiu_address(x), "opd0_h": x.shape[2], "opd0_w": x.shape[3],
            "opd1_h": kernel[0], "opd1_w": kernel[1], "res_op_y_str": stride[0], "res_op_x_str": stride[1],
            "opd1_y_ins0": dilation[0] - 1, "opd1_x_ins0": dilation[1] - 1,
            "opd0_up_pad": pads[0], "opd0_lf_pad": pads[1], "opd0_dn_pad": pads[2], "opd0_rt_pad": pads[3],
        }  # fmt: skip

    def _conv_operand(self, x: Local) -> dict[str, int]:
        if is_aligned(self.memory, x):
            return {"opd0_str": Layout.ALIGNED}
        strides = strides_that_fit(self.memory, x, CONV_STRIDES)
        self.require(strides is not None, f"a convolution input with strides {x.strides}")
        assert strides is not None
        return {"opd0_str": Layout.EXPLICIT, **{f"opd0_{dim}_str": stride for dim, stride in zip(DIMS, strides, strict=True)}}

    def _filter_bytes(self, filter: Local, kernel: Pair) -> Access:
        """The packed filter in the lanes of its output channels."""
        _, oc, ic, _ = filter.shape
        parallel = self.target.ic_parallel[filter.dtype.value]
        row = -(-ic // parallel) * parallel * kernel[0] * kernel[1] * filter.dtype.itemsize
        return span(self.memory, filter, lane_rows(self.memory, filter) * row, oc)
