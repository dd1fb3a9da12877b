"""Matrix products of 8-bit integers against 64-bit integers, over shapes, signs and both forms (instruction notes, 3.4)."""

from __future__ import annotations

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
SPAN = 0x4000
RIGHT, RESULT = 0x1000, 0x2000
COEFF = MEMORY.coeff_base
ALL = {"localmem_mask_l32": 0xFFFFFFFF, "localmem_mask_h32": 0xFFFFFFFF}


def whole(number: int, to_lanes: bool, wait: int) -> Command:
    """All of the picture from the weights into local memory, or from there into the activations."""
    ddr = COEFF if to_lanes else COEFF + MEMORY.lanes * SPAN
    sides = [(MEMORY.lmem_gdma_base, (SPAN,) * 3 + (1,)), (ddr, (MEMORY.lanes * SPAN, SPAN, SPAN, 1))]
    fields = {"stride_enable": 1, "nchw_copy": 1, "cmd_id_en": 1, "cmd_id": number, "cmd_id_dep": wait, **ALL}
    fields |= {"src_nsize": 1, "src_csize": MEMORY.lanes, "src_hsize": 1, "src_wsize": SPAN}
    for side, (address, strides) in zip(("dst", "src") if to_lanes else ("src", "dst"), sides, strict=True):
        fields |= {f"{side}_start_addr_l32": address & 0xFFFFFFFF, f"{side}_start_addr_h8": address >> 32}
        fields |= {f"{side}_{dim}stride": stride for dim, stride in zip("nchw", strides, strict=True)}
    return Command("DMA_tensor", fields)


def simulate(command: Command, picture: np.ndarray) -> np.ndarray:
    gdma = [whole(1, True, 0), whole(2, False, 1), Command("sDMA_sys", {"cmd_short": 1, "cmd_id_en": 1, "cmd_id": 3, "cmd_type": 6})]
    tiu = [command, Command("SYSID", {"cmd_id": 2, "tsk_typ": 15, "tsk_eu_typ": 31})]
    isa = load("bm1684x")
    group = CommandGroup(encode_stream(isa, tiu), encode_stream(isa, gdma), 2, 3)
    ctx = COEFF + picture.nbytes
    output = ProgramTensor("y", picture.shape, DType.U8, ctx)
    stage = Stage((), (output,), ctx, picture.nbytes, picture.tobytes(), COEFF, (group,))
    return Simulator(Bmodel("2.2", "", "BM1684X", (Net("product", (stage,)),))).run({}, check=False).outputs["y"]


def matrix(picture: np.ndarray, byte: int, rows: int, columns: int, itemsize: int = 1) -> np.ndarray:
    """The bytes of a matrix, row by row: row r in lane r mod lanes, each further row of a lane at the next whole vector."""
    width = -(-columns * itemsize // MEMORY.eu_bytes) * MEMORY.eu_bytes
    starts = [(r % MEMORY.lanes, byte + r // MEMORY.lanes * width) for r in range(rows)]
    return np.stack([picture[lane, start : start + columns * itemsize] for lane, start in starts])


sizes = st.one_of(st.integers(1, 8), st.sampled_from([63, 64, 65, 130, 300]))


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, sizes, st.booleans(), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1), st.booleans())
def test_products_of_bytes_are_exact(
    m: int, k: int, n: int, nt: bool, left_signed: bool, right_signed: bool, seed: int, large: bool
) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (MEMORY.lanes, SPAN)).astype(np.uint8)
    if large:
        picture = np.where(picture < 128, 128, 255).astype(np.uint8)
    stored = (n, k) if nt else (k, n)
    fields = {
        "cmd_short": 1, "tsk_typ": 2, "tsk_eu_typ": 5 if nt else 4, "cmd_id_en": 1, "cmd_id": 1, "cmd_id_dep": 1, "res0_prec": 4,
        "opd0_sign": int(left_signed), "opd1_sign": int(right_signed), "opd2_const": 1, "res0_c": m, "res0_w": n,
        "opd1_c": stored[0], "opd1_w": stored[1], "res0_addr": RESULT, "opd0_addr": 0, "opd1_addr": RIGHT,
    }  # fmt: skip
    left = matrix(picture, 0, m, k).view(np.int8 if left_signed else np.uint8).astype(np.int64)
    right = matrix(picture, RIGHT, *stored).view(np.int8 if right_signed else np.uint8).astype(np.int64)
    after = simulate(Command("sMM2", fields), picture)
    found = matrix(after, RESULT, m, n, 4).view(np.int32)
    assert np.array_equal(found, left @ (right.T if nt else right))
