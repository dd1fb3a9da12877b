"""The page: what is on it, that it needs nothing from outside, and that nothing from outside becomes markup."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from bmflow.errors import InputError
from bmflow.evaluation.detections import Detections
from bmflow_components import documents
from bmflow_components.report import charts, collect, markup, page, pictures
from bmflow_components.report.data import Cost, RunReport
from bmflow_components.steps import report as step
from stage_files import Made, candidate, decision, job, metrics, result, split

VOID = {"meta", "img", "br", "line", "rect", "circle", "polyline"}


class Strict(HTMLParser):
    """Collects tags and attributes, and the text; every tag must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        """Everything that is read on the page."""
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def made(tmp_path: Path) -> list[Made]:
    """Two candidates: F16 loses nothing and is slow, INT8 loses .02 and is fast."""
    found = []
    for quantize, loss, ms in (("F16", 0.0, 1.2), ("INT8", 0.02, 0.6)):
        file = tmp_path / f"{quantize}.bmodel"
        file.write_bytes(quantize.encode())
        found.append(candidate(tmp_path / "candidates", quantize, loss, file, ms))
    return found


def inputs(folder: Path, made: list[Made], chosen: str = "bm1684x/INT8") -> dict[str, list[Path]]:
    files = {name: folder / f"{name}.json" for name in ("float", "champions", "split", "decisions")}
    documents.write(files["float"], metrics("float", "F32", 0.0, None))
    known = {"version": "3", "since": "2026-11-18T01:00:00Z"}
    documents.write(files["champions"], metrics("champion", "INT8", 0.03, made[0].bmodel, 0.9, champion=known))
    documents.write(files["split"], split())
    documents.write(files["decisions"], decision(made, chosen))
    (folder / "curves.csv").write_text("epoch,loss,map,seconds\n1,3,0.1,9\n2,2,0.4,9\n3,1.5,0.5,9\n")
    return {
        "candidates": [item.metrics for item in made], "similarities": [item.similarity for item in made], "worst": [item.worst for item in made],
        "results": [item.result for item in made], "curves": [folder / "curves.csv"], **{name: [path] for name, path in files.items()},
    }  # fmt: skip


def text_of(folder: Path, given: dict[str, list[Path]], **params: str) -> str:
    request = job(folder, "report", given, {"model_name": "shapes", **params})
    step.run(request)
    return request.output("report").read_text()


