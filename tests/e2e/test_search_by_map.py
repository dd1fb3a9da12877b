"""mAP as the objective of a search, on the repository's own detector."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from bmflow.driver.search_map import Labels, Scored
from bmflow.ir.module import Module
from bmflow.search.pareto import Point
from bmflow.search.scores import Score
from bmflow.tables.calibration import CalibrationTable
from bmflow.tables.precision import PrecisionTable
from bmflow_components import example_data
from jobs import run

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def point(cycles: int) -> Point:
    return Point(frozenset(), Score(0.9, 0.9, 0.1, 0.1), cycles)


def test_the_fastest_table_within_the_loss_is_chosen_and_within_a_limit_the_most_accurate() -> None:
    slow, middle, fast = point(300), point(200), point(100)
    scored = Scored(0.50, {slow: 0.499, middle: 0.492, fast: 0.47}, 9)
    assert scored.best(Labels("", "", drop=0.01), 0) == middle
    assert scored.best(Labels("", "", drop=0.0005), 0) is None
    assert scored.best(Labels("", ""), 250) == middle
    assert scored.best(Labels("", ""), 50) is None
    assert scored.closest() == slow


@pytest.mark.slow
def test_a_search_returns_map_beside_noise_and_a_table_within_the_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    example_data.main(["--output", "data", "--train", "0", "--calibration", "4", "--evaluation", "6"])
    assert run(
        "model_transform", "--model_name", "shapes", "--model_def", EXAMPLES / "shapes.onnx", "--input_shapes", "[[1,3,320,320]]",
        "--scale", "0.0039216,0.0039216,0.0039216", "--keep_aspect_ratio", "--pad_value", "114", "--pixel_format", "rgb", "--mlir", "net.mlir",
    ) == 0  # fmt: skip
    assert run("run_calibration", "net.mlir", "--dataset", "data/images/calibration", "-o", "table", "--tune_num", 0) == 0
    assert run(
        "run_qtable", "net.mlir", "--dataset", "data/images/calibration", "--calibration_table", "table", "--chip", "bm1684x", "-o", "qtable",
        "--inference_num", 1, "--time_budget", 0.1, "--expected_cos", 0, "--map_dataset", "data/images/evaluation",
        "--map_annotation", "data/annotations/evaluation.json", "--detector", EXAMPLES / "detector.json", "--map_drop", 0.02,
    ) == 0  # fmt: skip
    points = json.loads(Path("qtable_pareto.json").read_text())["points"]
    assert all(0 <= one["map"] <= 1 for one in points)
    best = next(one for one in points if "best" in one["role"])
    assert best["map"] >= max(one["map"] for one in points) - 0.05
    assert PrecisionTable.load("qtable").modes
    _cut_thresholds("table", 20)
    Path("all").write_text("".join(f"{op.layer_name} INT8\n" for op in Module.load("net.mlir").layers()))
    assert run(
        "run_qtable", "net.mlir", "--dataset", "data/images/calibration", "--calibration_table", "table", "--chip", "bm1684x", "-o", "none",
        "--inference_num", 1, "--pre_qtable", "all", "--map_dataset", "data/images/evaluation",
        "--map_annotation", "data/annotations/evaluation.json", "--detector", EXAMPLES / "detector.json",
    ) == 3  # fmt: skip
    error = capsys.readouterr().err
    assert "no table loses at most 0.01 of the 0." in error
    assert "on 6 pictures; the best found, in none, loses 0." in error
    assert set(PrecisionTable.load("none").modes.values()) == {"INT8"}


def _cut_thresholds(path: str, times: float) -> None:
    """Clip nearly everything, so that no detection is left."""
    table = CalibrationTable.load(path)
    replace(table, ranges={name: replace(row, threshold=row.threshold / times) for name, row in table.ranges.items()}).save(path)
