"""Commands as text; names and operands of the smallest network are those of the vendor's own disassembly of it."""

from __future__ import annotations

import smallest
from bmflow import target
from bmflow.isa import tables
from bmflow.isa.disassemble import command_text, disassemble
from bmflow.isa.program import Command

ISA = tables.load("bm1684x")
MEMORY = target.load("bm1684x").require_codegen()

TIU_TEXT = """\
# y (tpu.Conv2D)
B1      wait D2     conv.normal               R3 [1, 32, 20, 20] i32 = R0 [-, 16, 20, 20] si8, R1.64 [-, -, 3, 3] signed, C0 unsigned, C0 \
{opd0_up_pad = 1, opd0_dn_pad = 1, opd0_lf_pad = 1, opd0_rt_pad = 1, res_op_x_str = 1, res_op_y_str = 1}
B2      wait D2     arith.adds                R3 [1, 32, 20, 20] i32 = R1.12 si32 / [0, 1, 0, 0], R3 si32
B3      wait D2     quant.rq1                 R4 [1, 32, 20, 20] i8 = R3 si32, R1 {opd2_sign = 1, opd2_n_str = 5}
B4      wait D3     tsbc.l_bc                 R2 [1, 64, 1, 256] i8 = R2 [-, 1, -, 256]
B5      wait D3     sg.pe_s_gather_d1coor     R5 [1, 32, 1, 400] i8 = R2 [-, -, 1, 256] i8 table, R4 [-, 32, -, 400] i8
B6                  sys.end"""

GDMA_TEXT = """\
D1                  dma.tensor                R0 / [448, 448, 20, 1] = G24576 [1, 16, 20, 20] i8 / [6400, 400, 20, 1]
D2                  dma.tensor                R1 / [640, 640, 640, 1] = G0 [1, 32, 1, 640] i8 / [20480, 640, 640, 1]
D3                  dma.tensor                R2 / [256, 256, 256, 1] = G20480 [1, 1, 1, 256] i8 / [256, 256, 256, 1]
D4      wait B5     dma.tensor                G32768 / [12800, 400, 20, 1] = R5 [1, 32, 20, 20] i8 / [448, 448, 20, 1]
D5                  dma.sys"""


def test_tiu_stream_of_the_smallest_network() -> None:
    assert disassemble(ISA, smallest.tiu(), MEMORY, {1: "y (tpu.Conv2D)"}) == TIU_TEXT


def test_gdma_stream_of_the_smallest_network() -> None:
    assert disassemble(ISA, smallest.gdma(), MEMORY) == GDMA_TEXT


def test_lanes_static_memory_and_constants_are_told_apart() -> None:
    distribute = Command(
        "sTRANS&sBC", {"tsk_typ": 5, "tsk_eu_typ": 5, "cmd_id": 1, "res0_addr": 1826944, "opd0_addr": 150996416, "res0_prec": 4}
    )
    assert command_text(ISA, distribute, MEMORY).endswith("tsbc.s_distribute         R15.8320.L6 i32 = S1472")
    fill = Command("DMA_tensor", {"fill_constant_en": 1, "constant_value": 7, "dst_start_addr_l32": 0x1000_0000, "localmem_mask_l32": 1})
    assert command_text(ISA, fill, MEMORY).endswith("0x10000000 = C7 i8 {localmem_mask_l32 = 1}")


def test_addresses_are_plain_numbers_without_a_memory_description() -> None:
    copy = Command("sAR", {"tsk_typ": 3, "tsk_eu_typ": 19, "tsk_opd_num": 1, "opd0_addr": 64, "res0_addr": 128})
    assert command_text(ISA, copy).endswith("arith.copy                0x80 i8 = 0x40 ui8")


def test_every_operation_of_every_layout_has_a_text() -> None:
    for layout in ISA.layouts.values():
        kind = "tsk_eu_typ" if layout.engine == "TIU" else "cmd_special_function"
        for code, mnemonic in layout.operations.items():
            text = command_text(ISA, Command(layout.name, {kind: code}), MEMORY)
            assert (mnemonic or layout.name) in text
