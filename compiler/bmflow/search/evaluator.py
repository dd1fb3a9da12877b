"""Computes what candidates give on some samples; of a candidate, only the layers are run that no kept one has computed already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from bmflow.errors import InputError
from bmflow.ir.module import Module
from bmflow.ir.types import dtype_of, shape_of
from bmflow.kernels import Executable
from bmflow.passes.lowering import LoweringOptions
from bmflow.passes.lowering.ranges import require_known
from bmflow.search.piece import Piece
from bmflow.search.plan import Candidate, Plan, Planner
from bmflow.search.scores import Reference, Score, Sums, score

Arrays = dict[str, np.ndarray]
Stored = dict[str, np.ndarray]
"""Stored numbers of layers by signature."""
_T = TypeVar("_T")


class Evaluator:
    """Scores candidates of one top module against its float outputs.

    `keep` holds the inner values of a plan, so that plans which begin like it are computed from where they part. `runs` counts the
    layers computed, on all samples.
    """

    def __init__(
        self,
        module: Module,
        options: LoweringOptions,
        samples: Sequence[Mapping[str, np.ndarray]],
        compare: Mapping[str, float] | None = None,
        process: Callable[[Arrays], Arrays] | None = None,
        threads: int = 2,
        kept_bytes: int = 1 << 30,
        reference: Module | None = None,
    ):
        """Compute the float outputs.

        Args:
            compare: layers whose values are the score, and their weights; by default the network outputs, equally.
            process: what is done to the compared values, float and quantized alike, before they are compared.
            kept_bytes: memory that inner values may take, all samples together.
            reference: the module whose float outputs count; by default `module` itself. One with corrected biases is meant to come close
                to the uncorrected one.
        Raises:
            InputError: no sample, or unknown layers.
        """
        if not samples:
            raise InputError("a search needs at least one sample")
        self.module, self.samples, self.threads, self.runs = module, list(samples), threads, 0
        self.planner = Planner(module, options)
        self._process = process or (lambda values: values)
        names = list(dict.fromkeys(module.output_names))
        self._compare = dict(compare) if compare else dict.fromkeys(names, 1 / len(names))
        require_known(self._compare, [op.layer_name for op in module.layers()], "the compared layers", "correct the names")
        self._kept: list[Stored] = [{} for _ in self.samples]
        self._kept_bytes = kept_bytes
        float_network = Executable(reference or module, list(self._compare), 1)
        self.references = self._each(lambda i: _references(self._process(float_network.run(self.samples[i]))))
        self._weights = self._weights_of(self.references[0])

    def _weights_of(self, outputs: Mapping[str, Reference]) -> dict[str, float]:
        """Weights of what is compared; equal ones when the post-processing gives values of other names."""
        if set(outputs) == set(self._compare):
            return self._compare
        return dict.fromkeys(outputs, 1 / len(outputs))

    def identity(self, plan: Plan) -> str:
        """Equal for plans that give the same outputs, in any run."""
        return " ".join(plan.signatures[name] for name in self._compare)

    def score(self, candidate: Candidate | Plan) -> Score:
        """How far a candidate's outputs are from float."""
        plan = candidate if isinstance(candidate, Plan) else self.planner.plan(candidate)
        return score(self._each(lambda i: self._sums(plan, i)), self._weights)

    def outputs(self, candidate: Candidate, sample: int = 0) -> Arrays:
        """Real values of the compared layers."""
        return self._outputs(self.planner.plan(candidate), sample)

    def similarities(self, candidate: Candidate) -> dict[str, float]:
        """0.5 + 0.5 * cosine of every layer's value to its float value, mean over samples."""
        plan, names = self.planner.plan(candidate), list(self.planner.ops)
        float_network = Executable(self.module, names, 1)
        samples = self._each(lambda i: self._cosines(plan, i, float_network.run(self.samples[i])))
        return {name: 0.5 + 0.5 * float(np.mean([sample[name] for sample in samples])) for name in names}

    def _cosines(self, plan: Plan, sample: int, references: Arrays) -> dict[str, float]:
        values = self._values(plan, sample, references)
        found = {name: plan.pieces[name].real(values[plan.signatures[name]]) for name in references}
        return {name: Sums.of(Reference.of(reference), found[name]).whole_cosine() for name, reference in references.items()}

    def keep(self, candidate: Candidate) -> None:
        """Hold the inner values of a candidate, as many as fit, instead of those held so far."""
        plan = self.planner.plan(candidate)
        names = self._worth_keeping(plan)
        self._kept = self._each(lambda i: self._values(plan, i, names))

    def _sums(self, plan: Plan, sample: int) -> dict[str, Sums]:
        found = self._outputs(plan, sample)
        return {name: Sums.of(reference, found[name]) for name, reference in self.references[sample].items()}

    def _outputs(self, plan: Plan, sample: int) -> Arrays:
        values = self._values(plan, sample, self._compare)
        found = {name: values[plan.signatures[name]] for name in self._compare}
        return self._process({name: plan.pieces[name].real(raw) if name in plan.pieces else raw for name, raw in found.items()})

    def _values(self, plan: Plan, sample: int, wanted: Iterable[str]) -> Stored:
        """Values of some layers."""
        kept, names, keys = self._kept[sample], list(wanted), plan.signatures
        work = self._work(plan, names, kept)
        values = {keys[name]: self.samples[sample][name] for name in self.planner.inputs}
        readers = Counter(keys[operand] for name in work for operand in plan.pieces[name].operands)
        readers.update(keys[name] for name in names)
        for name in work:
            piece = plan.pieces[name]
            operands = {operand: values[keys[operand]] if keys[operand] in values else kept[keys[operand]] for operand in piece.operands}
            values[keys[name]] = piece.executable.run(operands)[name]
            for operand in piece.operands:
                readers[keys[operand]] -= 1
                if not readers[keys[operand]]:
                    values.pop(keys[operand], None)
        self.runs += len(work)
        return {keys[name]: values[keys[name]] if keys[name] in values else kept[keys[name]] for name in names}

    def _work(self, plan: Plan, names: Iterable[str], kept: Stored) -> list[str]:
        """Layers to compute, in program order, to know some."""
        needed, pending = set[str](), list(names)
        while pending:
            name = pending.pop()
            if name in needed or name not in plan.pieces or plan.signatures[name] in kept:
                continue
            needed.add(name)
            pending += plan.pieces[name].operands
        return [name for name in plan.pieces if name in needed]

    def _worth_keeping(self, plan: Plan) -> list[str]:
        """Every layer if all fit; else what crosses evenly spaced places of the program, as many places as fit."""
        names, sizes = list(plan.pieces), {name: _bytes(piece) for name, piece in plan.pieces.items()}
        fits = self._kept_bytes // len(self.samples)
        if sum(sizes.values()) <= fits:
            return names
        crossing = _crossing(plan, names, list(self._compare))
        for places in range(len(names), 0, -1):
            chosen = {name for k in range(places) for name in crossing[(k + 1) * len(names) // (places + 1)]}
            if sum(sizes[name] for name in chosen) <= fits:
                return [name for name in names if name in chosen]
        return []

    def _each(self, work: Callable[[int], _T]) -> list[_T]:
        """Do something with every sample, side by side; results in order."""
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(work, range(len(self.samples))))


def _references(values: Arrays) -> dict[str, Reference]:
    return {name: Reference.of(array) for name, array in values.items()}


def _crossing(plan: Plan, names: Sequence[str], compared: Sequence[str]) -> list[list[str]]:
    """For every place of the program, the values made before it and read behind it."""
    place = {name: index for index, name in enumerate(names)}
    last = dict(place) | dict.fromkeys((name for name in compared if name in place), len(names))
    for name in names:
        for operand in plan.pieces[name].operands:
            if operand in last:
                last[operand] = max(last[operand], place[name])
    return [[name for name in names[:index] if last[name] >= index] for index in range(len(names))]


def _bytes(piece: Piece) -> int:
    """Size of a layer's stored value as kernels hold it."""
    return int(np.prod(shape_of(piece.result))) * dtype_of(piece.result).numpy.itemsize
