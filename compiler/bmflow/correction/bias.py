"""--bc: take the mean error that 8 bits add to each output channel of a convolution out of its bias.

    b[oc] -> b[oc] - E[y_int8[oc] - y_float[oc]]

Every convolution is looked at by itself, with the float network's values as its (quantized) input, so errors of earlier layers are not
counted again. Values outside the range of the result are left out: they are clipped on purpose. Source: Nagel et al. 2019, "Data-free
quantization through weight equalization and bias correction", section 4.2.1 (empirical bias correction).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.tpu.compute import TpuConv2DOp
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.types import DType, Quantization, is_none, quantization_of, shape_of
from bmflow.ir.values import SSAValue
from bmflow.kernels import Executable, to_real
from bmflow.numerics.rounding import Rounding, round_real

Reals = NDArray[np.float64]
NO_ERRORS = np.zeros(1)


@dataclass
class _Conv:
    """One convolution of the lowered module, ready to run by itself."""

    op: TpuConv2DOp
    source: str
    operand: str
    executable: Executable
    total: Reals
    count: Reals

    def add(self, values: Mapping[str, np.ndarray]) -> None:
        """Take one sample's float values into account."""
        given, result = quantization_of(self.op.input), quantization_of(self.op.output)
        assert given is not None
        assert result is not None
        raw = self.executable.run({self.operand: quantized(values[self.source], given)})
        exact = values[self.op.layer_name]
        low, high = ((limit - result.zero_point) * result.scale for limit in result.dtype.limits)
        inside = (exact > low) & (exact < high)
        error = np.where(inside, to_real(self.op.output, raw[self.op.layer_name]) - exact, 0)
        self.total += error.sum((0, 2, 3), dtype=np.float64)
        self.count += inside.sum((0, 2, 3))


def bias_errors(module: Module, lowered: Module, samples: Iterable[Mapping[str, np.ndarray]], threads: int = 2) -> dict[str, Reals]:
    """Mean error of every 8-bit convolution per output channel, real units, by layer name.

    Args:
        module: the top module; `lowered` is what it became.
        samples: network inputs by name.
    """
    names = {op.layer_name for op in module.layers()}
    convs = [_prepare(lowered, op, names) for op in lowered.layers() if isinstance(op, TpuConv2DOp) and quantization_of(op.output)]
    exposed = {conv.source for conv in convs} | {conv.op.layer_name for conv in convs}
    reference = Executable(module, exposed, threads)
    for sample in samples:
        values = {**sample, **reference.run(sample)}
        for conv in convs:
            conv.add(values)
    return {conv.op.layer_name: conv.total / np.maximum(conv.count, 1) for conv in convs}


def correct_biases(module: Module, errors: Mapping[str, Reals]) -> Module:
    """A copy of the module whose convolutions make up for their mean errors; those without any stay as they are."""
    corrected = module.clone()
    for op in list(corrected.layers()):
        if isinstance(op, TopConvOp) and errors.get(op.layer_name, NO_ERRORS).any():
            bias = np.zeros(shape_of(op.output)[1]) if is_none(op.bias) else corrected.weight(op.bias).astype(np.float64).reshape(-1)
            values = (bias - errors[op.layer_name]).astype(np.float32)
            op.operands[2] = corrected.new_weight(f"{op.layer_name}_corrected_bias", values, DType.F32, op)
    corrected.op.verify()
    return corrected


def _prepare(lowered: Module, op: TpuConv2DOp, names: set[str]) -> _Conv:
    operand = layer_name(op.input)
    channels = shape_of(op.output)[1]
    executable = Executable(lowered, [op.layer_name], 1, [operand])
    return _Conv(op, _source(op.input, names), operand, executable, np.zeros(channels), np.zeros(channels))


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
