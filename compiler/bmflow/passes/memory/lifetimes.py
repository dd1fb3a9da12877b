"""From a lowered module to DDR offsets: which tensors need memory, how long they live, which share it.

A Reshape moves nothing, because tensors are dense in DDR: its result is another name for its input's memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from bmflow.dialects.tpu.shape import TpuReshapeOp
from bmflow.ir.layer import layer_name
from bmflow.ir.module import Module
from bmflow.ir.structure import TopInputOp, TopWeightOp
from bmflow.ir.types import dtype_of, is_none, shape_of
from bmflow.ir.values import SSAValue
from bmflow.passes.memory.allocate import Buffer, allocate

ALIASES = (TpuReshapeOp,)


@dataclass(frozen=True)
class TensorPlan:
    """Byte offset of every activation by layer name, aliases included, and the bytes used in all."""

    offsets: Mapping[str, int]
    total_bytes: int


def plan_tensors(module: Module, alignment: int) -> TensorPlan:
    """Place every activation of `module`.

    Requires: a module whose ops have one result each. Ensures: inputs come first, in order, and keep their memory to the end, so
    that a network can run twice on one upload; outputs keep theirs from the op that writes them to the end; any other
    tensor keeps it until the last op that reads it or an alias of it.
    """
    roots = _roots(module)
    buffers = _buffers(module, roots)
    allocation = allocate(buffers, alignment)
    return TensorPlan({name: allocation.offsets[root] for name, root in roots.items()}, allocation.total_bytes)


def _roots(module: Module) -> dict[str, str]:
    """Name of the tensor that owns the memory of each tensor."""
    roots: dict[str, str] = {}
    for op in module.layers():
        source = op.operands[0] if isinstance(op, ALIASES) else None
        constant = source is not None and isinstance(source.owner, TopWeightOp)
        roots[op.layer_name] = roots[layer_name(source)] if source is not None and not constant else op.layer_name
    return roots


def _buffers(module: Module, roots: Mapping[str, str]) -> list[Buffer]:
    layers = list(module.layers())
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    size: dict[str, int] = {}
    for step, op in enumerate(layers):
        root = roots[op.layer_name]
        if root == op.layer_name:
            first[root] = step
            size[root] = _bytes(op.results[0])
        for value in op.operands:
            if is_activation(value) and not isinstance(op, TopInputOp):
                last[roots[layer_name(value)]] = step
        last[root] = step
    pinned = {op.layer_name for op in module.inputs}
    kept = pinned | {roots[name] for name in module.output_names}
    return [Buffer(n, size[n], 0 if n in pinned else first[n], len(layers) if n in kept else last[n], n in pinned) for n in first]


def _bytes(value: SSAValue) -> int:
    return prod(shape_of(value)) * dtype_of(value).itemsize


def is_activation(value: SSAValue) -> bool:
    """Whether `value` is a tensor computed or given at run time (not a weight, not an absent operand)."""
    return not is_none(value) and not isinstance(value.owner, TopWeightOp)
