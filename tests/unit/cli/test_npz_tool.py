"""npz_tool as it is typed: what it prints, what it writes, and how it ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bmflow import artifacts
from bmflow.cli.npz_tool import main


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "a.npz"
    artifacts.save_npz(path, {"x_Conv": np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2), "i": np.array([1, -2], np.int8)})
    return path


def test_dump_lists_name_shape_and_type(npz: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dump", str(npz)]) == 0
    assert capsys.readouterr().out == "x_Conv\t(1, 3, 2, 2)\tfloat32\ni\t(2,)\tint8\n"


def test_dump_of_a_picture_shows_the_largest_values(npz: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dump", str(npz), "x_Conv", "2"]) == 0
    assert "top 1: idx 11 value 11.0\ntop 2: idx 10 value 10.0" in capsys.readouterr().out


def test_compare_passes_a_file_with_itself_and_fails_another(npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "b.npz"
    artifacts.save_npz(other, {"x_Conv": -np.ones((1, 3, 2, 2), np.float32)})
    assert main(["compare", str(npz), str(npz)]) == 0
    assert main(["compare", str(other), str(npz), "--except", "i", "-s", str(tmp_path / "t.csv")]) == 3
    assert "first diverging layer: x_Conv" in capsys.readouterr().out
    assert (tmp_path / "t.csv").read_text().startswith("name,op,quant,pass")


def test_extract_merge_and_rename_keep_the_values(npz: Path, tmp_path: Path) -> None:
    out, both = str(tmp_path / "o.npz"), str(tmp_path / "both.npz")
    assert main(["extract", str(npz), out, "i"]) == 0
    assert main(["rename", out, "i", "j"]) == 0
    assert main(["merge", str(npz), out, both]) == 0
    assert sorted(artifacts.load_npz(both)) == ["i", "j", "x_Conv"]


def test_to_bin_and_to_dat_write_raw_bytes(npz: Path, tmp_path: Path) -> None:
    assert main(["to_bin", str(npz), "x_Conv", str(tmp_path / "x.bin"), "int8"]) == 0
    assert (tmp_path / "x.bin").read_bytes() == bytes(range(12))
    assert main(["to_dat", str(npz), str(tmp_path / "all.dat")]) == 0
    assert (tmp_path / "all.dat").read_bytes() == np.arange(12, dtype=np.float32).tobytes() + b"\x01\xfe"


def test_statistic_gives_one_line_a_channel(npz: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["statistic", str(npz), "x_Conv"]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "1\t5.500000\t1.250000\t7.000000\t4.000000\t3.000000"


def test_check_nan_inf_finds_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "n.npz"
    artifacts.save_npz(path, {"bad": np.array([np.nan, np.inf, 1.0]), "good": np.zeros(2)})
    assert main(["check_nan_inf", str(path)]) == 3
    assert capsys.readouterr().out == "bad: 1 NaN, 1 inf of 3\n"


@pytest.mark.parametrize("arguments", [["dump", "{npz}", "x_Conb"], ["dump", "nowhere.npz"], ["reshape", "{npz}", "x_Conv", "5"]])
def test_bad_input_ends_with_code_2_and_one_paragraph(arguments: list[str], npz: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([argument.format(npz=npz) for argument in arguments]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_cut_file_is_bad_input(npz: Path) -> None:
    npz.write_bytes(npz.read_bytes()[:100])
    assert main(["dump", str(npz)]) == 2
