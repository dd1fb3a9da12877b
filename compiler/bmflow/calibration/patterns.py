"""Layers that are better left in float, found by the shape of the network, each with its reason: the table beside every calibration table.

A pattern names layers by what surrounds them; which patterns are looked for is the user's choice. The first one that names a layer
gives its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bmflow.dialects.top.conv import TopConvOp
from bmflow.dialects.top.elementwise import (
    TopAddOp,
    TopGELUOp,
    TopMulOp,
    TopReluOp,
    TopScaledActiveOp,
    TopSigmoidOp,
    TopSiLUOp,
    TopSoftmaxOp,
)
from bmflow.dialects.top.matmul import TopLayerNormOp, TopMatMulOp
from bmflow.dialects.top.shape import TopPermuteOp, TopReshapeOp, TopSliceOp
from bmflow.errors import InputError, nearest_names
from bmflow.ir.layer import LayerOp
from bmflow.ir.module import Module
from bmflow.ir.structure import TopInputOp, TopWeightOp
from bmflow.ir.values import Operation
from bmflow.passes.lowering.heads import is_head
from bmflow.passes.lowering.propagate import activations
from bmflow.passes.rewrite import producer, readers, users
from bmflow.tables.precision import PrecisionTable

PATTERN_LAYERS = "pattern layers"
FLOAT_OF_CHIP = {
    "bm1684": "F32", "bm1684x": "F16", "bm1688": "F16", "cv186x": "F16", "bm1690": "F16",
    "cv184x": "BF16", "cv183x": "BF16", "cv182x": "BF16", "cv181x": "BF16", "cv180x": "BF16",
}  # fmt: skip
"""The float type of single layers in an 8-bit network, by processor."""
_PRODUCTS = (TopConvOp, TopMatMulOp)
_ACTIVATIONS = (TopReluOp, TopSigmoidOp, TopSiLUOp, TopGELUOp, TopScaledActiveOp)
_SCALE_AND_MASK = (TopMulOp, TopAddOp, TopReshapeOp, TopPermuteOp)
_MOVES = (TopSliceOp, TopReshapeOp, TopPermuteOp)
_POOLS = ("MaxPool", "MaxPool", "MaxPool", "Concat")
"""A run of op types in program order that YOLO networks have, v5 to v12 and yolox."""


@dataclass(frozen=True)
class Pattern:
    """Layers known by their surroundings, and why they are better in float. `usual`: looked for unless the user says otherwise."""

    name: str
    usual: bool
    reason: str
    layers: Callable[[Module], list[str]]


def pattern_table(module: Module, chip: str, names: Sequence[str] | None = None) -> PrecisionTable:
    """The layers that patterns name, in program order; without `names` of the usual patterns.

    Raises:
        InputError: an unknown pattern.
    """
    reasons: dict[str, str] = {}
    for pattern in patterns_named(USUAL if names is None else names):
        reasons = dict.fromkeys(pattern.layers(module), f"{PATTERN_LAYERS}, {pattern.name}: {pattern.reason}") | reasons
    ordered = [op.layer_name for op in module.layers() if op.layer_name in reasons]
    mode = FLOAT_OF_CHIP[chip]
    return PrecisionTable(dict.fromkeys(ordered, mode), {name: reasons[name] for name in ordered}, chip=chip, mix_mode=mode)


def patterns_named(names: Iterable[str]) -> list[Pattern]:
    """Patterns by name, in the order of `PATTERNS`.

    Raises:
        InputError: an unknown name.
    """
    known = {pattern.name: pattern for pattern in PATTERNS}
    wanted = set(names)
    for name in sorted(wanted - known.keys()):
        hint = nearest_names(name, known) or f"known are {', '.join(known)}"
        raise InputError(f"--patterns {name}: no such pattern; {hint}, or none")
    return [pattern for pattern in PATTERNS if pattern.name in wanted]


def from_text(text: str) -> tuple[str, ...]:
    """Names separated by commas; the usual patterns for an empty text, none for `none`."""
    names = tuple(name for part in text.split(",") if (name := part.strip()))
    return () if names == ("none",) else names or USUAL


def yolo_tail(module: Module) -> list[str]:
    """What follows the head convolutions of a network that has the three pools and the Concat of YOLO; empty for others."""
    types = [op.name.removeprefix("top.") for op in module.layers()]
    runs = (tuple(types[i : i + len(_POOLS)]) for i in range(len(types)))
    return detector_tail(module) if _POOLS in runs else []


def detector_tail(module: Module) -> list[str]:
    """Every layer behind the head convolutions of a YOLO network; the convolutions themselves stay 8-bit."""
    tail: set[LayerOp] = set()
    for op in module.layers():  # program order: every operand is decided before its users
        if any(isinstance(operand.owner, LayerOp) and (operand.owner in tail or is_head(operand.owner)) for operand in op.operands):
            tail.add(op)
    return [op.layer_name for op in module.layers() if op in tail]


def softmaxes(module: Module) -> list[str]:
    """Every Softmax, and the scale, mask and moves between it and what computes its argument."""
    found: set[LayerOp] = set()
    pending = [op for op in module.layers() if isinstance(op, TopSoftmaxOp)]
    while pending:
        op = pending.pop()
        found.add(op)
        sources = (producer(value) for value in op.operands)
        pending += [source for source in sources if isinstance(source, _SCALE_AND_MASK) and len(users(source.results[0])) == 1]
    return [op.layer_name for op in module.layers() if op in found]


def residual_sums(module: Module) -> list[str]:
    """In a network with attention every Add that a LayerNorm reads, and what only moves its values on the way (quantization notes, 5.1)."""
    layers, found = list(module.layers()), set[LayerOp]()
    if not any(isinstance(op, TopMatMulOp) and _holds_probabilities(producer(op.input)) for op in layers):
        return []
    for op in reversed(layers):
        if isinstance(op, (TopAddOp, *_MOVES)) and any(isinstance(reader, TopLayerNormOp) or reader in found for reader in _movers(op)):
            found.add(op)
    sums = {op for op in found if isinstance(op, TopAddOp)}
    return [op.layer_name for op in layers if op in found and (op in sums or _source(op) in sums)]


def _holds_probabilities(op: Operation | None) -> bool:
    """Whether an op is a Softmax, or the Mul that softmax correction puts behind it."""
    return isinstance(op, TopSoftmaxOp) or (isinstance(op, TopMulOp) and any(isinstance(producer(v), TopSoftmaxOp) for v in op.operands))


def _movers(op: LayerOp) -> list[LayerOp]:
    """The LayerNorms and moves that read a layer."""
    return [reader for reader in readers(op) if isinstance(reader, (TopLayerNormOp, *_MOVES))]


def _source(op: LayerOp) -> Operation | None:
    """What made the values that a layer moves."""
    source = producer(op.operands[0])
    return _source(source) if isinstance(source, LayerOp) and isinstance(source, _MOVES) else source


def first_layers(module: Module) -> list[str]:
    """The convolutions and matrix products of which nothing comes before but network inputs, and moves and normalizations of these; with
    all of that and the activations behind them."""
    found: set[LayerOp] = set()
    for op in module.layers():  # program order: every operand is decided before its users
        sources = [] if isinstance(op, TopInputOp) else [producer(value) for value in activations(op)]
        if sources and all(isinstance(source, TopInputOp) or (source in found and _leads_to(source, op)) for source in sources):
            found.add(op)
    return [op.layer_name for op in module.layers() if op in found]


def _leads_to(source: Operation | None, reader: LayerOp) -> bool:
    """Whether a reader of one of the first layers belongs to them: behind a product its activation, and nothing behind that."""
    if isinstance(source, _PRODUCTS):
        return isinstance(reader, _ACTIVATIONS)
    return not (isinstance(source, _ACTIVATIONS) and isinstance(producer(source.operands[0]), _PRODUCTS))


def last_layers(module: Module) -> list[str]:
    """The convolutions and matrix products that give a network output, also through other layers, and what lies behind them."""
    found: set[LayerOp] = set()
    outputs = set(module.output_names)
    pending = [op for op in module.layers() if op.layer_name in outputs]
    while pending:
        op = pending.pop()
        if op in found or isinstance(op, TopInputOp):
            continue
        found.add(op)
        if not isinstance(op, _PRODUCTS):
            pending += [source for source in map(producer, op.operands) if isinstance(source, LayerOp)]
    return [op.layer_name for op in module.layers() if op in found]


def one_sided(module: Module) -> tuple[str, ...]:
    """Layers worth a zero point: SiLUs and GELUs that only products with constants read, and those products (quantization notes, 2.10)."""
    found: list[str] = []
    for op in module.layers():
        behind = readers(op)
        bent = isinstance(op, TopSiLUOp | TopGELUOp) or (isinstance(op, TopScaledActiveOp) and op["mode"] == "SILU")
        if bent and behind and all(isinstance(user, _PRODUCTS) and isinstance(producer(user.operands[1]), TopWeightOp) for user in behind):
            found += [op.layer_name, *(user.layer_name for user in behind)]
    return tuple(dict.fromkeys(found))


PATTERNS = (
    Pattern("yolo", True, "behind the head convolutions one scale would serve coordinates and scores alike", yolo_tail),
    Pattern("softmax", True, "exp makes factors of rounding steps, and steps of 1/255 lose small probabilities", softmaxes),
    Pattern(
        "attention",
        True,
        "a sum that goes on from block to block comes to hold outliers, which normalization makes the most of",
        residual_sums,
    ),
    Pattern("first", False, "their noise goes through the whole network", first_layers),
    Pattern("last", False, "nothing behind them averages their noise out", last_layers),
)
USUAL = tuple(pattern.name for pattern in PATTERNS if pattern.usual)
