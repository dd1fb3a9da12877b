"""Sums of operands with any strides, zeros included, against the address rule applied element by element (instruction notes, 1.1 and 3.5)."""

from __future__ import annotations

from itertools import product

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
SPAN = 1024
COEFF = MEMORY.coeff_base
PICTURE = np.random.default_rng(11).integers(0, 256, (MEMORY.lanes, SPAN)).astype(np.uint8)
ALL = {"localmem_mask_l32": 0xFFFFFFFF, "localmem_mask_h32": 0xFFFFFFFF}

shapes = st.tuples(st.integers(1, 2), st.integers(1, 130), st.integers(1, 3), st.integers(1, 4))
free = st.tuples(st.sampled_from([0, 24, 40]), st.sampled_from([0, 1, 12]), st.sampled_from([0, 1, 4]), st.sampled_from([0, 1, 2]))


def whole(number: int, to_lanes: bool, wait: int) -> Command:
    """All of the picture from the weights into local memory, or from there into the activations."""
    ddr = COEFF if to_lanes else COEFF + PICTURE.nbytes
    sides = [(MEMORY.lmem_gdma_base, (SPAN,) * 3 + (1,)), (ddr, (PICTURE.size, SPAN, SPAN, 1))]
    fields = {"stride_enable": 1, "nchw_copy": 1, "cmd_id_en": 1, "cmd_id": number, "cmd_id_dep": wait, **ALL}
    fields |= {"src_nsize": 1, "src_csize": MEMORY.lanes, "src_hsize": 1, "src_wsize": SPAN}
    for side, (address, strides) in zip(("dst", "src") if to_lanes else ("src", "dst"), sides, strict=True):
        fields |= {f"{side}_start_addr_l32": address & 0xFFFFFFFF, f"{side}_start_addr_h8": address >> 32}
        fields |= {f"{side}_{dim}stride": stride for dim, stride in zip("nchw", strides, strict=True)}
    return Command("DMA_tensor", fields)


def simulate(command: Command) -> np.ndarray:
    gdma = [whole(1, True, 0), whole(2, False, 1), Command("sDMA_sys", {"cmd_short": 1, "cmd_id_en": 1, "cmd_id": 3, "cmd_type": 6})]
    tiu = [command, Command("SYSID", {"cmd_id": 2, "tsk_typ": 15, "tsk_eu_typ": 31})]
    isa = load("bm1684x")
    group = CommandGroup(encode_stream(isa, tiu), encode_stream(isa, gdma), 2, 3)
    ctx = COEFF + PICTURE.nbytes
    output = ProgramTensor("y", PICTURE.shape, DType.U8, ctx)
    stage = Stage((), (output,), ctx, PICTURE.nbytes, PICTURE.tobytes(), COEFF, (group,))
    return Simulator(Bmodel("2.2", "", "BM1684X", (Net("sums", (stage,)),))).run({}, check=False).outputs["y"]


@settings(max_examples=60, deadline=None)
@given(shapes, free, free, st.integers(0, 63), st.sampled_from([2, 15]))
def test_strides_pick_the_elements_they_name(
    shape: tuple[int, int, int, int], a_strides: tuple[int, ...], b_strides: tuple[int, ...], lane: int, op: int
) -> None:
    rows = -(-(lane + shape[1]) // MEMORY.lanes)
    y_strides = (rows * 16, 16, shape[3], 1)
    places = {"opd0": (0, a_strides), "opd1": (300, b_strides), "res0": (704, y_strides)}
    fields = {"cmd_short": 1, "tsk_typ": 3, "tsk_eu_typ": op, "tsk_opd_num": 2, "cmd_id_en": 1, "cmd_id": 1, "cmd_id_dep": 1}
    fields |= {f"res0_{dim}": size for dim, size in zip("nchw", shape, strict=True)}
    for name, (byte, strides) in places.items():
        fields |= {f"{name}_addr": lane * MEMORY.lmem_bytes + byte, f"{name}_str": 3}
        fields |= {f"{name}_{dim}_str": stride for dim, stride in zip("nchw", strides, strict=True)}
    fields |= {"opd0_sign": 1, "opd1_sign": 1}
    expected = PICTURE.copy().view(np.int8)
    before = expected.astype(int)
    for n, c, h, w in product(*(range(size) for size in shape)):
        at, row = (lane + c) % MEMORY.lanes, (lane + c) // MEMORY.lanes
        byte = {name: start + n * s[0] + row * s[1] + h * s[2] + w * s[3] for name, (start, s) in places.items()}
        total = before[at, byte["opd0"]] + before[at, byte["opd1"]]
        expected[at, byte["res0"]] = np.clip(total, -128, 127) if op == 15 else (total + 128) % 256 - 128
    assert np.array_equal(simulate(Command("sAR", fields)).view(np.int8), expected)
