"""model_tool: texts, files, exit codes, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import smallest
from bmflow.cli.model_tool import main
from bmflow.container import bmodel

INFO = """\
bmodel version: B.{version}
processor: BM1684X
create time: Thu Jan  1 00:00:00 2026
==========================================
net 0: [smallest]  static
-------------
stage 0:
input: x, [1, 16, 20, 20], int8, scale: 10, zero_point: 0
output: y, [1, 32, 20, 20], int8, scale: 0.3, zero_point: 0

device mem size: 101120 (weight: 24576, instruct: 768, runtime: 75776)
host mem size: 0 (weight: 0, runtime: 0)
"""
"""Layout as users know it; weight, instruct and runtime are the figures published for this network (format notes, 9.4)."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two files of one network each and reference data beside them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    for name in ("smallest", "other"):
        Path(f"{name}.bmodel").write_bytes(bmodel.write(smallest.program(name)))
        Path(name).mkdir()
        Path(name, "compilation.bmodel").write_bytes(bmodel.write(smallest.program(name)))
        Path(name, "input_ref_data.dat").write_bytes(name[:1].encode() * 6400)
        Path(name, "output_ref_data.dat").write_bytes(name[:1].encode() * 12800)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
    return captured.err


@pytest.mark.usefixtures("folder")
class TestTexts:
    def test_info_has_the_layout_users_know(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(capsys, "--info", "smallest.bmodel") == INFO.format(version=bmodel.VERSION)

    def test_chip_prints_the_bare_name(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(capsys, "--chip", "smallest.bmodel") == "BM1684X\n"

    def test_print_is_json_with_ranges_in_place_of_blobs(self, capsys: pytest.CaptureFixture[str]) -> None:
        model = json.loads(run(capsys, "--print", "smallest.bmodel"))
        stage = model["net"][0]["parameter"][0]
        assert stage["coeff_mem"]["binary_coeff"] == {"start": 0, "size": 24576}
        assert len(stage["coeff_mem"]["check_code"]) == 64
        assert stage["sub_net"][0]["cmd_group"][0]["bdc_cmd_byte"] == 256

    def test_weight_lists_ranges(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(capsys, "--weight", "smallest.bmodel").splitlines() == [
            "net [smallest] stage 0: 24576 bytes at 0x100000000",
            "  [0x0, 0x5000) 20480 bytes: y",
            "  [0x5000, 0x5100) 256 bytes: y_table",
        ]

    def test_disassemble_lists_all_commands_with_their_layer(self, capsys: pytest.CaptureFixture[str]) -> None:
        lines = run(capsys, "--disassemble", "smallest.bmodel").splitlines()
        assert lines[0] == "# net smallest, stage 0, group 0, TIU: 6 commands, 256 bytes"
        assert lines[1] == "# y (tpu.Conv2D)"
        assert [line.split()[0] for line in lines if line[:1] in ("B", "D")] == [
            *(f"B{i}" for i in range(1, 7)),
            *(f"D{i}" for i in range(1, 6)),
        ]


@pytest.mark.usefixtures("folder")
class TestFiles:
    def test_dump_copies_bytes_of_the_binary_section(self, capsys: pytest.CaptureFixture[str]) -> None:
        run(capsys, "--dump", "smallest.bmodel", "0x10", "300", "out.bin")
        assert Path("out.bin").read_bytes() == smallest.program().coeff[16:316]

    def test_combine_then_extract_gives_the_files_back(self, capsys: pytest.CaptureFixture[str]) -> None:
        text = run(capsys, "--combine", "smallest.bmodel", "other.bmodel", "-o", "both.bmodel")
        assert "net 0: [smallest]" in text
        assert "net 1: [other]" in text
        assert run(capsys, "--extract", "both.bmodel") == "saved bm_net0_stage0.bmodel\nsaved bm_net1_stage0.bmodel\n"
        assert Path("bm_net0_stage0.bmodel").read_bytes() == Path("smallest.bmodel").read_bytes()
        assert Path("bm_net1_stage0.bmodel").read_bytes() == Path("other.bmodel").read_bytes()

    def test_combine_dir_joins_reference_data_in_the_order_of_the_nets(self, capsys: pytest.CaptureFixture[str]) -> None:
        run(capsys, "--combine_dir", "smallest", "other", "-o", "both")
        assert [net.name for net in bmodel.read(Path("both/compilation.bmodel").read_bytes()).nets] == ["smallest", "other"]
        assert Path("both/input_ref_data.dat").read_bytes() == b"s" * 6400 + b"o" * 6400
        assert Path("both/output_ref_data.dat").read_bytes() == b"s" * 12800 + b"o" * 12800


@pytest.mark.usefixtures("folder")
class TestRefusals:
    def test_missing_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "none.bmodel: cannot be read (No such file or directory)" in refusal(capsys, "--info", "none.bmodel")

    def test_folder_in_place_of_a_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "smallest: cannot be read (Is a directory)" in refusal(capsys, "--info", "smallest")

    @pytest.mark.parametrize("verb", ["--info", "--print", "--chip", "--weight", "--disassemble", "--extract"])
    def test_flipped_byte(self, capsys: pytest.CaptureFixture[str], verb: str) -> None:
        data = bytearray(Path("smallest.bmodel").read_bytes())
        data[len(data) // 2] ^= 1
        Path("bad.bmodel").write_bytes(data)
        assert "do not match their SHA-256" in refusal(capsys, verb, "bad.bmodel")
        assert not list(Path.cwd().glob("bm_net*"))

    def test_not_a_bmodel(self, capsys: pytest.CaptureFixture[str]) -> None:
        Path("text.bmodel").write_text("a" * 100)
        assert "not a bmodel (it begins with 61 61 61 61)" in refusal(capsys, "--info", "text.bmodel")

    def test_combining_the_same_network_twice(self, capsys: pytest.CaptureFixture[str]) -> None:
        text = refusal(capsys, "--combine", "smallest.bmodel", "smallest.bmodel", "-o", "out.bmodel")
        assert "net smallest cannot become a stage" in text
        assert not Path("out.bmodel").exists()

    def test_combine_without_output(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "add -o NAME" in refusal(capsys, "--combine", "smallest.bmodel", "other.bmodel")

    def test_reference_data_of_the_wrong_length(self, capsys: pytest.CaptureFixture[str]) -> None:
        Path("other/input_ref_data.dat").write_bytes(b"short")
        assert "other/input_ref_data.dat: 5 bytes, the tensors of compilation.bmodel beside it take 6400" in refusal(
            capsys, "--combine_dir", "smallest", "other", "-o", "both"
        )
        assert not Path("both").exists()

    @pytest.mark.parametrize(("start", "size"), [("-1", "5"), ("0", "0"), ("0", "99999999")])
    def test_dump_outside_of_the_binary_section(self, capsys: pytest.CaptureFixture[str], start: str, size: str) -> None:
        assert "the binary section has 0.." in refusal(capsys, "--dump", "smallest.bmodel", start, size, "out.bin")

    def test_dump_of_no_number(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "expected a number of bytes" in refusal(capsys, "--dump", "smallest.bmodel", "a", "1", "out.bin")

    @pytest.mark.parametrize("verb", ["--encrypt", "--decrypt"])
    def test_encryption_is_refused_with_the_reason(self, capsys: pytest.CaptureFixture[str], verb: str) -> None:
        arguments = [verb, "-model", "smallest.bmodel", "-net", "smallest", "-lib", "cipher.so", "-o", "out.bmodel"]
        assert "cipher library" in refusal(capsys, *arguments)

    def test_unknown_processor_cannot_be_disassembled(self, capsys: pytest.CaptureFixture[str]) -> None:
        model = bmodel.read(Path("smallest.bmodel").read_bytes())
        Path("foreign.bmodel").write_bytes(bmodel.write_model(bmodel.Bmodel(model.version, model.time, "BM1688", model.nets)))
        assert "processor: BM1688" in run(capsys, "--info", "foreign.bmodel")
        assert "is for BM1688, whose instructions this version does not know; it knows those of BM1684X" in refusal(
            capsys, "--disassemble", "foreign.bmodel"
        )

    def test_no_verb_is_a_usage_error(self) -> None:
        with pytest.raises(SystemExit, match="2"):
            main([])
