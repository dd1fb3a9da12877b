"""Prepare all commands; the three that every integer convolution ends with are done together.

`conv.normal -> adds (bias) -> rq1` in place on one int32 tensor: the sums go through bias and requantization part by part while
they are in the cache. Memory holds the same bytes afterwards as if the commands had run one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bmflow.ir.types import DType
from bmflow.simulator.arith import Arith, Op
from bmflow.simulator.chunks import run_all, split
from bmflow.simulator.conv import Conv
from bmflow.simulator.instruction import Instruction, Operation, Run
from bmflow.simulator.memory import Machine
from bmflow.simulator.operand import Local
from bmflow.simulator.vector import Requant
from bmflow.target import Memory


def bind_all(order: Sequence[Instruction], machine: Machine) -> list[Run]:
    """One call for each command, in order; what a fused command does is done by the first of its three."""
    runs: list[Run] = []
    while len(runs) < len(order):
        operations = [instruction.operation for instruction in order[len(runs) : len(runs) + 3]]
        fused = _fused(operations, machine.memory)
        runs += [fused.bind(machine), _nothing, _nothing] if fused else [_bind(operations[0], machine)]
    return runs


def _bind(operation: Operation | None, machine: Machine) -> Run:
    return operation.bind(machine) if operation else _nothing


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class FusedConv:
    """An integer convolution with bias and requantization."""

    conv: Conv
    add: Arith
    requant: Requant
    bias: Local

    def bind(self, machine: Machine) -> Run:
        """Prepare the three commands."""
        y, compute = self.conv.sums(machine)
        biases = self.bias.views(machine)
        parts = self.requant.parts(machine)
        adds = [list(split((view, part, bias))) for (view, part), bias in zip(self.conv.y.pairs(machine, y), biases, strict=True)]
        one_by_one = [operation.bind(machine) for operation in (self.conv, self.add, self.requant)]
        room = (1 << 31) - 1 - self.conv.largest_sum

        def run() -> None:
            if any(bias.min() < -room or bias.max() > room for bias in biases):
                run_all(one_by_one)
                return
            compute()
            for chunks, part in zip(adds, parts, strict=True):
                for (view, sums, bias), requant in zip(chunks, part.steps(), strict=True):
                    np.add(sums, bias, out=view)
                    requant()

        return run


def _fused(operations: Sequence[Operation | None], memory: Memory) -> FusedConv | None:
    """The fused form of three neighbours, if they are a convolution, its bias and its requantization, and nothing comes between."""
    match operations:
        case [Conv() as conv, Arith(op=Op.ADDS, rshift=0, operands=(Local() as bias, Local() as addend)) as add, Requant() as requant]:
            in_place = conv.y == addend == add.y == requant.x and conv.y.dtype is DType.I32
            per_channel = bias.dtype is DType.I32 and bias.strides[0] == bias.strides[2] == bias.strides[3] == 0
            if in_place and per_channel and not conv.add_old and conv.largest_sum < 1 << 31 and not _touches(memory, conv, requant, bias):
                return FusedConv(conv, add, requant, bias)
    return None


def _touches(memory: Memory, conv: Conv, requant: Requant, bias: Local) -> bool:
    """Whether the sums or the result may lie over the bias or the table, or over each other."""
    read = [bias, *([requant.table] if isinstance(requant.table, Local) else [])]
    return any(_near(memory, conv.y, other) or _near(memory, requant.y, other) for other in read) or _near(memory, conv.y, requant.y)


def _near(memory: Memory, one: Local, other: Local) -> bool:
    """Whether two operands' outer bounds in a lane meet."""
    blocks = (one.blocks(memory), other.blocks(memory))
    begins, ends = ([min(b.offset for b in side) for side in blocks], [max(b.end for b in side) for side in blocks])
    return begins[0] < ends[1] and begins[1] < ends[0]
