"""The quantize table as text: files as users have them, inline lists, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from bmflow.errors import InputError
from bmflow.tables.precision import PrecisionTable
from hypothesis import given
from hypothesis import strategies as st

PUBLISHED = """# generated time: 2026-01-01 00:00:00.000000
# sample number: 30
# chip: bm1684x  mix_mode: F16
# number of F16 layer: 2
###
# op_name   quantize_mode
# pattern layers
/model.24/m.0/Conv_output_0_Conv F16
# custom layers
124_Mul   f32
"""


def test_a_table_as_users_have_it_is_read() -> None:
    table = PrecisionTable.parse(PUBLISHED)
    assert table.modes == {"/model.24/m.0/Conv_output_0_Conv": "F16", "124_Mul": "F32"}
    assert table.reasons == {"/model.24/m.0/Conv_output_0_Conv": "pattern layers", "124_Mul": "custom layers"}
    assert (table.chip, table.mix_mode, table.samples) == ("bm1684x", "F16", 30)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    table = PrecisionTable(
        {"a": "F16", "b": "F16", "c": "INT8", "d": "F32"},
        {"a": "pattern layers", "d": "custom layers"},
        "bm1684x",
        "F16",
        9,
        "0123456789abcdef",
    )
    table.save(tmp_path / "qtable")
    assert PrecisionTable.load(tmp_path / "qtable") == table
    assert "# number of F16 layer: 2\n" in table.text()
    assert "# weights: 0123456789abcdef\n" in table.text()


def test_a_reason_that_looks_like_a_header_line_stays_a_reason() -> None:
    table = PrecisionTable({"a": "F16"}, {"a": "weights: too far apart"})
    assert PrecisionTable.parse(table.text()) == table


@pytest.mark.parametrize("text", ["a:F16,b:int8", "a F16\nb INT8", "\n# note\na\tF16\r\nb  INT8 64\n"], ids=["inline", "plain", "blanks"])
def test_the_three_ways_to_write_two_lines_mean_the_same(text: str) -> None:
    table = PrecisionTable.load(text) if ":" in text else PrecisionTable.parse(text)
    assert table == PrecisionTable({"a": "F16", "b": "INT8"})


def test_an_inline_name_may_hold_a_colon() -> None:
    assert PrecisionTable.load("scope/x:0_Conv:F16").modes == {"scope/x:0_Conv": "F16"}


def test_the_last_line_of_a_layer_wins() -> None:
    table = PrecisionTable.parse("# op_name   quantize_mode\n# shape layers\na F16\n#\na F32\n")
    assert (table.modes, table.reasons) == ({"a": "F32"}, {})


def test_an_empty_table_is_a_table() -> None:
    assert PrecisionTable.parse("# nothing\n").modes == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a F61", "line 1: a is to run in F61, which is no known type; did you mean F16"),
        ("a\n", "line 1: expected `layer MODE`, found `a`"),
        ("a F16\n\nb 16 F", "line 3: b 16 is to run in F"),
    ],
)
def test_a_malformed_line_is_refused_with_its_number(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PrecisionTable.parse(text, "q")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as a quantize table"):
        PrecisionTable.load(tmp_path / "none")


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1).filter(lambda name: not name.startswith("#"))


@given(st.dictionaries(NAMES, st.sampled_from(["F32", "F16", "BF16", "INT8"])))
def test_any_table_survives_its_text(modes: dict[str, str]) -> None:
    assert PrecisionTable.parse(PrecisionTable(modes).text()).modes == modes
