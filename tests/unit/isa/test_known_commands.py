"""Commands whose bits are known from elsewhere: the vendor's own yolov5s stream, and the smallest published network."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import smallest
from bmflow.isa import tables
from bmflow.isa.decode import decode_command, decode_stream
from bmflow.isa.encode import encode_command, encode_stream
from bmflow.isa.program import Command
from bmflow.isa.tables import Layout

ISA = tables.load("bm1684x")


@pytest.fixture(scope="module")
def vendor_commands(test_data: Path) -> list[dict[str, Any]]:
    path = test_data.parent / "reference" / "vectors" / "bm1684x_commands.jsonl"
    if not path.is_file():
        pytest.skip("the register values of vendor-made commands are absent; they belong in ../reference beside the test data")
    return [json.loads(line) for line in path.read_text().splitlines()]


def layout_of(entry: dict[str, Any]) -> Layout:
    """The layout with exactly the fields that the vendor prints."""
    names = {name for name, value in entry["fields"].items() if value}
    [layout] = [
        layout
        for layout in ISA.layouts.values()
        if entry["name"] in layout.operations.values()
        and layout.short in (None, bool(entry["fields"].get("cmd_short")))
        and names <= layout.fields.keys()
    ]
    return layout


def bits_of(entry: dict[str, Any]) -> int:
    """The command packed here, field by field, from the raw json table."""
    raw = json.loads((Path(tables.__file__).parent / "bm1684x.json").read_text())
    places = {
        name: (offset, width) for e in raw["instructions"] if e["name"] == layout_of(entry).name for name, offset, width in e["fields"]
    }
    return sum(value << places[name][0] for name, value in entry["fields"].items())


def test_all_seventeen_vendor_commands_encode_to_their_bits(vendor_commands: list[dict[str, Any]]) -> None:
    assert len(vendor_commands) == 17
    for entry in vendor_commands:
        layout = layout_of(entry)
        command = Command(layout.name, {name: value for name, value in entry["fields"].items() if value})
        assert int.from_bytes(encode_command(ISA, command), "little") == bits_of(entry), entry["name"]


def test_all_seventeen_vendor_commands_decode_to_their_fields(vendor_commands: list[dict[str, Any]]) -> None:
    for entry in vendor_commands:
        layout = layout_of(entry)
        data = bits_of(entry).to_bytes(layout.size_bytes, "little")
        assert ISA.identify(layout.engine, int.from_bytes(data[:8], "little")) is layout
        assert decode_command(layout, data).fields == {name: value for name, value in entry["fields"].items() if value}, entry["name"]


def test_streams_of_the_smallest_network_have_the_published_digests() -> None:
    tiu, gdma = encode_stream(ISA, smallest.tiu()), encode_stream(ISA, smallest.gdma())
    assert (len(tiu), len(gdma)) == (256, 512)
    assert sha256(tiu).hexdigest().startswith("bf998fac24d6ed3d")
    assert sha256(gdma).hexdigest().startswith("d895ec50c440baea")


def test_streams_of_the_smallest_network_decode_to_what_was_encoded() -> None:
    for engine, commands in (("TIU", smallest.tiu()), ("GDMA", smallest.gdma())):
        decoded = decode_stream(ISA, engine, encode_stream(ISA, commands))
        assert [(c.layout, c.fields) for c in decoded] == [(c.layout, {k: v for k, v in c.fields.items() if v}) for c in commands]
