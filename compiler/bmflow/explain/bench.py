"""Runs a network in the forms that are compared layer by layer: float, in 8 bits, and every layer in INT8 by itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from bmflow.correction.equalize import SILU_FLOOR
from bmflow.dialects.top.matmul import TopLayerNormOp, TopMatMulOp
from bmflow.explain.tally import EVERYTHING, Tally
from bmflow.ir.layer import LayerOp, layer_name
from bmflow.ir.module import Module
from bmflow.ir.structure import TopInputOp
from bmflow.ir.types import Quantization, shape_of
from bmflow.kernels import Executable, to_real
from bmflow.passes.lowering import LoweringOptions, decide, lower
from bmflow.passes.lowering.base import AS_INPUT, INT8
from bmflow.passes.lowering.propagate import activations
from bmflow.passes.rewrite import producer, users
from bmflow.tables.precision import PrecisionTable

Arrays = Mapping[str, np.ndarray]
MOVES = ("top.Reshape", "top.Permute", "top.Slice", "top.Upsample", "top.Depth2Space")
"""Ops that only move values: they look like what they read."""
_WINDOWS = {
    ("top.SiLU", ""): (SILU_FLOOR, np.inf), ("top.Sigmoid", ""): (SILU_FLOOR, -SILU_FLOOR),
    ("top.ScaledActive", "SILU"): (-1.0, np.inf),
}  # fmt: skip
"""By op and mode of the reader: beyond its window it gives the same to within 0.003. Scaled arguments end at -1 where SiLU ends at its floor."""


class Network:
    """Some layers of a lowered module, ready to run; `given` layers are fed instead of computed."""

    def __init__(self, lowered: Module, names: Collection[str], given: Collection[str] = ()) -> None:
        self._values = {op.layer_name: op.results[0] for op in lowered.layers() if op.layer_name in names}
        self._executable = Executable(lowered, names, 1, given)

    def run(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """Stored numbers by layer; network inputs come as real numbers, given layers in stored form."""
        return self._executable.run(arrays)

    def real(self, name: str, raw: np.ndarray) -> np.ndarray:
        """Real float32 numbers of a layer's stored ones."""
        return to_real(self._values[name], raw)


class Bench:
    """The float network of a top module, the 8-bit one, and every layer in INT8 by itself.

    `ops` are the layers looked at, network inputs included, those that only move values left out.

    Args:
        options: of the deployment; the mode is INT8 and there is a calibration table.
    Raises:
        InputError, CompileError: as `lower`.
    """

    def __init__(self, module: Module, options: LoweringOptions) -> None:
        self.module, self.options = module, options
        self.analysis, self.choices = decide(module, options)
        self.ops: dict[str, LayerOp] = {op.layer_name: op for op in module.layers() if op.name not in MOVES}
        self.floats = Executable(module, "all", 1)
        names = [op.layer_name for op in module.layers()]
        self.integers = Network(lower(module, options), names)
        self._alone = _alone_networks(module, options)

    @property
    def int8_forms(self) -> list[str]:
        """Layers that have an INT8 form, whether or not the 8-bit network uses it."""
        return [name for name in self.ops if name in self._alone]

    def quantization(self, name: str) -> Quantization | None:
        """How a layer is stored in 8 bits; None when it is not calibrated."""
        return self.analysis.quantization(name) if name in self.analysis.ranges else None

    def computes_in_int8(self, name: str) -> bool:
        """Whether a layer of the 8-bit network computes in INT8."""
        return name in self.choices and self.choices[name].compute == INT8

    def readers(self, name: str) -> list[str]:
        """Layers that read a layer's values in 8 bits, also through layers that only move values, and these."""
        found: list[str] = []
        pending = [op for op in self.module.layers() if op.layer_name == name]
        while pending:
            for user in users(pending.pop().results[0]):
                if isinstance(user, LayerOp) and user.layer_name not in found and self.choices[user.layer_name].compute in (INT8, AS_INPUT):
                    found.append(user.layer_name)
                    pending += [user] if user.name in MOVES else []
        return [reader for reader in self.choices if reader in found]

    def profile(self, sample: Arrays) -> dict[str, Tally]:
        """Look at every layer on one batch of network inputs.

        Raises:
            InputError: a layer holds NaN or infinity.
        """
        floats, integers = self.floats.run(sample), self.integers.run(sample)
        alone: dict[str, np.ndarray] = {}
        for network in dict.fromkeys(self._alone.values()):
            alone |= network.run(floats)
        return {name: self._tally(name, floats[name], integers[name], alone.get(name)) for name in self.ops}

    def _tally(self, name: str, values: np.ndarray, stored: np.ndarray, alone: np.ndarray | None) -> Tally:
        last = self.holds_tokens(name)
        if isinstance(self.ops[name], TopInputOp):
            return Tally.of(name, values, self.quantization(name), window=self.window(name), last=last)
        by_itself = None if alone is None else self._alone[name].real(name, alone)
        return Tally.of(name, values, self.quantization(name), by_itself, self.integers.real(name, stored), self.window(name), last)

    def holds_tokens(self, name: str) -> bool:
        """Whether the channels of a layer of rank 3 lie along the last axis: a matrix product or a normalization makes or reads it."""
        op = self.ops[name]
        return len(shape_of(op.results[0])) == 3 and any(
            isinstance(one, TopMatMulOp | TopLayerNormOp) for one in (op, *users(op.results[0]))
        )

    def window(self, name: str) -> tuple[float, float]:
        """Beyond which values are all the same to the readers."""
        readers = users(self.ops[name].results[0])
        windows = {_WINDOWS.get((user.name, _mode(user)), EVERYTHING) if isinstance(user, LayerOp) else EVERYTHING for user in readers}
        return windows.pop() if len(windows) == 1 else EVERYTHING


def _mode(op: LayerOp) -> str:
    return str(op.settings().get("mode", ""))


def _alone_networks(module: Module, options: LoweringOptions) -> dict[str, Network]:
    """For every layer that has an INT8 form, a network that computes it in that form from float values of what it reads.

    Layers of which none reads another share a network, so that there are only a few.
    """
    ops = {op.layer_name: op for op in module.layers() if not isinstance(op, TopInputOp)}
    choices = decide(module, replace(options, precision=PrecisionTable(dict.fromkeys(ops, INT8))))[1]
    groups: dict[int, list[LayerOp]] = {}
    group_of: dict[str, int] = {}
    for name, op in ops.items():
        if choices[name].compute == INT8 and op.name not in MOVES:
            taken = {group_of.get(source) for source in _sources(op)}
            group_of[name] = next(number for number in range(len(ops)) if number not in taken)
            groups.setdefault(group_of[name], []).append(op)
    networks: dict[str, Network] = {}
    for group in groups.values():
        names = [op.layer_name for op in group]
        modes = {name: INT8 if name in names else "F32" for name in ops}
        given = {layer_name(value) for op in group for value in activations(op)} - {op.layer_name for op in module.inputs}
        network = Network(lower(module, replace(options, precision=PrecisionTable(modes))), names, given)
        networks |= dict.fromkeys(names, network)
    return networks


def _sources(op: LayerOp) -> list[str]:
    """Layers whose values an op reads, looking through those that only move values."""
    found: list[str] = []
    for value in activations(op):
        source = producer(value)
        while isinstance(source, LayerOp) and source.name in MOVES:
            source = producer(source.operands[0])
        found += [source.layer_name] if isinstance(source, LayerOp) else []
    return found