def test_the_page_says_what_was_decided_and_why(tmp_path: Path, made: list[Made]) -> None:
    words = Strict(text_of(tmp_path, inputs(tmp_path, made))).text
    for expected in (
        "✓ PASSED", "bm1684x/INT8 is taken: it meets every bar", "class ring: drop 0.05 (the nearest of 2)", "a note",
        "champion: version 3", "in place since 2026-11-18", "−0.020 against float 0.600", "1.00 MiB", "600,000", "data/shapes at v1",
        "lost: ring", "a.jpg", "numpy 2.4.6", "1.2 s",
    ):  # fmt: skip
        assert expected in words, expected
    assert (
        words.index("PASSED")
        < words.index("Champion and challenger")
        < words.index("Accuracy by class")
        < words.index("How to do it again")
    )


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path, made: list[Made]) -> None:
    html = text_of(tmp_path, inputs(tmp_path, made), links="MLflow_run=http://127.0.0.1:5000/#/x bad=javascript:alert(1)")
    parsed = Strict(html)
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in parsed.tags}
    assert all(not name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    assert all(str(a["src"]).startswith("data:image/jpeg;base64,") for _, a in parsed.tags if "src" in a)
    assert [a["href"] for _, a in parsed.tags if "href" in a] == ["http://127.0.0.1:5000/#/x"]
    assert not re.search(r"url\(|@import", html)
    assert "default-src 'none'" in html


def test_names_from_outside_do_not_become_markup(tmp_path: Path, made: list[Made]) -> None:
    html = text_of(tmp_path, inputs(tmp_path, made), title="<b>&\"'</b>")
    assert "layer&lt;0&gt;" in html
    assert '<b>&"' not in html
    assert Strict(html).tags.count(("b", {})) == Strict(text_of(tmp_path, inputs(tmp_path, made), title="x")).tags.count(("b", {}))


def test_pictures_are_inside_and_come_back(tmp_path: Path, made: list[Made]) -> None:
    sources = [str(a["src"]) for _, a in Strict(text_of(tmp_path, inputs(tmp_path, made))).tags if "src" in a]
    assert len(sources) == 4
    assert base64.b64decode(sources[0].partition(",")[2]) == (made[1].worst / "01_float.jpg").read_bytes()


def test_layers_kept_in_float_are_marked(tmp_path: Path, made: list[Made]) -> None:
    html = text_of(tmp_path, inputs(tmp_path, made))
    assert "bm1684x/INT8: 1 of 4 layers in float" in html
    assert "bm1684x/F16: 4 of 4 layers in float" in html
    assert html.count('<rect class="kept"') == 5


def test_a_run_in_which_nothing_passed_says_what_each_candidate_missed(tmp_path: Path, made: list[Made]) -> None:
    words = Strict(text_of(tmp_path, inputs(tmp_path, made, ""))).text
    assert "✗ NOT PASSED" in words
    assert "bm1684x/F16: map 0.1, below the required 0.3" in words


def test_a_run_that_broke_shows_where_and_still_what_there_is(tmp_path: Path, made: list[Made]) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text(result("deploy", {"processor": "bm1684x", "quantize": "BF16"}, {}, "failed", error="conv1: no <code>").json())
    given = {"candidates": [made[0].metrics], "results": [broken]}
    words = Strict(text_of(tmp_path, given)).text
    assert "the run stopped at deploy bm1684x/BF16" in words
    assert "conv1: no <code>" in words
    assert "bm1684x/F16" in words


def test_a_page_with_nothing_but_a_title_is_whole(tmp_path: Path) -> None:
    assert "nothing was judged in this run" in Strict(text_of(tmp_path, {})).text
    assert Strict(page.render(RunReport("x"))).text.startswith("x")


def test_the_same_run_gives_the_same_page(tmp_path: Path, made: list[Made]) -> None:
    given = inputs(tmp_path, made)
    assert text_of(tmp_path, given) == text_of(tmp_path, given)


def test_two_processors_have_a_verdict_each(tmp_path: Path, made: list[Made]) -> None:
    given = inputs(tmp_path, made)
    other, other_metrics = tmp_path / "other.json", tmp_path / "other_metrics.json"
    documents.write(other_metrics, metrics("bm1688/INT8", "INT8", 0.1, made[0].bmodel) | {"processor": "bm1688"})
    documents.write(other, decision([], "") | {"processor": "bm1688", "headline": "none of bm1688"})
    given |= {"decisions": [*given["decisions"], other], "candidates": [*given["candidates"], other_metrics]}
    words = Strict(text_of(tmp_path, given)).text
    assert "PASSED · bm1684x" in words
    assert "NOT PASSED · bm1688" in words
    assert "Candidates: bm1688" in words


def test_curves_leave_out_what_is_no_curve(tmp_path: Path, made: list[Made]) -> None:
    inputs(tmp_path, made)
    assert collect.training(tmp_path / "curves.csv") == {"loss": [3.0, 2.0, 1.5], "map": [0.1, 0.4, 0.5]}
    (tmp_path / "curves.csv").write_text("epoch\n")
    assert collect.training(tmp_path / "curves.csv") == {}
    (tmp_path / "curves.csv").write_text("epoch,loss\n1,x\n")
    with pytest.raises(InputError, match=r"curves\.csv: expected a table of numbers"):
        collect.training(tmp_path / "curves.csv")


def test_links_of_another_form_are_refused() -> None:
    assert collect.links("MLflow_run=http://a/?x=1") == {"MLflow run": "http://a/?x=1"}
    with pytest.raises(InputError, match="--links x: expected label=address"):
        collect.links("x")


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    documents.write(tmp_path / "a.json", {"x": 1})
    with pytest.raises(InputError, match=r"a\.json: expected metrics of the stage evaluate, but label, network, .* missing"):
        text_of(tmp_path, {"candidates": [tmp_path / "a.json"]})


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.0, 1.4, [0, 0.5, 1.0]),
        (3.0, 3.0, [3.0]),
        (-1.0, 1.0, [-1, -0.5, 0, 0.5, 1]),
        (12.0, 88.0, [20, 40, 60, 80]),
    ],
)
def test_ticks_are_round_numbers_inside_the_range(low: float, high: float, expected: list[float]) -> None:
    assert charts.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(("cosine", "length"), [(0.9, 1 / 6), (0.99, 2 / 6), (0.999, 3 / 6), (1.0, 1.0), (0.0, 0.0), (-1.0, 0.0)])
