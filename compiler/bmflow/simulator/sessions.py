"""Convolutions by onnxruntime: sums of products over input channels and taps, without padding.

8-bit sums are exact int32: both operands go in as uint8 with zero points, the one pair of types whose products onnxruntime adds
without saturation on every kind of processor (on processors without dot-product instructions int8 inputs with uint8 filters
saturate at 16 bits). Float sums are kept in f32, in an order that onnxruntime chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

Pair = tuple[int, int]


@cache
def conv_session(kernel: Pair, stride: Pair, dilation: Pair, integer: bool, threads: int) -> onnxruntime.InferenceSession:
    """A session with the inputs x (n, ic, h, w) and w (oc, ic, kh, kw), for integers also their zero points xz and wz; result y."""
    attributes = {"kernel_shape": kernel, "strides": stride, "dilations": dilation, "pads": [0, 0, 0, 0]}
    kind = TensorProto.UINT8 if integer else TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info(name, kind, [None] * 4) for name in "xw"]
    if integer:
        inputs += [helper.make_tensor_value_info(name, kind, []) for name in ("xz", "wz")]
    result = helper.make_tensor_value_info("y", TensorProto.INT32 if integer else TensorProto.FLOAT, [None] * 4)
    node = helper.make_node("ConvInteger" if integer else "Conv", [value.name for value in inputs], ["y"], **attributes)
    model = helper.make_model(
        helper.make_graph([node], "conv", inputs, [result]), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def bound_conv(session: onnxruntime.InferenceSession, inputs: Mapping[str, np.ndarray], y: np.ndarray) -> BoundConv:
    """Prepare a run of the session on dense arrays that stay where they are."""
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_input(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
    binding.bind_output("y", "cpu", 0, y.dtype.type, list(y.shape), y.ctypes.data)
    return BoundConv(session, binding, (*inputs.values(), y))


@dataclass(frozen=True)
class BoundConv:
    """A prepared run; it keeps the arrays it works on alive."""

    session: onnxruntime.InferenceSession
    binding: onnxruntime.IOBinding
    arrays: tuple[np.ndarray, ...]

    def __call__(self) -> None:
        self.session.run_with_iobinding(self.binding)
