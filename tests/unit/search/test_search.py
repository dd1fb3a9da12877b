"""The search finds the known worst layer, its points cannot be improved on each other, and it goes on where it was stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import search_net as net
from bmflow.calibration.methods import Method
from bmflow.search.compatible import Mixed, MixSearch, SearchQtable, Settings, best_threshold_table, loss_table
from bmflow.search.cost import CostModel
from bmflow.search.journal import Journal, Scorer
from bmflow.search.pareto import Bar, Found, Point, Search, knees, pareto
from bmflow.search.plan import Candidate, Plan
from bmflow.search.scores import Score
from bmflow.search.sensitivity import alone, noise_model
from bmflow.search.thresholds import choose_thresholds
from bmflow.search.unit import units
from search_net import Case

BAR = Bar(sqnr=25)


def _run(case: Case, scorer: Scorer, bar: Bar = BAR, **options) -> Found:
    return Search(scorer, CostModel(net.flat_cost, case.module.output_names), case.table, "F16", bar, **options).run()


def test_units_join_activations_to_what_computes(case: Case) -> None:
    assert units(case.module) == [("first", "act"), ("bad",), ("sum",), ("last",)]


def test_the_worst_layer_is_the_one_made_to_be(case: Case) -> None:
    found = alone(case.scorer(), case.table, [(name,) for name in ("first", "act", "bad", "sum", "last")])
    noises = {group[0]: score.noise for group, score in found.items()}
    assert max(noises, key=lambda name: noises[name]) == net.BAD
    assert noises[net.BAD] > 100 * max(noise for name, noise in noises.items() if name != net.BAD)


def test_noises_measured_alone_add_up_to_that_of_the_whole(case: Case) -> None:
    scorer = case.scorer()
    model = noise_model(scorer, case.table, units(case.module))
    for lifted in ({("bad",)}, {("bad",), ("last",)}, {("bad",), ("sum",)}):
        real = scorer.score(Candidate(case.table, {name: "F16" for unit in lifted for name in unit})).noise
        assert model.noise(lifted) == pytest.approx(real, rel=1), "within a factor of two"


def test_the_search_lifts_exactly_the_worst_layer(case: Case) -> None:
    found = _run(case, case.scorer())
    assert found.best is not None
    assert found.best.lifted == {net.BAD}
    assert found.finished


def test_without_a_bar_everything_stays_in_8_bits(case: Case) -> None:
    best = _run(case, case.scorer(), Bar()).best
    assert best is not None
    assert best.lifted == frozenset()


def test_a_bar_beyond_reach_finds_nothing_and_says_what_is_missing(case: Case) -> None:
    found = _run(case, case.scorer(), Bar(sqnr=190))
    assert found.best is None
    closest = min(found.points.values(), key=lambda point: point.score.noise)
    assert "SQNR" in Bar(sqnr=190).missing(closest.score)


@pytest.mark.parametrize("ratio", [1.0, 1.4, 1.8, 9.0])
def test_within_a_limit_of_cycles_the_least_noise_is_found(case: Case, ratio: float) -> None:
    """Against every table there is: the four units are few enough to try all."""
    scorer, costs = case.scorer(), CostModel(net.flat_cost, case.module.output_names)
    limit = round(ratio * costs.cycles(scorer.evaluator.planner.plan(Candidate(case.table, {}))))
    best = _run(case, scorer, limit=limit).best
    assert best is not None
    assert best.cycles <= limit
    every = [[name for unit in chosen for name in unit] for count in range(5) for chosen in combinations(units(case.module), count)]
    candidates = [Candidate(case.table, dict.fromkeys(names, "F16")) for names in every]
    within = [one for one in candidates if costs.cycles(scorer.evaluator.planner.plan(one)) <= limit]
    assert best.score.noise <= 1.01 * min(scorer.score(one).noise for one in within)


def test_fixed_modes_are_left_alone(case: Case) -> None:
    found = _run(case, case.scorer(), fixed={net.BAD: "INT8", "last": "F32"})
    assert found.best is None
    assert all(not point.lifted & {net.BAD, "last"} for point in found.points.values())


def test_points_of_the_pareto_set_do_not_beat_each_other(case: Case) -> None:
    front = _run(case, case.scorer()).front
    assert len(front) > 2
    for one in front:
        for other in front:
            assert one is other or one.cycles < other.cycles or one.score.noise < other.score.noise
    assert [point.cycles for point in front] == sorted(point.cycles for point in front)


def test_costs_of_a_plan_are_those_of_the_whole_module(case: Case) -> None:
    from bmflow.passes.lowering import lower
    from bmflow.tables.precision import PrecisionTable

    found, scorer = _run(case, case.scorer()), case.scorer()
    for point in found.points.values():
        modes = dict.fromkeys(point.lifted, "F16")
        lowered = lower(case.module, replace(net.OPTIONS, table=case.table, precision=PrecisionTable(modes)))
        assert net.flat_cost(lowered).cycles == point.cycles
        assert scorer.score(Candidate(case.table, modes)) == point.score


def test_knees_are_the_inner_corners_of_the_lower_hull() -> None:
    points = [Point(frozenset([str(c)]), Score(1, 10.0**-n, 1, 0), c) for c, n in ((100, 1), (110, 3), (150, 3.2), (200, 4))]
    assert pareto(points) == points
    assert [point.cycles for point in knees(points)] == [110]


class _StopError(Exception):
    """Stands for an interruption."""


def test_an_interrupted_search_goes_on_to_the_same_result(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _run(case, case.scorer())
    path = str(tmp_path / "journal")
    scorer, measured = case.scorer(path, "d"), Scorer._measure

    def stop_after(count: int):
        left = [count]

        def measure(self: Scorer, key: str, plan: Plan) -> None:
            if not left[0]:
                raise _StopError
            left[0] -= 1
            measured(self, key, plan)

        return measure

    monkeypatch.setattr(Scorer, "_measure", stop_after(5))
    with pytest.raises(_StopError):
        _run(case, scorer)
    Path(path).write_text(Path(path).read_text() + '{"key": "cut sho')
    monkeypatch.setattr(Scorer, "_measure", measured)
    resumed = case.scorer(path, "d")
    assert len(resumed.journal.known) == 5
    again = _run(case, resumed)
    assert (again.points, again.best) == (whole.points, whole.best)
    monkeypatch.setattr(Scorer, "_measure", stop_after(0))
    assert _run(case, case.scorer(path, "d")).best == whole.best, "all scores are known now"


def test_candidates_of_the_same_outputs_are_scored_once(case: Case) -> None:
    scorer = case.scorer()
    score = scorer.score(Candidate(case.table, {"last": "F32"}))
    row = case.table.ranges["last"]
    other = replace(case.table, ranges={**case.table.ranges, "last": replace(row, threshold=2 * row.threshold)})
    runs = scorer.evaluator.runs
    assert scorer.score(Candidate(other, {"last": "F32"})) == score
    assert scorer.evaluator.runs == runs, "the range of a float layer plays no part"


def test_a_journal_of_other_samples_is_begun_anew(case: Case, tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    _run(case, case.scorer(path, "one"))
    assert case.scorer(path, "one").journal.known
    assert not case.scorer(path, "two").journal.known
    assert json.loads(Path(path).read_text()) == {"digest": "two"}


def test_a_journal_gives_back_what_was_added_to_the_last_digit(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", "d")
    journal.add("a", Score(1 / 3, 2 / 3, 1 / 7, 1e-9 / 3), 1 / 3)
    assert Journal(tmp_path / "journal", "d").known == journal.known


def test_the_time_budget_ends_the_search(case: Case) -> None:
    found, whole = _run(case, case.scorer(), seconds=1e-9), _run(case, case.scorer())
    assert not found.finished
    assert len(found.points) < len(whole.points)
    assert frozenset() in found.points


def test_each_threshold_is_chosen_by_its_effect(case: Case) -> None:
    good = case.table
    spoilt = {name: replace(row, threshold=row.threshold / 50) for name, row in good.ranges.items()}
    mixed = {name: (row if name in ("x", "act") else spoilt[name]) for name, row in good.ranges.items()}
    other = {name: (spoilt[name] if name in ("x", "act") else row) for name, row in good.ranges.items()}
    tables = {"one": replace(good, ranges=mixed), "two": replace(good, ranges=other)}
    chosen = choose_thresholds(case.scorer(), tables, "one")
    assert {name: chosen.table.ranges[name] for name in ("first", "act", "bad", "sum", "last")} == {
        name: good.ranges[name] for name in ("first", "act", "bad", "sum", "last")
    }
    assert chosen.methods["last"] == "two"


def test_search_threshold_keeps_the_table_closest_to_float(case: Case) -> None:
    narrow = {name: replace(row, threshold=row.threshold / 30) for name, row in case.table.ranges.items()}
    tables = {"narrow": replace(case.table, ranges=narrow), "max": case.table, "mse": net.table(case.module, case.inputs, Method.MSE)}
    for benchmark in ("cos", "snr"):
        best, scores = best_threshold_table(case.scorer(), tables, {net.BAD: "F16"}, benchmark)
        assert best != "narrow"
        assert scores[best].compatible >= max(score.compatible for score in scores.values()) - 1e-4


def _qtable(case: Case, settings: Settings, **options) -> Mixed:
    first = net.scorer(case.module, case.inputs[:1])
    return SearchQtable(case.scorer(), first, {"max": case.table}, "max", options.get("given", {}), settings).run()


def test_search_qtable_lifts_the_worst_layer_first(case: Case) -> None:
    found = _qtable(case, Settings("F16", expected_cos=0.999, max_float_layers=1))
    assert found.modes == {net.BAD: "F16"}
    assert max(found.losses, key=lambda name: found.losses[name]) == net.BAD
    assert found.before.compatible < 0.999 < found.after.compatible


def test_search_qtable_clusters_losses_on_request(case: Case) -> None:
    assert _qtable(case, Settings("F16", expected_cos=0.999, cluster=True)).modes == {net.BAD: "F16"}


def test_search_qtable_has_nothing_to_do_where_8_bits_suffice(case: Case) -> None:
    found = _qtable(case, Settings("F16", expected_cos=0.2), given={"last": "F16"})
    assert found.modes == {"last": "F16"}
    assert found.before == found.after


def test_mix_search_lifts_the_first_layer_whose_own_output_is_off(case: Case) -> None:
    found = MixSearch(case.scorer(), case.table, {}, Settings("F16", 0.999, 0.99, 5)).run()
    assert found.modes == {net.BAD: "F16"}
    assert found.losses[net.BAD] < 0.99 < found.losses["act"]


def test_a_loss_table_lists_layers_in_ascending_order() -> None:
    text = loss_table({"a": 0.75, "b": 0.5}, ["sample number: 3"])
    assert text.splitlines() == [
        "# sample number: 3", "###",
        f"No.0    : Layer: {'b':<50}\t\t\tCos: 0.500000", f"No.1    : Layer: {'a':<50}\t\t\tCos: 0.750000",
    ]  # fmt: skip


def test_two_searches_give_the_same_scores(case: Case) -> None:
    one, two = _run(case, case.scorer()), _run(case, case.scorer())
    assert one.points == two.points
    assert np.array_equal([p.cycles for p in one.front], [p.cycles for p in two.front])
