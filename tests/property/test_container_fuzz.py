"""Damaged files: a few thousand seeded mutations end in an InputError or in success, quickly, never in anything else.

The files have no checksum line at their end and correct SHA-256 only by luck, as files of other writers may, so that the reader of
the flatbuffer sees all the damage.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import smallest
from bmflow import target
from bmflow.container import bmodel, edit, image, pack, report
from bmflow.errors import InputError
from bmflow.isa import tables
from bmflow.isa.decode import decode_stream
from bmflow.isa.disassemble import disassemble

ISA = tables.load("bm1684x")
MEMORY = target.load("bm1684x").require_codegen()
ROUNDS = 700


def foreign() -> bytes:
    """The smallest model as another writer might make it: no checksums at all."""
    model = pack.model_table(bmodel.read(bmodel.write(smallest.program())))
    model["version"] = "2.2"
    model["net"][0]["parameter"][0]["coeff_mem"]["check_code"] = None
    data = image.store(model)
    return data[: data.rindex(b"bmflow-sha256 ")]


DATA = foreign()
DESCRIPTION = len(image.sections(DATA, "")[0].rstrip(b"\0"))
Mutation = Callable[[np.random.Generator, bytearray], None]


def flip_bits(rng: np.random.Generator, data: bytearray) -> None:
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(64, 64 + DESCRIPTION)] ^= 1 << rng.integers(0, 8)


def put_number(rng: np.random.Generator, data: bytearray) -> None:
    """A huge, small or negative offset, count or size somewhere in the description."""
    value = rng.choice([0, 1, 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFC, rng.integers(0, 5000)])
    at = 64 + 4 * rng.integers(0, DESCRIPTION // 4)
    data[at : at + 4] = int(value).to_bytes(4, "little")


def cut(rng: np.random.Generator, data: bytearray) -> None:
    del data[rng.integers(0, len(data)) :]


def insert(rng: np.random.Generator, data: bytearray) -> None:
    at = rng.integers(0, 64 + DESCRIPTION)
    data[at:at] = rng.bytes(rng.integers(1, 9))


def change_header(rng: np.random.Generator, data: bytearray) -> None:
    data[rng.integers(0, 20)] = rng.integers(0, 256)


def change_streams(rng: np.random.Generator, data: bytearray) -> None:
    stream = read_group().tiu if rng.integers(2) else read_group().gdma
    begin = DATA.index(stream)
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(begin, begin + len(stream))] ^= 1 << rng.integers(0, 8)


def change_layer_table(rng: np.random.Generator, data: bytearray) -> None:
    begin = DATA.index(b'{"format"')
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(begin, begin + 500)] = rng.integers(32, 127)


def read_group() -> bmodel.CommandGroup:
    return bmodel.read(DATA).nets[0].stages[0].groups[0]


def use(data: bytes) -> None:
    """What the tools do with a file."""
    model = image.load(data, "x.bmodel")
    report.info(model)
    report.weights(model)
    report.description(image.load_description(data, "x.bmodel"))
    edit.extract(model)
    read = bmodel.read(data, "x.bmodel")
    for net in read.nets:
        for stage in net.stages:
            for group in stage.groups:
                disassemble(ISA, decode_stream(ISA, "TIU", group.tiu, "x.bmodel"), MEMORY)
                disassemble(ISA, decode_stream(ISA, "GDMA", group.gdma, "x.bmodel"), MEMORY)


@pytest.mark.parametrize(
    "mutate", [flip_bits, put_number, cut, insert, change_header, change_streams, change_layer_table], ids=lambda f: f.__name__
)
def test_mutations_end_in_an_input_error_or_in_success(mutate: Mutation, rng: np.random.Generator) -> None:
    use(DATA)
    slowest, messages = 0.0, list[str]()
    for _ in range(ROUNDS):
        data = bytearray(DATA)
        mutate(rng, data)
        begin = time.process_time()
        try:
            use(bytes(data))
        except InputError as error:
            messages.append(str(error))
        slowest = max(slowest, time.process_time() - begin)
    assert len(messages) > ROUNDS / 50
    assert all(message.startswith("x.bmodel") and len(message) < 600 for message in messages)
    assert slowest < 0.5  # a few milliseconds; the bound leaves room for a busy machine


def test_description_that_repeats_itself_is_refused_before_it_grows() -> None:
    """A list of nets, then the same list with every entry leading to one net: small on disk, large when followed."""
    nets = [{"name": "n" * 1000, "parameter": [], "addr_mode": 0}] + [{"name": "n", "parameter": [], "addr_mode": 0}] * 1000
    model = {"type": "B", "version": "2.2", "time": "", "chip": "BM1684X", "net": nets}
    description = bytearray(image.flat.build("Model", model, lambda blob: (0, 0)))
    first = description.index((len(nets)).to_bytes(4, "little")) + 4
    net = first + int.from_bytes(description[first : first + 4], "little")
    for at in range(first, first + 4 * len(nets), 4):
        description[at : at + 4] = (net - at).to_bytes(4, "little")
    header = image._HEADER.pack(image.MAGIC, 64, len(description), 0).ljust(64, b"\0")  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(InputError, match="referred to again and again"):
        image.load(header + bytes(description))
