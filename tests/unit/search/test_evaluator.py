"""Candidates computed layer by layer, and from where they part from a kept one: the same numbers as the whole lowered module."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import search_net as net
from bmflow.errors import InputError
from bmflow.ir.layer import layer_name
from bmflow.ir.module import Module
from bmflow.kernels import Executable, to_real
from bmflow.passes.lowering import lower
from bmflow.search.evaluator import Evaluator
from bmflow.search.plan import Candidate
from bmflow.tables.precision import PrecisionTable
from search_net import Case

NAMES = ["first", "act", "bad", "sum", "last"]


def _whole(case: Case, candidate: Candidate, sample: int) -> np.ndarray:
    """Output of the lowered module as model_deploy makes it."""
    options = replace(net.OPTIONS, table=candidate.table, precision=PrecisionTable(candidate.modes))
    lowered = lower(case.module, options)
    raw = Executable(lowered, "outputs", 1).run(case.inputs[sample])
    return to_real(lowered.outputs[0], raw[layer_name(lowered.outputs[0])])


@pytest.mark.parametrize("modes", list(product(("", "F16"), repeat=5)), ids=lambda modes: "".join(mode[:1] or "8" for mode in modes))
def test_layers_run_one_by_one_give_what_the_whole_module_gives(case: Case, modes: tuple[str, ...]) -> None:
    candidate = Candidate(case.table, {name: mode for name, mode in zip(NAMES, modes, strict=True) if mode})
    found = Evaluator(case.module, net.OPTIONS, case.inputs).outputs(candidate, 1)
    np.testing.assert_array_equal(found["last"], _whole(case, candidate, 1))


@pytest.mark.parametrize("modes", [{}, {"bad": "F16"}, {"act": "F16", "last": "F32"}], ids=["8", "bad", "act, last"])
def test_zero_points_and_single_layers_with_them_give_what_the_whole_module_gives(case: Case, modes: dict[str, str]) -> None:
    for options in (replace(net.OPTIONS, asymmetric=True), net.OPTIONS):
        table = case.table if options.asymmetric else replace(case.table, asym_ops=("act", "bad"))
        partial = Evaluator(case.module, options, case.inputs)
        partial.keep(Candidate(table, {}))
        lowered = lower(case.module, replace(options, table=table, precision=PrecisionTable(modes)))
        raw = Executable(lowered, "outputs", 1).run(case.inputs[1])
        whole = to_real(lowered.outputs[0], raw[layer_name(lowered.outputs[0])])
        np.testing.assert_array_equal(partial.outputs(Candidate(table, modes), 1)["last"], whole)


@pytest.mark.parametrize("kept_bytes", [1 << 20, 8000, 0])
def test_partial_execution_equals_full_execution_bit_for_bit(case: Case, kept_bytes: int) -> None:
    base = Candidate(case.table, {})
    partial, full = (Evaluator(case.module, net.OPTIONS, case.inputs, kept_bytes=size) for size in (kept_bytes, 0))
    partial.keep(base)
    for name in NAMES:
        candidate = base.with_modes({name: "F16"})
        for sample in range(len(case.inputs)):
            np.testing.assert_array_equal(partial.outputs(candidate, sample)["last"], full.outputs(candidate, sample)["last"])
        assert partial.score(candidate) == full.score(candidate)


def test_only_what_follows_the_changed_layer_is_computed(case: Case) -> None:
    evaluator = Evaluator(case.module, net.OPTIONS, case.inputs)
    evaluator.keep(Candidate(case.table, {}))
    for changed, layers in (("first", 5), ("bad", 3), ("sum", 2), ("last", 1)):
        before = evaluator.runs
        evaluator.score(Candidate(case.table, {changed: "F16"}))
        assert evaluator.runs - before == layers * len(case.inputs)


def test_a_changed_threshold_changes_what_reads_and_makes_the_value(case: Case) -> None:
    evaluator = Evaluator(case.module, net.OPTIONS, case.inputs)
    evaluator.keep(Candidate(case.table, {}))
    row = case.table.ranges["sum"]
    other = replace(case.table, ranges={**case.table.ranges, "sum": replace(row, threshold=row.threshold / 2)})
    before = evaluator.runs
    found = evaluator.outputs(Candidate(other, {}))
    assert evaluator.runs - before == 2
    np.testing.assert_array_equal(found["last"], _whole(case, Candidate(other, {}), 0))


def test_everything_in_f32_has_no_noise(case: Case) -> None:
    score = Evaluator(case.module, net.OPTIONS, case.inputs).score(Candidate(case.table, dict.fromkeys(NAMES, "F32")))
    assert score.noise < 1e-12
    assert score.cosine == pytest.approx(1)
    assert score.compatible == pytest.approx(1)


def test_other_layers_can_be_compared_and_post_processed(case: Case) -> None:
    candidate = Candidate(case.table, {})
    chosen = Evaluator(case.module, net.OPTIONS, case.inputs, {"act": 0.25, "last": 0.75})
    assert set(chosen.outputs(candidate)) == {"act", "last"}
    halves = Evaluator(case.module, net.OPTIONS, case.inputs, process=lambda values: {"half": values["last"][:, :2]})
    assert halves.outputs(candidate)["half"].shape == (1, 2, 8, 8)
    assert 0 < halves.score(candidate).noise <= 1


def test_unknown_layers_and_no_samples_are_refused(case: Case) -> None:
    with pytest.raises(InputError, match=r"lost \(did you mean last\?\)"):
        Evaluator(case.module, net.OPTIONS, case.inputs, {"lost": 1.0})
    with pytest.raises(InputError, match="at least one sample"):
        Evaluator(case.module, net.OPTIONS, [])


def test_similarities_are_those_of_every_layer_to_its_float_value(case: Case) -> None:
    evaluator = Evaluator(case.module, net.OPTIONS, case.inputs[:1])
    found = evaluator.similarities(Candidate(case.table, {net.BAD: "F16"}))
    options = replace(net.OPTIONS, table=case.table, precision=PrecisionTable({net.BAD: "F16"}))
    lowered: Module = lower(case.module, options)
    raw, exact = Executable(lowered, "all", 1).run(case.inputs[0]), Executable(case.module, "all", 1).run(case.inputs[0])
    for op in lowered.layers():
        if op.layer_name in found:
            y, q = exact[op.layer_name].ravel().astype(float), to_real(op.results[0], raw[op.layer_name]).ravel().astype(float)
            assert found[op.layer_name] == pytest.approx(0.5 + 0.5 * y @ q / np.sqrt((y @ y) * (q @ q)), abs=1e-9)
