"""The smallest working bmodel, field by field, as published (format notes, 9.3), read by a reader that shares no code with ours."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import sha256

import pytest
import smallest
from bmflow.container import bmodel
from bmflow.errors import InputError

TIME = "Thu Jan  1 00:00:00 2026\n"


@dataclass(frozen=True)
class Reader:
    """A table of a flatbuffer; slots as numbers. No checks: the file under test is sound."""

    data: bytes
    at: int

    @staticmethod
    def root(data: bytes) -> Reader:
        return Reader(data, struct.unpack_from("<I", data)[0])

    def place(self, slot: int) -> int:
        vtable = self.at - struct.unpack_from("<i", self.data, self.at)[0]
        size = struct.unpack_from("<H", self.data, vtable)[0]
        offset = struct.unpack_from("<H", self.data, vtable + 4 + 2 * slot)[0] if 4 + 2 * slot < size else 0
        return self.at + offset if offset else 0

    def number(self, slot: int, kind: str, default: float = 0) -> float:
        place = self.place(slot)
        return struct.unpack_from(f"<{kind}", self.data, place)[0] if place else default

    def follow(self, slot: int) -> int:
        place = self.place(slot)
        return place + struct.unpack_from("<I", self.data, place)[0]

    def text(self, slot: int) -> str:
        at = self.follow(slot)
        size = struct.unpack_from("<I", self.data, at)[0]
        assert self.data[at + 4 + size] == 0, "texts end with a zero byte"
        return self.data[at + 4 : at + 4 + size].decode()

    def table(self, slot: int) -> Reader:
        return Reader(self.data, self.follow(slot))

    def tables(self, slot: int) -> list[Reader]:
        at = self.follow(slot)
        places = [at + 4 + 4 * index for index in range(struct.unpack_from("<I", self.data, at)[0])]
        return [Reader(self.data, place + struct.unpack_from("<I", self.data, place)[0]) for place in places]

    def numbers(self, slot: int, kind: str) -> list[int]:
        at = self.follow(slot)
        return list(struct.unpack_from(f"<{struct.unpack_from('<I', self.data, at)[0]}{kind}", self.data, at + 4))

    def binary(self, slot: int) -> tuple[int, int]:
        assert self.place(slot) % 8 == 0
        return struct.unpack_from("<QQ", self.data, self.place(slot))


@pytest.fixture(scope="module")
def data() -> bytes:
    return bmodel.write(smallest.program(), TIME)


@pytest.fixture(scope="module")
def pool(data: bytes) -> bytes:
    return data[64 + struct.unpack_from("<I", data, 8)[0] :]


@pytest.fixture(scope="module")
def model(data: bytes) -> Reader:
    return Reader.root(data[64 : 64 + struct.unpack_from("<I", data, 8)[0]])


@pytest.fixture(scope="module")
def stage(model: Reader) -> Reader:
    [net] = model.tables(4)
    [stage] = net.tables(3)
    return stage


def test_header(data: bytes) -> None:
    magic, header, description, pool, *reserved = struct.unpack_from("<IIIQ11I", data)
    assert (magic, header) == (0xFF55AAEE, 64)
    assert data[:4] == bytes.fromhex("eeaa55ff")
    assert (64 + description) % 4096 == 0
    assert pool % 4096 == 0
    assert reserved == [0] * 11
    assert data[64 + description + pool :].startswith(b"bmflow-sha256 ")


def test_model(model: Reader) -> None:
    assert [model.text(slot) for slot in (0, 2, 3)] == ["B", TIME, "BM1684X"]
    assert model.text(1).startswith("2.2")
    assert model.number(5, "Q") == 24576
    for slot in (6, 8):
        assert model.table(slot).text(0) == ""
        assert model.table(slot).binary(1) == (0, 0)


def test_net(model: Reader) -> None:
    [net] = model.tables(4)
    assert net.text(0) == "smallest"
    assert net.number(5, "i") == 0
    assert [net.place(slot) for slot in (1, 2, 4)] == [0, 0, 0]


def test_stage(stage: Reader) -> None:
    assert stage.number(2, "Q") == 0x1_0000_6000
    assert stage.number(3, "Q") == 24576
    assert stage.numbers(14, "Q") == [24576]
    assert stage.number(16, "I") == 1
    assert len(stage.tables(8)) == len(stage.tables(12)) == 1


def test_weights(stage: Reader, pool: bytes) -> None:
    coeff = stage.table(4)
    start, size = coeff.binary(2)
    image = pool[start : start + size]
    assert coeff.number(0, "Q") == 0x1_0000_0000
    assert (start % 4096, size) == (0, 24576)
    assert image == smallest.program().coeff
    assert bytes(coeff.numbers(1, "B")) == sha256(image).digest()
    assert [(w.text(0), w.number(1, "Q"), w.number(2, "Q")) for w in coeff.tables(3)] == [("y", 0, 20480), ("y_table", 20480, 256)]


def check_group(group: Reader, pool: bytes) -> list[tuple[int, int]]:
    assert [group.number(slot, "I") for slot in (0, 1, 4, 5)] == [6, 5, 256, 512]
    ranges = [group.binary(2), group.binary(3)]
    digests = [sha256(pool[start : start + size]).hexdigest()[:16] for start, size in ranges]
    assert digests == ["bf998fac24d6ed3d", "d895ec50c440baea"]
    assert all(start % 4096 == 0 for start, _ in ranges)
    return ranges


def test_command_group_stands_in_the_stage_and_again_in_its_subnet(stage: Reader, pool: bytes) -> None:
    [group], [subnet] = stage.tables(8), stage.tables(12)
    [again] = subnet.tables(1)
    assert check_group(group, pool) == check_group(again, pool)


def test_subnet(stage: Reader) -> None:
    [subnet] = stage.tables(12)
    assert subnet.number(0, "i") == 0
    assert subnet.place(10), "id must be written, its default is -1"
    assert subnet.number(10, "i", -1) == 0
    assert subnet.numbers(11, "i") == []
    assert subnet.number(15, "I") == 1
    assert subnet.place(14) == 0
    assert [t.text(0) for slot in (3, 4) for t in subnet.tables(slot)] == ["x", "y"]


@pytest.mark.parametrize(
    ("slot", "name", "address", "size", "dims", "scale", "hidden"),
    [
        (0, "x", 0x1_0000_6000, 6400, [1, 16, 20, 20], 1 / 0.1, 1),
        (1, "y", 0x1_0000_8000, 12800, [1, 32, 20, 20], 0.3, 2),
    ],
)
def test_tensors(stage: Reader, slot: int, name: str, address: int, size: int, dims: list[int], scale: float, hidden: int) -> None:
    [tensor] = stage.tables(slot)
    assert tensor.text(0) == name
    assert [tensor.number(1, "I"), tensor.number(2, "i")] == [2, 0]
    assert [tensor.number(3, "Q"), tensor.number(4, "Q")] == [address, size]
    assert tensor.tables(5)[0].numbers(0, "Q") == dims
    assert tensor.number(6, "I") == 1
    assert tensor.number(7, "f", 1.0) == struct.unpack("<f", struct.pack("<f", scale))[0]
    assert [tensor.number(10, "i"), tensor.number(11, "i"), tensor.number(12, "i")] == [0, hidden, 0]


def test_same_program_and_time_give_the_same_bytes(data: bytes) -> None:
    assert bmodel.write(smallest.program(), TIME) == data
    assert bmodel.write_model(bmodel.read(data)) == data


def test_creation_time_follows_source_date_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    assert bmodel.creation_time() == TIME
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH: expected seconds since 1970, found 'yesterday'"):
        bmodel.creation_time()
