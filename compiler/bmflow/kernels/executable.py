"""A module, or a part of one, ready to run: emitted once, run many times."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from bmflow.errors import CompileError, InputError, nearest_names
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.ir.structure import TopInputOp, TopWeightOp
from bmflow.ir.types import is_none, shape_of
from bmflow.ir.values import SSAValue
from bmflow.kernels.emission import Emission
from bmflow.kernels.emitters import EMITTERS
from bmflow.kernels.graph import Graph
from bmflow.kernels.held import Held

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class _Fed:
    """A value that the caller feeds; a network input may come as real numbers."""

    name: str
    shape: tuple[int, ...]
    held: Held
    is_input: bool

    def take(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Its array in stored form.

        Raises:
            InputError: missing, or of another shape or type.
        """
        if self.name not in arrays:
            raise InputError(f"no array for {self.name}, expected {self.shape}; found {', '.join(arrays) or 'none'}")
        array = np.asarray(arrays[self.name])
        if array.shape != self.shape:
            raise InputError(f"{self.name}: expected an array of shape {self.shape}, found {array.shape}")
        if self.is_input and array.dtype != self.held.dtype.numpy:
            return self.held.from_real(array)
        if self.held.is_float and np.issubdtype(array.dtype, np.floating):
            return array.astype(np.float32, copy=False)
        if array.dtype != self.held.dtype.numpy:
            raise InputError(f"{self.name}: expected an array of type {self.held.dtype.numpy}, found {array.dtype}")
        return array


class Executable:
    """Computes chosen layers of a module.

    Args:
        module: of the top or the tpu dialect.
        expose: "outputs", "all" (network inputs included), or layer names.
        threads: of onnxruntime.
        given: layers whose values are fed in stored form instead of computed; only what is needed behind them is emitted.

    Raises:
        InputError: a name that the module does not have.
        CompileError: an op without a kernel.
    """

    def __init__(self, module: Module, expose: str | Collection[str] = "outputs", threads: int = 2, given: Collection[str] = ()):
        layers = {op.layer_name: op for op in module.layers()}
        names = _exposed(module, layers, expose)
        _require_known([*names, *given], layers)
        fed, computed = _needed(layers, names, set(given))
        graph, tensors = Graph(), dict[SSAValue, str]()
        self._fed = {
            name: _Fed(name, shape_of(op.results[0]), Held.of(op.results[0]), isinstance(op, TopInputOp)) for name, op in fed.items()
        }
        for name, op in fed.items():
            tensors[op.results[0]] = graph.input(name, self._fed[name].held.numpy, self._fed[name].shape)
        for op in computed:
            tensors[op.results[0]] = _emit(graph, module, op, tensors)
        self._names = names
        self._outputs = {name: _output(graph, tensors[layers[name].results[0]], name) for name in names if name not in fed}
        self._held = {name: Held.of(layers[name].results[0]) for name in self._outputs}
        self._session = graph.session(dict.fromkeys(self._outputs.values()), threads) if self._outputs else None

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Compute once.

        Args:
            inputs: by layer name: network inputs as real numbers (or stored ones of an integer input), `given` layers in stored form;
                arrays that are not needed are ignored.
        Returns:
            stored values by layer name; F16 and BF16 as float32.
        Raises:
            InputError: a needed array is missing, or has another shape or type.
        """
        raw = {name: fed.take(inputs) for name, fed in self._fed.items()}
        results: Arrays = {}
        if self._session is not None:
            feeds = {name: self._fed[name].held.hold(array) for name, array in raw.items()}
            tensors = list(dict.fromkeys(self._outputs.values()))
            results = {tensor: np.asarray(y) for tensor, y in zip(tensors, self._session.run(tensors, feeds), strict=True)}
        return {name: raw[name] if name in raw else self._held[name].store(results[self._outputs[name]]) for name in self._names}


def _exposed(module: Module, layers: Mapping[str, LayerOp], expose: str | Collection[str]) -> list[str]:
    if expose == "outputs":
        return list(dict.fromkeys(module.output_names))
    if expose == "all":
        return list(layers)
    return list(dict.fromkeys([expose] if isinstance(expose, str) else expose))


def _require_known(names: Iterable[str], layers: Mapping[str, LayerOp]) -> None:
    for name in names:
        if name not in layers:
            raise InputError(f"no layer is called {name} in this module; {nearest_names(name, layers) or f'it has {len(layers)} others'}")


def _needed(layers: Mapping[str, LayerOp], names: Iterable[str], given: set[str]) -> tuple[dict[str, LayerOp], list[LayerOp]]:
    """What must be fed and what must be computed, in program order, to know the named layers."""
    pending, seen = [layers[name] for name in names], set[LayerOp]()
    while pending:
        op = pending.pop()
        if op in seen:
            continue
        seen.add(op)
        if isinstance(op, TopInputOp) or op.layer_name in given:
            continue
        owners = (value.owner for value in op.operands if not is_none(value))
        pending += [owner for owner in owners if isinstance(owner, LayerOp) and not isinstance(owner, TopWeightOp)]
    ordered = [(name, op) for name, op in layers.items() if op in seen]
    fed = {name: op for name, op in ordered if isinstance(op, TopInputOp) or name in given}
    return fed, [op for name, op in ordered if name not in fed]


def _emit(graph: Graph, module: Module, op: LayerOp, tensors: dict[SSAValue, str]) -> str:
    emitter = EMITTERS.get(op.name)
    if emitter is None:
        raise CompileError(f"{op.layer_name}: {op.name} has no kernel in this version, so the network cannot be computed")
    return emitter(Emission(graph, module, op, tensors))


def _output(graph: Graph, tensor: str, name: str) -> str:
    """A tensor that onnxruntime can give back: an input or a constant needs a node of its own."""
    if graph.is_computed(tensor):
        return tensor
    graph.scope = name
    return graph.node("Identity", tensor)
