"""The base of every rewrite, and the trace that remembers what was rewritten and why the rest was not.

A rewrite names the kind of op it starts from (`pattern`), says why a particular op does not match (`check`, empty when
it does) and then replaces it (`rewrite`). Values keep their layer names: a merged op takes the name of the last op of its chain.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from bmflow.ir.layer import LayerOp, layer_name, set_layer_name
from bmflow.ir.module import Module
from bmflow.ir.structure import TopInputOp, TopNoneOp
from bmflow.ir.values import Operation, SSAValue


@dataclass(frozen=True)
class Event:
    """One decision: `reason` is empty when the rewrite was applied to the layer."""

    rewrite: str
    layer: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.rewrite}: {self.layer}" + (f": not applied, {self.reason}" if self.reason else "")


@dataclass
class Trace:
    """What happened during a series of rewrites."""

    applied: list[Event] = field(default_factory=list)
    refused: dict[tuple[str, str], Event] = field(default_factory=dict)

    def record(self, rewrite: str, layer: str, reason: str = "") -> None:
        """Note a decision; of the reasons given for one layer, the last one stays until the rewrite applies."""
        if reason:
            self.refused[rewrite, layer] = Event(rewrite, layer, reason)
        else:
            self.refused.pop((rewrite, layer), None)
            self.applied.append(Event(rewrite, layer))

    def counts(self) -> dict[str, int]:
        """How often each rewrite was applied."""
        return dict(Counter(event.rewrite for event in self.applied))

    def why_not(self, layer: str) -> list[str]:
        """Reasons why rewrites left a layer alone."""
        return [f"{event.rewrite}: {event.reason}" for event in self.refused.values() if event.layer == layer]

    def text(self) -> str:
        """Every decision, one a line; applied rewrites first."""
        return "\n".join(str(event) for event in (*self.applied, *self.refused.values()))


class Rewrite(ABC):
    """One rewrite; its docstring shows the algebra."""

    pattern: ClassVar[tuple[type[LayerOp], ...]]
    explains: ClassVar[bool] = True  # whether the trace keeps its reasons

    @property
    def name(self) -> str:
        """The name of its file in words joined by dashes: fuse_relu_into_producer.py -> fuse-relu-into-producer."""
        return type(self).__module__.rpartition(".")[2].replace("_", "-")

    @abstractmethod
    def check(self, op: LayerOp, module: Module) -> str:
        """Say why the op does not match; empty when it does."""

    @abstractmethod
    def rewrite(self, op: LayerOp, module: Module) -> None:
        """Replace the op; `check` has just said yes."""


def apply_rewrites(module: Module, rewrites: Sequence[Rewrite], trace: Trace) -> None:
    """Sweep over the module with each rewrite in order, again and again, until nothing changes; then refresh the signature."""
    changed = True
    while changed:
        changed = sum(_sweep(module, rewrite, trace) for rewrite in rewrites) > 0
    module.refresh_signature()


def _sweep(module: Module, rewrite: Rewrite, trace: Trace) -> bool:
    changed = False
    for op in [op for op in module.block.ops if isinstance(op, rewrite.pattern)]:
        if op.parent_block() is None or isinstance(op, TopNoneOp):
            continue  # removed earlier in this sweep, or the placeholder
        layer, reason = op.layer_name, rewrite.check(op, module)
        if rewrite.explains or not reason:
            trace.record(rewrite.name, layer, reason)
        if not reason:
            rewrite.rewrite(op, module)
            changed = True
    return changed


def producer(value: SSAValue) -> Operation | None:
    """The op that makes a value; None for a block argument."""
    return value.owner if isinstance(value.owner, Operation) else None


def users(value: SSAValue) -> list[Operation]:
    """The ops that read a value, once for every read; the return op counts."""
    return [use.operation for use in value.uses]


def readers(op: LayerOp) -> list[LayerOp]:
    """The layers that read an op's result, once for every read."""
    return [user for user in users(op.results[0]) if isinstance(user, LayerOp)]


def is_output(value: SSAValue, module: Module) -> bool:
    """Whether a value is a network output."""
    return any(user is module.block.last_op for user in users(value))


def single_user(value: SSAValue) -> str:
    """Why a value is not read exactly once; empty when it is."""
    count = len(users(value))
    return "" if count == 1 else f"{layer_name(value)} is read {count} times"


def replace(op: LayerOp, value: SSAValue) -> None:
    """Let `value` take the op's place, and erase the op with everything that only it needed."""
    op.results[0].replace_all_uses_with(value)
    erase(op)


def merge_into(op: LayerOp, survivor: LayerOp) -> None:
    """`replace` by an op of the same chain, which takes the op's layer name."""
    name = op.layer_name
    replace(op, survivor.results[0])
    set_layer_name(survivor, name)


def insert_before(op: LayerOp, new: LayerOp) -> LayerOp:
    """Put a new op before an existing one."""
    block = op.parent_block()
    assert block is not None
    block.insert_op_before(new, op)
    return new


def insert_behind(op: LayerOp, new: LayerOp) -> LayerOp:
    """Put a new op right behind an existing one."""
    block = op.parent_block()
    assert block is not None
    block.insert_op_after(new, op)
    return new


def free_name(name: str, module: Module) -> str:
    """A layer name that no layer has: `name`, or `name_1`, ..."""
    taken = {op.layer_name for op in module.layers()}
    return next(free for i in range(len(taken) + 1) if (free := f"{name}_{i}" if i else name) not in taken)


def erase(op: Operation) -> None:
    """Erase an op that nobody reads, then its producers that have become dead; inputs and top.None stay."""
    operands = list(op.operands)
    op.detach()
    op.erase()
    for value in operands:
        source = producer(value)
        if source is not None and is_dead(source):
            erase(source)


def is_dead(op: Operation) -> bool:
    """Whether an op can go because nobody reads its results."""
    if op.parent_block() is None or isinstance(op, TopInputOp | TopNoneOp) or not op.results:
        return False
    return all(not result.uses for result in op.results)
