"""The top dialect in plain numpy, float64: an independent meaning of each op, slow and short."""

from __future__ import annotations

import math

import numpy as np
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.ir.structure import TopInputOp, TopNoneOp, TopWeightOp
from numpy.typing import NDArray

Array = NDArray[np.float64]


def run(module: Module, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values of every layer by name."""
    values, results = {}, {}
    for op in module.block.ops:
        if isinstance(op, TopNoneOp):
            values[op.results[0]] = None
        elif isinstance(op, TopInputOp):
            values[op.results[0]] = results[op.layer_name] = inputs[op.layer_name].astype(np.float64)
        elif isinstance(op, TopWeightOp):
            values[op.results[0]] = module.weights[op.layer_name].astype(np.float64)
        elif isinstance(op, LayerOp):
            y = OPS[op.name](op, *[values[v] for v in op.operands])
            settings = op.settings()
            if settings.get("do_relu"):
                y = _relu(y, settings["relu_limit"])
            values[op.results[0]] = results[op.layer_name] = y
    return results


def _relu(x: Array, limit: float) -> Array:
    return np.clip(x, 0, limit if limit > 0 else None)


def _windows(
    x: Array,
    kernel: list[int],
    strides: list[int],
    pads: list[int],
    dilations: tuple[int, ...] | list[int] = (1, 1),
    fill: float = 0.0,
    ceil: bool = False,
) -> Array:
    """(n, c, oh, ow, kh, kw) windows of x."""
    extra = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    more = [(-(size + pads[i] + pads[i + 2] - extra[i]) % strides[i]) if ceil else 0 for i, size in enumerate(x.shape[2:])]
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2] + more[0]), (pads[1], pads[3] + more[1])), constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(x, extra, axis=(2, 3))
    return windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def _conv(op: LayerOp, x: Array, w: Array, b: Array | None) -> Array:
    windows = _windows(x, op.ints("kernel_shape"), op.ints("strides"), op.ints("pads"), op.ints("dilations"))
    group = op["group"]
    parts = zip(np.split(windows, group, axis=1), np.split(w, group, axis=0), strict=True)
    y = np.concatenate([np.einsum("nchwij,ocij->nohw", a, f) for a, f in parts], axis=1)
    return y if b is None else y + b.reshape(1, -1, 1, 1)


def _batch_norm(op: LayerOp, x: Array, mean: Array, variance: Array, gamma: Array, beta: Array) -> Array:
    shape = (1, -1) + (1,) * (x.ndim - 2)
    mean, variance, gamma, beta = (v.reshape(shape) for v in (mean, variance, gamma, beta))
    return (x - mean) / np.sqrt(variance + op["epsilon"]) * gamma + beta


def _max_pool(op: LayerOp, x: Array) -> Array:
    args = op.ints("kernel_shape"), op.ints("strides"), op.ints("pads")
    return _windows(x, *args, fill=-np.inf, ceil=op["ceil_mode"]).max(axis=(-2, -1))


def _avg_pool(op: LayerOp, x: Array) -> Array:
    args = op.ints("kernel_shape"), op.ints("strides"), op.ints("pads")
    total = _windows(x, *args, ceil=op["ceil_mode"]).sum(axis=(-2, -1))
    ones = np.ones_like(x)
    if op["count_include_pad"]:
        p = op.ints("pads")
        ones = np.pad(ones, ((0, 0), (0, 0), (p[0], p[2]), (p[1], p[3])), constant_values=1.0)
        args = (*args[:2], [0, 0, 0, 0])
    return total / _windows(ones, *args, ceil=op["ceil_mode"]).sum(axis=(-2, -1))


def _add(op: LayerOp, *xs: Array) -> Array:
    return sum(c * x for c, x in zip(op["coeff"] or [1.0] * len(xs), xs, strict=True))


def _mul(op: LayerOp, *xs: Array) -> Array:
    y = xs[0]
    for x in xs[1:]:
        y = y * x
    return y


def _sigmoid(op: LayerOp, x: Array) -> Array:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def _scaled_active(op: LayerOp, x: Array, scale_in: Array, shift_in: Array, scale_out: Array) -> Array:
    argument = x * scale_in + shift_in
    return (argument if op["mode"] == "SILU" else 1) * _sigmoid(op, argument) * scale_out


def _softmax(op: LayerOp, x: Array) -> Array:
    e = np.exp(x - x.max(axis=op["axis"], keepdims=True))
    return e / e.sum(axis=op["axis"], keepdims=True)


def _matmul(op: LayerOp, x: Array, right: Array, bias: Array | None) -> Array:
    y = np.einsum("...mk,...nk->...mn" if op["right_transpose"] else "...mk,...kn->...mn", x, right)
    return y if bias is None else y + bias


def _layer_norm(op: LayerOp, x: Array, weight: Array | None, bias: Array | None) -> Array:
    axes = tuple(range(op["axis"], x.ndim))
    centred = x - x.mean(axes, keepdims=True)
    y = centred / np.sqrt((centred**2).mean(axes, keepdims=True) + op["eps"])
    return y * (1.0 if weight is None else weight) + (0.0 if bias is None else bias)


def _gelu(op: LayerOp, x: Array) -> Array:
    return np.array([v / 2 * math.erfc(-v / math.sqrt(2)) for v in x.ravel()]).reshape(x.shape)


def _slice(op: LayerOp, x: Array, *_: Array) -> Array:
    ranges = zip(op.ints("offset"), op.ints("ends"), op.ints("steps"), strict=True)
    return x[tuple(slice(a, b, s) for a, b, s in ranges)]


def _focus(op: LayerOp, x: Array) -> Array:
    assert op["is_inversed"]
    return np.concatenate([x[:, :, i::2, j::2] for i in range(2) for j in range(2)], axis=1)


def _reshape(op: LayerOp, x: Array) -> Array:
    return x.reshape(op.results[0].type.get_shape())


OPS = {
    "top.Conv": _conv,
    "top.BatchNorm": _batch_norm,
    "top.MaxPool": _max_pool,
    "top.AvgPool": _avg_pool,
    "top.Add": _add,
    "top.Mul": _mul,
    "top.Relu": lambda op, x: _relu(x, op["relu_limit"]),
    "top.Sigmoid": _sigmoid,
    "top.SiLU": lambda op, x: x * _sigmoid(op, x),
    "top.ScaledActive": _scaled_active,
    "top.GELU": _gelu,
    "top.Softmax": _softmax,
    "top.MatMul": _matmul,
    "top.LayerNorm": _layer_norm,
    "top.Concat": lambda op, *xs: np.concatenate(xs, axis=op["axis"]),
    "top.Slice": _slice,
    "top.Reshape": _reshape,
    "top.Permute": lambda op, x: x.transpose(op.ints("order")),
    "top.Depth2Space": _focus,
    "top.Upsample": lambda op, x: x.repeat(op["scale_h"], axis=2).repeat(op["scale_w"], axis=3),
}
