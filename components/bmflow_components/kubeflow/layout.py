"""The graph of a pipeline as Kubeflow nests it: a loop over processors, in it one over number types, in that a branch for MIXED.

A task of Kubeflow sees what is beside it or around it, never what is inside a loop. So a node without axes that gathers from a loop and
is read by a later node in the loop (the report, which `register` records) moves into the loop, and shows its own processor there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bmflow_components import contracts
from bmflow_components.pipelines import OUTSIDE, Node, Pipeline, Runs, links

AXES = ("processor", "quantize")
LISTS = {"processor": "processors", "quantize": "precisions"}
"""The parameter of a pipeline that an axis runs over."""


@dataclass(frozen=True)
class Leaf:
    """A node as a task; `mark` tells tasks of the same node in two branches apart."""

    node: Node
    mark: str = ""

    @property
    def name(self) -> str:
        """The task's name."""
        return self.node.name.replace("_", "-") + self.mark


@dataclass(frozen=True)
class Block:
    """Tasks that Kubeflow runs as one: once for every value of an axis, or where a condition holds, or once.

    Attributes:
        over: the axis of a loop.
        when: the condition of a branch.
    """

    name: str
    entries: tuple[Entry, ...]
    over: str = ""
    when: str = ""


Entry = Leaf | Block


def leaves(entries: Sequence[Entry]) -> Iterator[Leaf]:
    """Every task, however deep."""
    for entry in entries:
        if isinstance(entry, Leaf):
            yield entry
        else:
            yield from leaves(entry.entries)


def exit_node(pipeline: Pipeline) -> Node | None:
    """The node that runs in any case, at the end of all."""
    return next((node for node in pipeline.nodes if node.runs is Runs.ALWAYS), None)


def layout(pipeline: Pipeline) -> tuple[Entry, ...]:
    """The tasks of a pipeline as they nest; without the last one that runs in any case."""
    last = exit_node(pipeline)
    outer: list[Entry] = []
    inner: list[Node] = []
    for node in pipeline.nodes:
        if node.over or _moves(pipeline, node):
            inner.append(node)
        elif node is not last:
            outer.append(Leaf(node))
    return (*outer, Block("for-each-processor", tuple(_of_processor(pipeline, inner)), over="processor")) if inner else tuple(outer)


def _moves(pipeline: Pipeline, node: Node) -> bool:
    """Whether a node without axes belongs into the loop."""
    reads = any(source != OUTSIDE and pipeline.node(source).over for _, source, _ in links(node))
    read = any(other.over and any(source == node.name for _, source, _ in links(other)) for other in pipeline.nodes)
    return not node.over and reads and read


def _of_processor(pipeline: Pipeline, nodes: Sequence[Node]) -> Iterator[Entry]:
    """The entries of the loop over processors; that over number types stands where its first node does."""
    candidates = [node for node in nodes if "quantize" in node.over]
    for node in nodes:
        if node not in candidates:
            yield Leaf(node)
        elif node is candidates[0]:
            yield Block("for-each-precision", _of_candidate(pipeline, candidates), over="quantize")


def _of_candidate(pipeline: Pipeline, nodes: Sequence[Node]) -> tuple[Entry, ...]:
    """The entries of the loop over number types: a branch each for those with nodes of their own and for the others."""
    special = [node for node in nodes if node.only]
    if not special:
        return tuple(Leaf(node) for node in nodes)
    kinds = {node.only for node in special}
    assert len(kinds) == 1, "one branch is all that is needed so far"
    value = " || ".join(f"inputs.parameter_values['quantize'] == '{name}'" for name in special[0].only)
    mark = f"-{'-'.join(special[0].only).lower()}"
    others = contracts.without(pipeline, [node.name for node in special]).nodes
    plain = tuple(Leaf(node) for node in others if node.name in {other.name for other in nodes})
    branch = tuple(Leaf(node, "" if node.only else mark) for node in nodes)
    cases = (Block(f"only{mark}", branch, when=value), Block(f"not{mark}", plain, when=f"!({value})"))
    return (Block("branches", cases),)
