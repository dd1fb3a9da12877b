"""bmflow explain as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest
from bmflow.tables.calibration import CalibrationTable
from bmflow.tables.precision import PrecisionTable
from workshop import run

GIVEN = ("net.mlir", "--calibration_table", "net_table", "--dataset", "pictures", "--input_num", "3")


def test_the_files_asked_for_are_written_and_the_worst_layers_printed(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = ("report.html", "layers.csv", "q")
    assert run("bmflow", "explain", *GIVEN, "-o", written[0], "--csv", written[1], "--qtable", written[2], "--worst", "1") == 0
    printed = capsys.readouterr().out
    assert "worst layers in 8 bits, SQNR in dB over 3 samples" in printed
    assert "In 8 bits the outputs keep " in printed
    assert all(f"wrote {name}" in printed and (workshop / name).is_file() for name in written)
    table = PrecisionTable.load("q")
    assert 1 <= len(table.modes) <= 2
    assert set(table.modes.values()) == {"F16"}
    assert set(table.reasons) == set(table.modes)
    assert table.weights == CalibrationTable.load("net_table").weights
    assert run("model_deploy", "--mlir", "net.mlir", "--processor", "bm1684x", "--quantize", "INT8", "--calibration_table", "net_table",
               "--quantize_table", "q", "--model", "mixed.bmodel") == 0  # fmt: skip


def test_the_same_samples_give_the_same_page(workshop: Path) -> None:
    for name in ("a.html", "b.html"):
        assert run("model_explain", *GIVEN, "-o", name) == 0
    assert (workshop / "a.html").read_bytes() == (workshop / "b.html").read_bytes()


def test_effects_are_measured_for_as_many_layers_as_asked(workshop: Path) -> None:
    assert run("model_explain", *GIVEN, "--csv", "layers.csv", "--effects", "1") == 0
    header, *rows = (workshop / "layers.csv").read_text().splitlines()
    place = header.split(",").index("output_sqnr_alone_in_int8_db")
    assert sum(bool(row.split(",")[place]) for row in rows) == 1


def test_asymmetric_and_mixed_deployments_are_explained(workshop: Path) -> None:
    assert run("model_explain", *GIVEN, "--asymmetric", "--quantize_table", "y_Conv:F16", "--csv", "layers.csv") == 0
    assert ",F16,quantize table," in (workshop / "layers.csv").read_text()


def test_a_table_for_other_weights_is_said_so(workshop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = workshop / "net_table"
    table.write_text(table.read_text().replace("# weights: ", "# weights: 0"))
    assert run("model_explain", *GIVEN) == 0
    assert "net_table WAS NOT MADE FOR net.mlir" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("net.mlir", "--calibration_table", "net_table"), "no samples given"),
        ((*GIVEN, "--qtable", "q"), "--qtable and --worst belong together"),
        ((*GIVEN, "--qtable", "q", "--worst", "99"), "--worst 99: only "),
        ((*GIVEN, "--effects", "-1"), "--effects: expected 0 or more, found -1"),
        ((*GIVEN, "-o", "nowhere/r.html"), "nowhere/r.html: cannot write here"),
        ((*GIVEN, "--quantize_table", "y_Con:F16"), "did you mean y_Conv"),
        ((*GIVEN, "--processor", "bm1685"), "--processor bm1685: unknown"),
        (("net.mlir", "--calibration_table", "absent", "--dataset", "pictures"), "absent: cannot be read as a calibration table"),
        (("net.mlir", "--calibration_table", "net_table", "--dataset", "absent"), "--dataset absent: no such folder"),
        (("net_bm1684x_int8_sym_tpu.mlir", "--calibration_table", "net_table", "--dataset", "pictures"), "expected the top module"),
        (("absent.mlir", "--calibration_table", "net_table", "--dataset", "pictures"), "absent.mlir: cannot be read"),
    ],
)  # fmt: skip
def test_bad_input_is_one_paragraph_and_leaves_no_file(
    workshop: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    before = sorted(path.name for path in workshop.iterdir())
    assert run("model_explain", *arguments) == 2
    assert says in capsys.readouterr().err
    assert sorted(path.name for path in workshop.iterdir()) == before
