"""Any command that can be encoded comes back unchanged; any bytes either decode to what encodes to them, or are refused."""

from __future__ import annotations

import time

import pytest
from bmflow.errors import InputError
from bmflow.isa import tables
from bmflow.isa.decode import decode_command, decode_stream
from bmflow.isa.encode import encode_command, encode_stream
from bmflow.isa.program import Command
from bmflow.isa.tables import Engine, Layout
from hypothesis import given, settings
from hypothesis import strategies as st

ISA = tables.load("bm1684x")
EMITTED = ["sCONV", "sPorD", "sAR", "sMM", "sMM2", "sRQ&sDQ", "sTRANS&sBC", "sSG", "sSGL", "sSFU", "sLIN", "sCMP", "sVC", "AR", "CONV"]
TIU_END = Command("SYSID", {"cmd_id": 1, "tsk_typ": 15, "tsk_eu_typ": 31})
GDMA_END = Command("sDMA_sys", {"cmd_short": 1, "cmd_type": 6})


def commands(layout: Layout) -> st.SearchStrategy[Command]:
    """Random values in every field, none zero in the result's dictionary."""
    values = {name: st.integers(0, field.limit - 1) for name, field in layout.fields.items()}
    return st.fixed_dictionaries({}, optional=values).map(lambda fields: Command(layout.name, {k: v for k, v in fields.items() if v}))


@pytest.mark.parametrize("name", list(ISA.layouts))
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_command_comes_back_unchanged(name: str, data: st.DataObject) -> None:
    layout = ISA.layouts[name]
    command = data.draw(commands(layout))
    encoded = encode_command(ISA, command)
    assert len(encoded) == layout.size_bytes
    assert decode_command(layout, encoded) == command


@st.composite
def streams(draw: st.DrawFn) -> list[Command]:
    """TIU streams of commands that the runtime can load."""
    result: list[Command] = []
    for number in range(draw(st.integers(1, 12))):
        layout = ISA.layouts[draw(st.sampled_from(EMITTED))]
        codes = [code for code in layout.operations if (layout.name, code) not in (("sAR", 24), ("sAR", 25))]
        head = {
            "cmd_short": int(bool(layout.short)),
            "tsk_typ": layout.type or 0,
            "tsk_eu_typ": draw(st.sampled_from(codes)),
            "cmd_id": number,
        }
        fields = draw(commands(layout)).fields | head
        result.append(Command(layout.name, {name: value for name, value in fields.items() if value}))
    return [*result, TIU_END]


@settings(max_examples=60, deadline=None)
@given(stream=streams())
def test_stream_comes_back_unchanged(stream: list[Command]) -> None:
    data = encode_stream(ISA, stream)
    assert len(data) % 128 == 0
    assert decode_stream(ISA, "TIU", data) == stream


@settings(max_examples=300, deadline=None)
@given(engine=st.sampled_from(tables.ENGINES), blocks=st.lists(st.binary(min_size=128, max_size=128), max_size=6), cut=st.integers(0, 3))
def test_garbage_is_refused_or_encodes_to_itself(engine: Engine, blocks: list[bytes], cut: int) -> None:
    data = b"".join(blocks)[: 128 * len(blocks) - cut]
    try:
        decoded = decode_stream(ISA, engine, data)
    except InputError:
        return
    assert encode_stream(ISA, decoded) == data


@settings(max_examples=200, deadline=None)
@given(stream=streams(), flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 7)), min_size=1, max_size=3))
def test_flipped_bits_are_refused_or_encode_to_themselves(stream: list[Command], flips: list[tuple[int, int]]) -> None:
    data = bytearray(encode_stream(ISA, stream))
    for place, bit in flips:
        data[place % len(data)] ^= 1 << bit
    try:
        decoded = decode_stream(ISA, "TIU", bytes(data))
    except InputError:
        return
    assert encode_stream(ISA, decoded) == bytes(data)


def test_twenty_thousand_commands_take_well_under_a_second() -> None:
    fields = {"cmd_short": 1, "tsk_typ": 3, "tsk_eu_typ": 15, "cmd_id_en": 1, "tsk_opd_num": 2, "res0_n": 1, "res0_c": 64, "res0_h": 20}
    stream = [Command("sAR", {**fields, "cmd_id": number, "res0_addr": number}) for number in range(1, 20001)]
    begin = time.perf_counter()
    data = encode_stream(ISA, [*stream, TIU_END])
    assert decode_stream(ISA, "TIU", data) == [*stream, TIU_END]
    assert time.perf_counter() - begin < 5.0  # about 0.2 s; the bound leaves room for a busy machine
