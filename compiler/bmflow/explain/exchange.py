"""What single layers do to the network outputs: alone in INT8 in the float network, and alone in float in the 8-bit one.

Of a network with one layer exchanged, only that layer and what follows it is computed; the rest is taken from the network it was
exchanged in. Layers are lowered one by one and shared between all exchanges (`search.plan`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from bmflow.explain.bench import Arrays, Bench
from bmflow.passes.lowering.base import INT8
from bmflow.search.plan import Candidate, Plan, Planner
from bmflow.search.scores import Reference, Score, Sums, score

Stored = Mapping[str, np.ndarray]
"""Stored numbers of layers by the signature of their plan."""
OutputSums = Mapping[str, Sums]
"""By output name, of one sample."""


@dataclass(frozen=True)
class Effect:
    """Scores of the network outputs with one layer exchanged; None where there is nothing to exchange.

    alone: it is in INT8, all else in float. lifted: it is in float inside the 8-bit network, where readers in INT8 still get its values
    in 8 bits. freed: its readers are in float, too.
    """

    alone: Score | None
    lifted: Score | None
    freed: Score | None


FORMS = tuple(field.name for field in fields(Effect))
NETWORK = ("", "")
"""Key of the 8-bit network as it is, beside the exchanges (layer, form)."""
Key = tuple[str, str]


class Exchanger:
    """Exchanges some layers of one network."""

    def __init__(self, bench: Bench, names: Sequence[str]) -> None:
        """Plan every exchange."""
        options, table = bench.options, bench.options.table
        assert table is not None, "a bench has a table"
        self._bench, self._names = bench, names
        self._outputs = list(dict.fromkeys(bench.module.output_names))
        self._planner = Planner(bench.module, replace(options, precision=None))
        self._given = dict(options.precision.modes) if options.precision else {}
        self._candidate = Candidate(table, self._given)
        self._floats = dict.fromkeys(self._planner.ops, "F32")
        self._float_plan, self._plan = self._planned(self._floats), self._planned(self._given)
        self._exchanges: dict[Key, Plan] = {}
        for name in names:
            self._exchanges |= {(name, form): self._planned(modes) for form, modes in self._modes(name).items()}

    def outputs_of(self, sample: Arrays) -> dict[Key, OutputSums]:
        """How far the outputs are from float on one batch of network inputs, of the 8-bit network and of every exchange."""
        reals, raws = self._bench.floats.run(sample), self._bench.integers.run(sample)
        references = {name: Reference.of(reals[name]) for name in self._outputs}
        floats = {key: reals[name] for name, key in self._float_plan.signatures.items()}
        integers = {key: reals[name] if name in self._planner.inputs else raws[name] for name, key in self._plan.signatures.items()}
        found: dict[Key, OutputSums] = {NETWORK: self._sums(self._plan, integers, references)}
        for key, plan in self._exchanges.items():
            found[key] = self._sums(plan, floats if key[1] == "alone" else integers, references)
        return found

    def scores(self, samples: Sequence[Mapping[Key, OutputSums]]) -> tuple[Score, dict[str, Effect]]:
        """Join what `outputs_of` gave of all samples: the score of the 8-bit network, and the effects by layer."""
        weights = dict.fromkeys(self._outputs, 1 / len(self._outputs))
        joined = {key: score([sample[key] for sample in samples], weights) for key in samples[0]}
        return joined[NETWORK], {name: Effect(*(joined.get((name, form)) for form in FORMS)) for name in self._names}

    def _planned(self, modes: Mapping[str, str]) -> Plan:
        return self._planner.plan(self._candidate.with_modes(modes))

    def _modes(self, name: str) -> dict[str, dict[str, str]]:
        """Modes of all layers for each form of exchange that a layer has."""
        found: dict[str, dict[str, str]] = {}
        if name in self._bench.int8_forms:
            found["alone"] = self._floats | {name: INT8}
        if self._bench.computes_in_int8(name):
            found["lifted"] = self._given | {name: self._bench.options.float_mode}
            if readers := self._bench.readers(name):
                found["freed"] = found["lifted"] | dict.fromkeys(readers, self._bench.options.float_mode)
        return found

    def _sums(self, plan: Plan, known: Stored, references: Mapping[str, Reference]) -> OutputSums:
        made = {plan.signatures[name]: raw for name, raw in walk(plan, known, self._outputs) if name in references}
        raws = {name: made[key] if (key := plan.signatures[name]) in made else known[key] for name in references}
        return {name: Sums.of(references[name], plan.pieces[name].real(raw) if name in plan.pieces else raw) for name, raw in raws.items()}


def walk(plan: Plan, known: Stored, wanted: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Compute the layers that the wanted ones need and whose values are not known, in program order; yield names and stored values."""
    work, keys = _unknown(plan, known, wanted), plan.signatures
    made: dict[str, np.ndarray] = {}
    readers = Counter(keys[operand] for name in work for operand in plan.pieces[name].operands)
    for name in work:
        piece = plan.pieces[name]
        operands = {operand: made[keys[operand]] if keys[operand] in made else known[keys[operand]] for operand in piece.operands}
        result = piece.executable.run(operands)[name]
        yield name, result
        made[keys[name]] = result
        readers.subtract(keys[operand] for operand in piece.operands)
        for key in [key for key in made if readers[key] <= 0]:
            del made[key]


def _unknown(plan: Plan, known: Stored, wanted: Collection[str]) -> list[str]:
    needed, pending = set[str](), list(wanted)
    while pending:
        name = pending.pop()
        if name in plan.pieces and name not in needed and plan.signatures[name] not in known:
            needed.add(name)
            pending += plan.pieces[name].operands
    return [name for name in plan.pieces if name in needed]
