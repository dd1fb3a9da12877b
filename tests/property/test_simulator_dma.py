"""Strided copies of any shape, type and place move each element to where the address rule says (instruction notes, 1.1 and 4)."""

from __future__ import annotations

from math import prod

import numpy as np
from bmflow import target
from bmflow.container.model import Bmodel, CommandGroup, Net, Stage
from bmflow.ir.types import DType
from bmflow.isa.encode import encode_stream
from bmflow.isa.program import Command, ProgramTensor
from bmflow.isa.tables import load
from bmflow.simulator import Simulator
from hypothesis import given, settings
from hypothesis import strategies as st

MEMORY = target.load("bm1684x").require_codegen()
COEFF = MEMORY.coeff_base
SOURCE = np.random.default_rng(7).integers(0, 256, 1 << 16).astype(np.uint8)
CTX_BYTES = 1 << 17
SIZES = {0: 1, 1: 2, 2: 4}

shapes = st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 5), st.integers(1, 6))
steps = st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2))


def spread(shape: tuple[int, ...], gaps: tuple[int, ...]) -> tuple[int, ...]:
    """Strides that leave `gaps` elements between neighbours along each dimension, w first."""
    strides = [0, 0, 0, 0]
    size = 1
    for k in (3, 2, 1, 0):
        strides[k] = size + gaps[k]
        size = strides[k] * shape[k]
    return tuple(strides)


def copy(number: int, to: tuple[int, tuple[int, ...]], source: tuple[int, tuple[int, ...]], shape: tuple[int, ...], code: int) -> Command:
    fields = {"stride_enable": 1, "nchw_copy": 1, "cmd_id_en": 1, "cmd_id": number, "src_data_format": code}
    fields |= {"localmem_mask_l32": 0xFFFFFFFF, "localmem_mask_h32": 0xFFFFFFFF}
    for side, (address, strides) in (("dst", to), ("src", source)):
        fields |= {f"{side}_start_addr_l32": address & 0xFFFFFFFF, f"{side}_start_addr_h8": address >> 32}
        fields |= {f"{side}_{dim}stride": stride for dim, stride in zip("nchw", strides, strict=True)}
    fields |= {f"src_{dim}size": size for dim, size in zip("nchw", shape, strict=True)}
    return Command("DMA_tensor", fields)


@settings(max_examples=40, deadline=None)
@given(shapes, steps, steps, steps, st.integers(0, 63), st.sampled_from(list(SIZES)), st.integers(0, 7))
def test_elements_survive_the_way_through_local_memory(
    shape: tuple[int, ...], gaps: tuple[int, ...], between: tuple[int, ...], after: tuple[int, ...], lane: int, code: int, start: int
) -> None:
    size = SIZES[code]
    source, target_strides = spread(shape, gaps), spread(shape, after)
    rows = -(-(lane + shape[1]) // MEMORY.lanes)
    inside = spread((shape[0], rows, shape[2], shape[3]), between)
    local = MEMORY.lmem_gdma_base + lane * MEMORY.lmem_bytes + 64
    ctx = COEFF + SOURCE.nbytes
    commands = [
        copy(1, (local, inside), (COEFF + start * size, source), shape, code),
        copy(2, (ctx, target_strides), (local, inside), shape, code),
        Command("sDMA_sys", {"cmd_short": 1, "cmd_id_en": 1, "cmd_id": 3, "cmd_type": 6}),
    ]
    end = [Command("SYSID", {"cmd_id": 1, "tsk_typ": 15, "tsk_eu_typ": 31})]
    isa = load("bm1684x")
    group = CommandGroup(encode_stream(isa, end), encode_stream(isa, commands), 1, 3)
    output = ProgramTensor("y", (CTX_BYTES,), DType.U8, ctx)
    stage = Stage((), (output,), ctx, CTX_BYTES, SOURCE.tobytes(), COEFF, (group,))
    result = Simulator(Bmodel("2.2", "", "BM1684X", (Net("copies", (stage,)),))).run({}, check=False).outputs["y"]
    words = SOURCE[: SOURCE.size // size * size].view(f"u{size}")
    index = np.indices(shape).reshape(4, prod(shape))
    moved = result[: result.size // size * size].view(f"u{size}")
    assert np.array_equal(moved[np.array(target_strides) @ index], words[start + np.array(source) @ index])
