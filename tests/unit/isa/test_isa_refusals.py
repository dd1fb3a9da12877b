"""What encoder and decoder refuse, and what they say."""

from __future__ import annotations

import pytest
import smallest
from bmflow.errors import CompileError, InputError
from bmflow.isa import tables
from bmflow.isa.decode import decode_command, decode_stream
from bmflow.isa.encode import encode_command, encode_stream
from bmflow.isa.program import Command

ISA = tables.load("bm1684x")
TIU_END = Command("SYSID", {"cmd_id": 2, "tsk_typ": 15, "tsk_eu_typ": 31})
GDMA_END = Command("sDMA_sys", {"cmd_short": 1, "cmd_type": 6})


def test_value_too_large_for_its_field_is_named_with_its_command() -> None:
    commands = smallest.tiu()
    commands[1].fields["res0_h"] = 65536
    with pytest.raises(CompileError, match=r"TIU command 2: sAR: field res0_h holds 0\.\.65535, found 65536"):
        encode_stream(ISA, commands)


def test_negative_value_is_refused() -> None:
    with pytest.raises(CompileError, match="found -1"):
        encode_command(ISA, Command("sAR", {"opd0_addr": -1}))


def test_unknown_field_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(CompileError, match="sAR: has no field res0_hh; did you mean res0_h"):
        encode_command(ISA, Command("sAR", {"res0_hh": 1}))


def test_padding_cannot_be_written() -> None:
    with pytest.raises(CompileError, match="has no field reserved"):
        encode_command(ISA, Command("DMA_tensor", {"reserved": 0}))


def test_unknown_layout_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(CompileError, match="no command layout sCONF; did you mean sCONV"):
        encode_command(ISA, Command("sCONF", {}))


def test_command_without_its_type_bits_is_refused() -> None:
    with pytest.raises(CompileError, match="TIU command 1: sAR: type, operation and form bits"):
        encode_stream(ISA, [Command("sAR", {"cmd_id": 1}), TIU_END])


def test_engines_cannot_share_a_stream() -> None:
    with pytest.raises(CompileError, match="keep the engines apart"):
        encode_stream(ISA, [*smallest.tiu()[:2], GDMA_END])


@pytest.mark.parametrize(
    "command",
    [
        Command("sAR", {"cmd_short": 1, "tsk_typ": 3, "tsk_eu_typ": 24}),
        Command("LAR", {"tsk_typ": 7, "opd0_w_str": 1}),
        Command("sDMA_matrix", {"cmd_short": 1, "cmd_type": 1}),
        Command("sDMA_sys", {"cmd_short": 1, "cmd_type": 6, "cmd_special_function": 1}),
    ],
    ids=lambda command: command.layout,
)
def test_commands_whose_length_the_runtime_misjudges_are_refused(command: Command) -> None:
    end = TIU_END if ISA.layout(command.layout).engine == "TIU" else GDMA_END
    with pytest.raises(CompileError, match="the runtime"):
        encode_stream(ISA, [command, end])


def test_stream_without_end_command_is_refused() -> None:
    with pytest.raises(CompileError, match="no end command"):
        encode_stream(ISA, [smallest.tiu()[0], smallest.tiu()[1]])


def test_empty_stream_is_no_bytes() -> None:
    assert encode_stream(ISA, []) == b""
    assert decode_stream(ISA, "TIU", b"") == []


def test_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(CompileError, match="no instruction table is known"):
        tables.load("")


GOOD_TIU = encode_stream(ISA, smallest.tiu())
GOOD_GDMA = encode_stream(ISA, smallest.gdma())


@pytest.mark.parametrize(
    ("engine", "data", "message"),
    [
        ("TIU", GOOD_TIU[:-1], "255 bytes, expected a multiple of 128"),
        ("TIU", bytes(128), "no end command in 128 bytes"),
        ("TIU", b"\xff" * 128, "byte 0: .*knows no short command|byte 16"),
        ("TIU", GOOD_TIU + bytes(128), "end command must be followed by zeros"),
        ("TIU", GOOD_TIU[:6] + b"\x3e" + GOOD_TIU[7:], "byte 0: no bm1684x command begins with"),
        ("GDMA", GOOD_GDMA[:-1] + b"\x01", "byte 400: the end command must be followed by zeros"),
        (
            "GDMA",
            GOOD_GDMA[:3] + bytes([GOOD_GDMA[3] | 0x80]) + GOOD_GDMA[4:],
            "byte 0: DMA_tensor has bits set from bit 29 on that must be 0",
        ),
        ("GDMA", bytes([GOOD_GDMA[0] | 8]) + GOOD_GDMA[1:], "byte 0: no bm1684x command begins with"),
    ],
)
def test_damaged_streams_are_refused_with_the_place(engine: tables.Engine, data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"here.*({message})"):
        decode_stream(ISA, engine, data, "here")


def test_command_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(InputError, match="SYSID has 16 bytes, found 15"):
        decode_command(ISA.layout("SYSID"), bytes(15))
