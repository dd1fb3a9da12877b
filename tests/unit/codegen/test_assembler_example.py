"""The assembler against a network whose streams were read by the vendor's own disassembler.

Convolution, bias, requantization and look-up of int8 (1, 16, 20, 20) into (1, 32, 20, 20); the SHA-256 of both streams are published
with the description of the smallest working bmodel (bmodel format notes, 9). The packing here follows the instruction table
and is independent of the encoder.
"""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from importlib.resources import files

import pytest
from bmflow import target
from bmflow.codegen.assembler import Arith, Assembler
from bmflow.codegen.operand import Ddr, Local, aligned, compact
from bmflow.ir.types import DType
from bmflow.isa.program import Command

TABLES = {entry["name"]: entry for entry in json.loads((files("bmflow.isa") / "bm1684x.json").read_text())["instructions"]}
MEMORY = target.load("bm1684x").require_codegen()
COEFF = MEMORY.coeff_base
CONTEXT = COEFF + 0x6000


def pack(commands: list[Command]) -> bytes:
    """Bits of a stream, filled up to a multiple of 128 bytes."""
    data = b""
    for command in commands:
        entry = TABLES[command.layout]
        places = {name: (offset, width) for name, offset, width in reversed(entry["fields"])}
        bits = 0
        for name, value in command.fields.items():
            offset, width = places[name]
            assert 0 <= value < 1 << width, f"{command.layout} {name} = {value}"
            bits |= value << offset
        data += bits.to_bytes(entry["bits"] // 8, "little")
    return data + bytes(-len(data) % 128)


def ddr(address: int, shape: tuple[int, int, int, int]) -> Ddr:
    _, c, h, w = shape
    return Ddr(address, shape, DType.I8, (c * h * w, h * w, w, 1))


def local(address: int, shape: tuple[int, int, int, int], dtype: DType = DType.I8) -> Local:
    return aligned(MEMORY, address, shape, dtype)


@pytest.fixture(scope="module")
def streams() -> tuple[list[Command], list[Command]]:
    asm = Assembler(target.load("bm1684x"))
    x, accumulator = local(0, (1, 16, 20, 20)), local(0xC000, (1, 32, 20, 20), DType.I32)
    q, y = local(0x10000, accumulator.shape), local(0x14000, accumulator.shape)
    table = local(0x8000, (1, 1, 1, 256))
    asm.begin_layer("y", "tpu.Conv2D")
    asm.dma(x, ddr(CONTEXT, x.shape))
    asm.dma(local(0x4000, (1, 32, 1, 640)), ddr(COEFF, (1, 32, 1, 640)))
    asm.conv(accumulator, x, Local(0x4040, (1, 32, 16, 9), DType.I8, (0, 0, 0, 1)), kernel=(3, 3), stride=(1, 1), pads=(1, 1, 1, 1))
    bias = replace(compact(MEMORY, 0x400C, (1, 32, 1, 1), DType.I32), shape=accumulator.shape, strides=(0, 1, 0, 0))
    asm.arith(Arith.ADDS, accumulator, bias, accumulator)
    asm.requant(q, accumulator, local(0x4000, (1, 32, 1, 3), DType.I32))
    asm.dma(table, ddr(COEFF + 20480, table.shape))
    everywhere = local(0x8000, (1, 64, 1, 256))
    asm.lane_broadcast(everywhere, table)
    flat = (1, 32, 1, 400)
    asm.gather(local(y.address, flat), everywhere, local(q.address, flat))
    asm.dma(ddr(CONTEXT + 0x2000, y.shape), y)
    assert asm.end_layer() == (1, 5, 1, 4)
    return asm.finish()


def test_tiu_stream_has_the_published_digest(streams: tuple[list[Command], list[Command]]) -> None:
    data = pack(streams[0])
    assert len(data) == 256
    assert sha256(data).hexdigest().startswith("bf998fac24d6ed3d")


def test_gdma_stream_has_the_published_digest(streams: tuple[list[Command], list[Command]]) -> None:
    data = pack(streams[1])
    assert len(data) == 512
    assert sha256(data).hexdigest().startswith("d895ec50c440baea")


def test_waits_are_those_of_the_published_example(streams: tuple[list[Command], list[Command]]) -> None:
    waits = [[command.fields.get("cmd_id_dep", 0) for command in stream] for stream in streams]
    assert waits == [[2, 2, 2, 3, 3, 0], [0, 0, 0, 5, 0]]