def test_the_length_of_a_layer_s_bar_counts_nines(cosine: float, length: float) -> None:
    assert charts.nearness(cosine) == pytest.approx(length, abs=1e-9)


def test_points_land_where_their_values_say() -> None:
    axes = charts.Axes((0.0, 2.0), (0.0, 1.0), 200, 100)
    width, height = 200 - charts.LEFT - charts.RIGHT, 100 - charts.TOP - charts.BOTTOM
    assert axes.at(0, 0) == (charts.LEFT, charts.TOP + height)
    assert axes.at(2, 1) == (charts.LEFT + width, charts.TOP)
    assert axes.at(1, 0.5) == (charts.LEFT + width / 2, charts.TOP + height / 2)


@pytest.mark.parametrize(("count", "shown"), [(12, "12 B"), (2048, "2.00 KiB"), (3 * 2**20, "3.00 MiB"), (2**31, "2.00 GiB"), (None, "–")])
def test_sizes_are_shown_in_the_unit_that_fits(count: int | None, shown: str) -> None:
    assert markup.size(count) == shown
    assert Cost(1).cycles is None


def found(*rows: tuple[float, float, float, int]) -> Detections:
    """Boxes of 10 x 10 at (x, y) with score and class."""
    array = np.array(rows, np.float32).reshape(-1, 4)
    return Detections(np.concatenate([array[:, :2], array[:, :2] + 10], 1), array[:, 2], array[:, 3].astype(np.int64))


def test_lost_and_gained_boxes_and_moved_scores_are_told_apart() -> None:
    before, after = found((0, 0, 0.9, 1), (50, 0, 0.8, 2)), found((1, 0, 0.6, 1), (90, 0, 0.7, 0), (50, 0, 0.1, 2))
    difference = pictures.compare(before, after)
    assert (difference.lost, difference.gained) == ((2,), (0,))
    assert difference.drift == pytest.approx(0.3)


def test_a_box_of_another_class_does_not_match() -> None:
    difference = pictures.compare(found((0, 0, 0.9, 1)), found((0, 0, 0.9, 2)))
    assert (difference.lost, difference.gained) == ((1,), (2,))


def test_the_worst_pictures_come_first_and_equal_ones_not_at_all() -> None:
    same, lost, moved = found((0, 0, 0.9, 1)), found(), found((0, 0, 0.7, 1))
    assert pictures.worst({1: same, 2: same, 3: same}, {1: moved, 2: lost, 3: same}) == [2, 1]


def test_the_tensors_of_which_calibration_cuts_off_most_are_drawn(tmp_path: Path, made: list[Made]) -> None:
    """One of ten values lies beyond the first threshold, none beyond the second."""
    counts = {"conv1": [6, 3, 1], "conv2": [9, 1, 0]}
    tensors = [
        {"name": name, "op": "top.Conv", "threshold": 2.0, "low": 0.0, "high": 3.0, "width": 1.0, "counts": found} for name, found in counts.items()
    ]  # fmt: skip
    documents.write(tmp_path / "histograms.json", {"tensors": tensors})
    found = Strict(text_of(tmp_path, inputs(tmp_path, made) | {"histograms": [tmp_path / "histograms.json"]})).text
    assert "conv1 (Conv): 10 % beyond" in found
    assert "conv2 (Conv)" not in found
