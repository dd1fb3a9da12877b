"""--bc: take the mean error that 8 bits add to each output channel of a convolution or matrix product out of its bias.

    b[oc] -> b[oc] - E[y_int8[oc] - y_float[oc]]

The corrected bias is kept beside the exact one, for forms in 8 bits alone. Every layer is looked at by itself, with the float network's
values as its (quantized) input, so errors of earlier layers are not counted again. Values outside the range of the result are left out:
they are clipped on purpose. Source: Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section
4.2.1 (empirical bias correction).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from bmflow.correction.for_int8 import constants_for_int8, set_for_int8
from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.matmul import TopMatMulOp
from bmflow.dialects.tpu.compute import TpuConv2DOp
from bmflow.dialects.tpu.matmul import TpuMatMulOp
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.structure import TopWeightOp
from bmflow.ir.types import DType, Quantization, is_none, quantization_of, shape_of
from bmflow.ir.values import SSAValue
from bmflow.kernels import Executable, to_real
from bmflow.numerics.rounding import Rounding, round_real

Reals = NDArray[np.float64]
NO_ERRORS = np.zeros(1)


@dataclass
class _Product:
    """One convolution or product by a constant matrix of the lowered module, ready to run by itself; `channels` is the axis of its results."""

    op: TpuConv2DOp | TpuMatMulOp
    channels: int
    source: str
    operand: str
    executable: Executable
    total: Reals
    count: Reals
    powers: Reals
    """Sums of exact * exact, 8-bit * 8-bit and exact * 8-bit results."""

    @property
    def score(self) -> float:
        """0.5 + 0.5 * cosine of the results, the scale of the compatible searches."""
        exact, rounded, both = self.powers
        return 0.5 + 0.5 * both / max(np.sqrt(exact * rounded), np.finfo(np.float64).tiny)

    def add(self, values: Mapping[str, np.ndarray]) -> None:
        """Take one sample's float values into account."""
        given, result = quantization_of(self.op.input), quantization_of(self.op.output)
        assert given is not None
        assert result is not None
        raw = self.executable.run({self.operand: quantized(values[self.source], given)})
        exact, found = values[self.op.layer_name], to_real(self.op.output, raw[self.op.layer_name])
        self.powers += [np.vdot(a, b) for a, b in ((exact, exact), (found, found), (exact, found))]
        low, high = ((limit - result.zero_point) * result.scale for limit in result.dtype.limits)
        inside = (exact > low) & (exact < high)
        error = np.where(inside, found - exact, 0)
        others = tuple(axis for axis in range(error.ndim) if axis != self.channels)
        self.total += error.sum(others, dtype=np.float64)
        self.count += inside.sum(others)


def bias_errors(
    module: Module, lowered: Module, samples: Iterable[Mapping[str, np.ndarray]], threads: int = 2, below: float | None = None
) -> dict[str, Reals]:
    """Mean error of every 8-bit convolution and product by a constant matrix per output channel, real units, by layer name.

    Args:
        module: the top module; `lowered` is what it became.
        samples: network inputs by name.
        below: leave out layers that reach this score, 0.5 + 0.5 * cosine of their results.
    """
    names = {op.layer_name for op in module.layers()}
    products = [_prepare(lowered, op, names) for op in lowered.layers() if _has_bias(op) and quantization_of(op.results[0])]
    exposed = {one.source for one in products} | {one.op.layer_name for one in products}
    reference = Executable(module, exposed, threads)
    for sample in samples:
        values = {**sample, **reference.run(sample)}
        for one in products:
            one.add(values)
    poor = [one for one in products if below is None or one.score < below]
    return {one.op.layer_name: one.total / np.maximum(one.count, 1) for one in poor}


def correct_biases(module: Module, errors: Mapping[str, Reals]) -> Module:
    """A copy of the module whose biases for 8 bits make up for the mean errors; layers without any stay as they are."""
    corrected = module.clone()
    for op in list(corrected.layers()):
        if isinstance(op, TopConvOp | TopMatMulOp) and errors.get(op.layer_name, NO_ERRORS).any():
            weights, old = constants_for_int8(op)
            bias = 0 if is_none(old) else corrected.weight(old).astype(np.float64).reshape(-1)
            values = (bias - errors[op.layer_name]).astype(np.float32)
            set_for_int8(corrected, op, weights, corrected.new_weight(f"{op.layer_name}_corrected_bias", values, DType.F32, op))
    corrected.op.verify()
    return corrected


def _has_bias(op: LayerOp) -> TypeGuard[TpuConv2DOp | TpuMatMulOp]:
    return isinstance(op, TpuConv2DOp) or (isinstance(op, TpuMatMulOp) and isinstance(op.right.owner, TopWeightOp))


def _prepare(lowered: Module, op: TpuConv2DOp | TpuMatMulOp, names: set[str]) -> _Product:
    operand, shape = layer_name(op.input), shape_of(op.output)
    axis = 1 if isinstance(op, TpuConv2DOp) else len(shape) - 1
    executable = Executable(lowered, [op.layer_name], 1, [operand])
    return _Product(op, axis, _source(op.input, names), operand, executable, np.zeros(shape[axis]), np.zeros(shape[axis]), np.zeros(3))


def _source(value: SSAValue, names: set[str]) -> str:
    """The layer of the top module whose values a lowered value holds: behind casts and rescaling."""
    while layer_name(value) not in names:
        owner = value.owner
        assert isinstance(owner, LayerOp)
        value = owner.operands[0]
    return layer_name(value)


def quantized(values: np.ndarray, to: Quantization) -> np.ndarray:
    """Real values as integers of an activation's type: round half away, saturate."""
    integers = round_real(values / to.scale, Rounding.HALF_AWAY) + to.zero_point
    return np.clip(integers, *to.dtype.limits).astype(to.dtype.numpy)
