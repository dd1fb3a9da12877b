"""A bench for single commands: local memory goes in as a picture of bytes, commands run, and the picture comes out.

The picture is (lanes, span) bytes. Operands are put into it element by element by the address rule of the instruction notes (1.1),
so that nothing here shares code with the simulator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from bmflow import target
from bmflow.container.model import Bmodel, CommandGroup, Net, Stage
from bmflow.ir.types import DType
from bmflow.isa.encode import encode_stream
from bmflow.isa.program import Command, LayerSpan, ProgramTensor
from bmflow.isa.tables import load
from bmflow.simulator import Simulation, Simulator

TARGET = target.load("bm1684x")
LANES, LANE_BYTES = 64, 0x40000
COEFF = 0x1_0000_0000
PREC = {"i8": 0, "u8": 0, "f16": 1, "f32": 2, "i16": 3, "u16": 3, "i32": 4, "u32": 4, "bf16": 5}
STORED = {"i8": "<i1", "u8": "<u1", "f16": "<f2", "f32": "<f4", "i16": "<i2", "u16": "<u2", "i32": "<i4", "u32": "<u4", "bf16": "<u2"}
SIGN = {kind: int(kind[0] != "u") for kind in PREC}
Shape = tuple[int, int, int, int]


def size_of(kind: str) -> int:
    """Bytes of an element."""
    return int(STORED[kind][-1])


@dataclass(frozen=True)
class Place:
    """An operand: byte address in a lane, start lane, strides in elements (c: per channel row)."""

    address: int
    shape: Shape
    kind: str
    strides: Shape
    lane: int = 0

    @property
    def register(self) -> int:
        """The address as TIU commands hold it."""
        return self.lane * LANE_BYTES + self.address

    def elements(self) -> Iterator[tuple[Shape, int, int]]:
        """Index, lane and byte of every element (instruction notes, 1.1)."""
        ns, cs, hs, ws = self.strides
        for n, c, h, w in product(*(range(size) for size in self.shape)):
            lane, row = (self.lane + c) % LANES, (self.lane + c) // LANES
            yield (n, c, h, w), lane, self.address + (n * ns + row * cs + h * hs + w * ws) * size_of(self.kind)


def aligned(address: int, shape: Shape, kind: str, lane: int = 0) -> Place:
    """EU-aligned layout (instruction notes, 1.6)."""
    eu = 64 // size_of(kind)
    c_stride = -(-shape[2] * shape[3] // eu) * eu
    rows = -(-(lane + shape[1]) // LANES)
    return Place(address, shape, kind, (rows * c_stride, c_stride, shape[3], 1), lane)


def compact(address: int, shape: Shape, kind: str, lane: int = 0) -> Place:
    """Compact layout (instruction notes, 1.6)."""
    c_stride = shape[2] * shape[3]
    rows = -(-(lane + shape[1]) // LANES)
    return Place(address, shape, kind, (rows * c_stride, c_stride, shape[3], 1), lane)


def picture(span: int = 0x10000) -> np.ndarray:
    """Empty local memory: the first `span` bytes of each lane."""
    return np.zeros((LANES, span), np.uint8)


def put(memory: np.ndarray, place: Place, values: np.ndarray) -> None:
    """Store elements."""
    raw = np.ascontiguousarray(values).astype(STORED[place.kind])
    for index, lane, byte in place.elements():
        memory[lane, byte : byte + size_of(place.kind)] = np.frombuffer(raw[index].tobytes(), np.uint8)


def get(memory: np.ndarray, place: Place) -> np.ndarray:
    """Fetch elements."""
    result = np.zeros(place.shape, STORED[place.kind])
    for index, lane, byte in place.elements():
        result[index] = np.frombuffer(memory[lane, byte : byte + size_of(place.kind)].tobytes(), STORED[place.kind])[0]
    return result


def numbered(tiu: Sequence[Command], gdma: Sequence[Command]) -> tuple[list[Command], list[Command]]:
    """The streams with ids and end commands; waits are left as they are."""
    streams: list[list[Command]] = []
    for commands, end in ((tiu, tiu_end(len(tiu) + 1)), (gdma, gdma_end(len(gdma) + 1))):
        fields = [Command(c.layout, {**c.fields, "cmd_id": k, "cmd_id_en": 1}) for k, c in enumerate(commands, 1)]
        streams.append([*fields, end])
    return streams[0], streams[1]


def tiu_end(number: int) -> Command:
    return Command("SYSID", {"cmd_id": number, "tsk_typ": 15, "tsk_eu_typ": 31})


def gdma_end(number: int) -> Command:
    return Command("sDMA_sys", {"cmd_short": 1, "cmd_id_en": 1, "cmd_id": number, "cmd_type": 6})


def tiu(layout: str, kind: tuple[int, int], fields: Mapping[str, int], wait: int = 0) -> Command:
    """A TIU command: type and operation, then its fields."""
    return Command(layout, {"cmd_short": 1, "tsk_typ": kind[0], "tsk_eu_typ": kind[1], "cmd_id_dep": wait, **fields})


def sizes(prefix: str, shape: Shape) -> dict[str, int]:
    return {f"{prefix}_{dim}": size for dim, size in zip("nchw", shape, strict=True)}


def dma(
    to: tuple[int, Shape], source: tuple[int, Shape], shape: Shape, kind: str = "i8", wait: int = 0, **fields: int
) -> Command:  # fmt: skip
    """A tensor copy between (address, strides) and (address, strides)."""
    values = {"stride_enable": 1, "nchw_copy": 1, "cmd_id_dep": wait, "src_data_format": PREC[kind]}
    values |= {"localmem_mask_l32": 0xFFFFFFFF, "localmem_mask_h32": 0xFFFFFFFF}
    values |= {f"src_{dim}size": size for dim, size in zip("nchw", shape, strict=True)}
    for side, (address, strides) in (("dst", to), ("src", source)):
        values |= {f"{side}_start_addr_l32": address & 0xFFFFFFFF, f"{side}_start_addr_h8": address >> 32}
        values |= {f"{side}_{dim}stride": stride for dim, stride in zip("nchw", strides, strict=True)}
    return Command("DMA_tensor", values | fields)


def local_address(place_or_byte: Place | int) -> int:
    """How GDMA sees a place in local memory."""
    return 0x0800_0000 + (place_or_byte if isinstance(place_or_byte, int) else place_or_byte.register)


def bmodel(
    tiu_commands: Sequence[Command], gdma_commands: Sequence[Command], coeff: bytes, ctx_bytes: int,
    inputs: Sequence[ProgramTensor] = (), outputs: Sequence[ProgramTensor] = (), layers: Sequence[LayerSpan] = (),
) -> Bmodel:  # fmt: skip
    """A model of these streams, ids and end commands included."""
    isa = load("bm1684x")
    group = CommandGroup(encode_stream(isa, tiu_commands), encode_stream(isa, gdma_commands), len(tiu_commands), len(gdma_commands))
    ctx = COEFF + len(coeff)
    stage = Stage(tuple(inputs), tuple(outputs), ctx, ctx_bytes, coeff, COEFF, (group,), tuple(layers))
    return Bmodel("2.2", "", "BM1684X", (Net("bench", (stage,)),))


def run_on_picture(memory: np.ndarray, commands: Sequence[Command]) -> tuple[np.ndarray, Simulation]:
    """Load the picture, run TIU commands, store the picture."""
    span = memory.shape[1]
    words: Shape = (1, LANES, 1, span // 4)
    inside, outside = (LANES * span // 4, span // 4, span // 4, 1), (span // 4, span // 4, span // 4, 1)
    ctx = COEFF + memory.nbytes
    gdma = [
        dma((local_address(0), outside), (COEFF, inside), words, "i32"),
        dma((ctx, inside), (local_address(0), outside), words, "i32", wait=len(commands)),
    ]
    waiting = [Command(c.layout, {**c.fields, "cmd_id_dep": 1}) for c in commands]
    output = ProgramTensor("memory", (LANES, span), DType.U8, ctx)
    model = bmodel(*numbered(waiting, gdma), memory.tobytes(), memory.nbytes, outputs=[output])
    simulation = Simulator(model, threads=1).run({})
    return simulation.outputs["memory"], simulation


def run_command(memory: np.ndarray, command: Command, result: Place) -> np.ndarray:
    """Run one command on a picture, see that nothing but the result changed and nothing was complained about, and return the result."""
    after, simulation = run_on_picture(memory, [command])
    assert not simulation.problems, [str(problem) for problem in simulation.problems]
    values = get(after, result)
    untouched = after.copy()
    put(untouched, result, get(memory, result))
    assert np.array_equal(untouched, memory), "bytes outside of the result changed"
    return values
