"""What a program must not do, found from its commands alone: rules of the hardware, reads of bytes nobody wrote, missing results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bmflow.isa.program import ProgramTensor
from bmflow.simulator.instruction import Instruction
from bmflow.simulator.memory import Block, Plane, Written
from bmflow.simulator.stream import Group
from bmflow.target import Memory

LIMIT = 200
"""Problems of one kind that are listed; the rest is counted."""


@dataclass(frozen=True)
class Problem:
    """A fault of a program: `kind` is rule, uninitialised, unwritten or hazard; `where` names the command or the tensor."""

    kind: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def broken_rules(order: Iterable[Instruction]) -> list[Problem]:
    """Rules of alignment, lanes and banks that commands break."""
    return [Problem("rule", str(instruction), text) for instruction in order for text in instruction.complaints]


def undefined_reads(
    groups: Sequence[Group], memory: Memory, ctx_address: int, ctx_bytes: int, inputs: Sequence[ProgramTensor], outputs: Sequence[ProgramTensor]
) -> list[Problem]:  # fmt: skip
    """Bytes that are read before anything wrote them, and bytes of outputs that nothing writes."""
    written = Written(memory, ctx_bytes)
    for tensor in inputs:
        written.mark(tensor_block(tensor, ctx_address))
    problems: list[Problem] = []
    for instruction in (instruction for group in groups for instruction in group.order):
        for block in instruction.reads:
            missing = written.missing(block)
            if missing:
                text = f"reads {missing} bytes of {block.plane.value} that nothing wrote, among {block.offset:#x}..{block.end:#x}"
                problems.append(Problem("uninitialised", str(instruction), text))
        for block in instruction.writes:
            written.mark(block)
    for tensor in outputs:
        missing = written.missing(tensor_block(tensor, ctx_address))
        if missing:
            problems.append(Problem("unwritten", f"output {tensor.name}", f"{missing} of its {tensor.size_bytes} bytes are never written"))
    return problems


def tensor_block(tensor: ProgramTensor, ctx_address: int) -> Block:
    """The bytes of a dense tensor in activation memory."""
    return Block(Plane.CTX, 0, 1, tensor.address - ctx_address, (tensor.size_bytes,), (1,), 1)


def shortened(problems: Sequence[Problem]) -> list[Problem]:
    """At most LIMIT problems of each kind, then how many more there are."""
    result: list[Problem] = []
    for kind in dict.fromkeys(problem.kind for problem in problems):
        same = [problem for problem in problems if problem.kind == kind]
        result += same[:LIMIT]
        if len(same) > LIMIT:
            result.append(Problem(kind, same[LIMIT].where, f"and {len(same) - LIMIT} more problems of this kind from here on"))
    return result
