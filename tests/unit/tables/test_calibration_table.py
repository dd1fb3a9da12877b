"""The calibration table as text: the published example, optional blocks, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from bmflow.errors import InputError
from bmflow.tables.calibration import CalibrationTable, Range

PUBLISHED = """# mlir version: 1.28 cali version 1.0
# mlir: toy.mlir
# genetated time: 2026-01-01 00:00:00.000000
# quantization threshold calculation method: kl
# histogram number: 2048
# sample number: 100
###
# tune number: 5
###
# op_name    threshold    min    max
data 1.0000080 0.0000000 1.0000080
y_Relu 6.1234567 0.0000000 7.0000000
"""
RANGES = {"data": Range(1.000008, 0.0, 1.000008), "y_Relu": Range(6.1234567, 0.0, 7.0)}


def test_a_table_as_users_have_it_is_read() -> None:
    table = CalibrationTable.parse(PUBLISHED)
    assert table == CalibrationTable(RANGES, "kl", 2048, 100, 5, "toy.mlir")
    assert list(table.ranges) == ["data", "y_Relu"]


def test_the_text_written_differs_from_the_published_one_in_version_and_time_only() -> None:
    written = CalibrationTable(RANGES, "kl", 2048, 100, 5, "toy.mlir").text().splitlines()
    published = PUBLISHED.splitlines()
    assert written[0].startswith("# mlir version: bmflow ")
    assert written[1:] == [published[1], *published[3:]]


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    blocks = {"asym_ops": ("a_Mul", "b_Conv"), "weight_scales": {"b_Conv_weight": (0.5, 0.125)}, "notes": ("skipped: x.jpg",)}
    table = CalibrationTable(RANGES, "mse", 1024, 7, 0, "net.mlir", **blocks)
    table.save(tmp_path / "table")
    assert CalibrationTable.load(tmp_path / "table") == table


def test_old_tables_with_few_header_lines_and_windows_line_ends_are_read() -> None:
    table = CalibrationTable.parse("# op_name\r\na 2.5 -2.5 1e1\r\n")
    assert table.ranges == {"a": Range(2.5, -2.5, 10.0)}
    assert table.samples == 0


def test_infinity_counts_as_65000() -> None:
    assert CalibrationTable.parse("a inf -inf inf").ranges["a"] == Range(6.5e4, -6.5e4, 6.5e4)


def test_blocks_end_at_the_next_flag_and_other_comments_keep_them() -> None:
    table = CalibrationTable.parse(
        "a 1 -1 1\n#int4_th\na 0.5 -0.571 0.5\n#asym_op\nx\n# a remark\ny\n#weight_scale\nc_weight 2 0.5 0.25 2 0 0\n"
    )
    assert table.ranges == {"a": Range(1, -1, 1)}
    assert table.asym_ops == ("x", "y")
    assert table.weight_scales == {"c_weight": (0.5, 0.25)}
    assert table.notes == ("a remark",)


def test_a_layer_name_may_hold_blanks() -> None:
    assert list(CalibrationTable.parse("conv 1/out 1 -1 1").ranges) == ["conv 1/out"]


REFUSED = {
    "too few fields": ("a 1 2\n", "line 1: expected `name threshold min max`"),
    "no number": ("a 1 x 2\n", "line 1: expected a number, found `x`"),
    "not a number": ("a nan 0 2\n", "line 1: expected a number, found `nan`"),
    "negative": ("b 1 0 1\na -1 0 1\n", "line 2: expected threshold >= 0"),
    "order": ("a 1 3 1\n", "min <= max"),
    "twice": ("a 1 0 1\na 2 0 2\n", "line 2: a appears twice"),
    "empty": ("# op_name\n", "holds no line"),
    "int4": ("a 1 0 1\n#int4_op\na\n", "a is to run in INT4"),
    "fp8": ("#tpu-mlir-fp8 caliration table\na 1 0 1\n", "an FP8 table"),
    "short scales": ("a 1 0 1\n#weight_scale\nw 3 1 2\n", "fewer numbers than the 3"),
    "offsets": ("a 1 0 1\n#weight_scale\nw 1 1 1 9\n", "scales of symmetric weights"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_malformed_text_is_refused_with_its_line(case: str) -> None:
    text, message = REFUSED[case]
    with pytest.raises(InputError) as caught:
        CalibrationTable.parse(text, "t")
    assert str(caught.value).startswith("t")
    assert message in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00binary"])
def test_a_missing_or_binary_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "table"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a calibration table"):
        CalibrationTable.load(path)
