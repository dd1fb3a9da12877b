"""What is written about a network: page, list, quantize table, advice."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from bmflow.explain import listing, page
from bmflow.explain.advice import Situation, advise
from bmflow.explain.diagnose import Remedy
from bmflow.explain.report import Report, worst_table
from bmflow.explain.texts import decibels
from bmflow.explain.trials import Trial
from bmflow.search.scores import Score
from bmflow.tables.precision import PrecisionTable
from patients import Examined, Net, examine, mixing, ranges, samples

HERE = Situation("net.mlir", "my table", ("--dataset", "data", "--input_num", "4"), 50, "kl", "bm1684x", False, False)


@pytest.fixture
def spread(rng: np.random.Generator) -> Examined:
    """first: channel 5 far out; its name needs escaping."""
    net, inputs = Net(), samples(rng)
    gains = np.where(np.arange(8) == 5, 200, 1).astype(np.float32)[:, None]
    first = net.conv("<first>&'", net.x, mixing(rng, 8) * gains)
    module = net.finish(net.conv("last", first, mixing(rng, 4, 8) * (np.arange(8) != 5).astype(np.float32)))
    return examine(module, inputs, ranges(module, inputs))


def report_of(found: Examined, notes: tuple[str, ...] = ()) -> Report:
    """The whole report."""
    return Report("net", 2, False, 20, found.network, found.layers, advise(found.network, found.trials(), HERE), notes)


class Checker(HTMLParser):
    """Collects tags and checks that they close."""

    VOID = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not any(name in ("src", "href", "onclick") for name, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not any(name in ("src", "href", "onclick") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_is_well_formed(spread: Examined) -> None:
    text = page.html(report_of(spread, ("a note with <b>",)))
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert "http" not in text
    assert "script" not in checker.seen
    assert "url(" not in text
    assert "@import" not in text
    assert "&lt;first&gt;&amp;" in text
    assert "<first>" not in text
    assert "a note with &lt;b&gt;" in text
    assert checker.seen.count("svg") == len(spread.layers) + 1
    assert "prefers-color-scheme: dark" in text


def test_the_list_has_every_figure(spread: Examined) -> None:
    rows = list(csv.DictReader(io.StringIO(listing.text(report_of(spread)))))
    assert [row["layer"] for row in rows] == [layer.name for layer in spread.layers]
    row = next(row for row in rows if row["layer"] == "<first>&'")
    layer = spread.layer("<first>&'")
    assert float(row["max_seen"]) == pytest.approx(layer.tally.high.max(), rel=1e-5)
    assert float(row["channel_spread"]) == pytest.approx(layer.tally.spread, rel=1e-3)
    assert 10 ** (-float(row["output_sqnr_alone_in_int8_db"]) / 10) == pytest.approx(layer.output_noise, rel=1e-3)
    assert row["fault"] == "channel spread"


def test_spread_is_answered_by_equalization_with_the_command_to_type(spread: Examined) -> None:
    advice = advise(spread.network, spread.trials(), HERE)
    assert "First give every channel its own scale" in advice.text
    assert advice.steps[0].commands == (
        "run_calibration net.mlir --dataset data --input_num 50 --cali_method kl --we -o 'my table_we'",
        "bmflow explain net_we.mlir --calibration_table 'my table_we' --dataset data --input_num 4 -o 'my table_we_explain.html'",
    )


def test_commands_leave_out_tuning_where_the_table_had_none(spread: Examined) -> None:
    untuned = advise(spread.network, spread.trials(), replace(HERE, tuned=False))
    [equalize] = [step for step in untuned.steps if step.trial.remedy is Remedy.EQUALIZE]
    assert "--cali_method kl --tune_num 0 --we" in equalize.commands[0]


def test_a_network_close_to_float_is_left_alone(spread: Examined) -> None:
    advice = advise(replace(spread.network, noise=1e-5), spread.trials(), HERE)
    assert advice.steps == ()
    assert "nothing needs to be done" in advice.text


def test_what_does_not_help_is_said_to_be_of_no_use(spread: Examined) -> None:
    worse, better = replace(spread.network, noise=2 * spread.network.noise), replace(spread.network, noise=spread.network.noise / 4)
    trials = [
        Trial(Remedy.ASYMMETRIC, worse),
        Trial(Remedy.FLOAT, better, 3),
        Trial(Remedy.EQUALIZE, replace(better, noise=better.noise * 2)),
    ]
    advice = advise(spread.network, trials, HERE)
    assert [step.trial.remedy for step in advice.steps] == [Remedy.EQUALIZE, Remedy.FLOAT], "float layers, which cost time, come last"
    assert f"Of no use here: model_deploy --asymmetric ({decibels(worse.noise)})." in advice.text
    assert "3 of them to begin with" in advice.text
    nothing = advise(spread.network, trials[:1], HERE)
    assert nothing.steps == ()
    assert "No remedy that was tried brings them closer to float" in nothing.text


def test_the_worst_layers_go_into_a_table_with_reasons_that_survive_reading(spread: Examined) -> None:
    given = PrecisionTable({"x": "F32"}, {"x": "by hand"})
    table = worst_table(spread.layers, 1, given, "bm1684x", "F16", 2)
    again = PrecisionTable.parse(table.text())
    assert (again.modes, again.reasons, again.samples) == (table.modes, table.reasons, 2)
    worst = spread.layers[0]
    assert again.modes["x"] == "F32"
    assert again.reasons["x"] == "by hand"
    assert again.modes[worst.name] == "F16"
    assert "alone in INT8 it leaves the outputs" in again.reasons[worst.name]


def test_readers_go_along_where_the_stored_values_are_at_fault(spread: Examined) -> None:
    first = spread.layer("<first>&'")
    assert first.effect is not None
    assert first.effect.freed is not None
    assert first.effect.lifted is not None
    assert first.effect.freed.noise < first.effect.lifted.noise
    table = worst_table([first], 1, None, "bm1684x", "F16", 2)
    assert table.modes == {"<first>&'": "F16", "last": "F16"}
    assert table.reasons["last"] == "reads <first>&', whose values 8 bits do not hold"


def test_the_picture_marks_what_is_clipped(rng: np.random.Generator) -> None:
    net, inputs = Net(), samples(rng)
    module = net.finish(net.conv("last", net.conv("first", net.x, mixing(rng, 6)), mixing(rng, 4, 6)))
    found = examine(module, inputs, ranges(module, inputs, first=0.5))
    picture: Callable[[str], str] = lambda name: page.picture.histogram(found.layer(name))  # noqa: E731
    assert 'class="out"' in picture("first")
    assert 'class="out"' not in picture("last")
    assert len(re.findall('class="mark" x1', picture("first"))) == 2


def test_scores_of_a_perfect_network_are_written_as_exact() -> None:
    from bmflow.explain.texts import decibels, percent, to_decibels

    assert decibels(0.0) == "exact"
    assert decibels(None) == "–"
    assert decibels(1e-3) == "30.0 dB"
    assert to_decibels(Score(1.0, 1e-2, 1.0, 0.0).noise) == pytest.approx(20)
    assert [percent(share) for share in (0, 5e-5, 0.0031, 0.031, 0.5)] == ["0 %", "<0.01 %", "0.31 %", "3.1 %", "50 %"]
