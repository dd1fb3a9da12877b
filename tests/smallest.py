"""The smallest working bmodel, as published with the description of the format (format notes, 9), written down by hand.

Convolution, bias, requantization and look-up of int8 (1, 16, 20, 20) into (1, 32, 20, 20). Streams and tables have known values;
the weights are free, here a ramp.
"""

from __future__ import annotations

from collections.abc import Sequence

from bmflow import target
from bmflow.ir.types import DType
from bmflow.isa.program import Command, LayerSpan, Program, ProgramTensor, WeightSpan

COEFF = 0x1_0000_0000
CONTEXT = 0x1_0000_6000
Strides = tuple[int, int, int, int]


def _transfer(number: int, wait: int, source: tuple[int, Strides], destination: tuple[int, Strides], size: Sequence[int]) -> Command:
    fields = {"stride_enable": 1, "nchw_copy": 1, "cmd_id_en": 1, "cmd_id": number, "cmd_id_dep": wait}
    fields |= {"localmem_mask_l32": 0xFFFFFFFF, "localmem_mask_h32": 0xFFFFFFFF}
    for side, (address, strides) in (("src", source), ("dst", destination)):
        fields |= {f"{side}_start_addr_l32": address & 0xFFFFFFFF, f"{side}_start_addr_h8": address >> 32}
        fields |= {f"{side}_{dim}stride": stride for dim, stride in zip("nchw", strides, strict=True)}
    fields |= {f"src_{dim}size": value for dim, value in zip("nchw", size, strict=True)}
    return Command("DMA_tensor", fields)


def _compute(layout: str, number: int, wait: int, kind: tuple[int, int], fields: dict[str, int]) -> Command:
    head = {"cmd_short": 1, "cmd_id": number, "cmd_id_dep": wait, "tsk_typ": kind[0], "tsk_eu_typ": kind[1], "cmd_id_en": 1}
    return Command(layout, head | fields)


def _sizes(name: str, **dims: int) -> dict[str, int]:
    return {f"{name}_{dim}": size for dim, size in dims.items()}


def gdma() -> list[Command]:
    """The GDMA stream (format notes, 9.2)."""
    return [
        _transfer(1, 0, (CONTEXT, (6400, 400, 20, 1)), (0x0800_0000, (448, 448, 20, 1)), (1, 16, 20, 20)),
        _transfer(2, 0, (COEFF, (20480, 640, 640, 1)), (0x0800_4000, (640, 640, 640, 1)), (1, 32, 1, 640)),
        _transfer(3, 0, (COEFF + 20480, (256, 256, 256, 1)), (0x0800_8000, (256, 256, 256, 1)), (1, 1, 1, 256)),
        _transfer(4, 5, (0x0801_4000, (448, 448, 20, 1)), (CONTEXT + 0x2000, (12800, 400, 20, 1)), (1, 32, 20, 20)),
        Command("sDMA_sys", {"cmd_short": 1, "cmd_id_en": 1, "cmd_id": 5, "cmd_type": 6}),
    ]


def tiu() -> list[Command]:
    """The TIU stream (format notes, 9.2)."""
    whole = _sizes("res0", n=1, c=32, h=20, w=20)
    pads = dict.fromkeys(("opd0_up_pad", "opd0_dn_pad", "opd0_lf_pad", "opd0_rt_pad", "res_op_x_str", "res_op_y_str"), 1)
    signs = dict.fromkeys(("opd0_sign", "opd1_sign"), 1)
    integers = dict.fromkeys(("res0_prec", "opd0_prec", "opd1_prec"), 4)
    return [
        _compute("sCONV", 1, 2, (0, 0), {
            **signs, "opd2_const": 1, "opd3_const": 1, "res0_prec": 4, **pads, **whole, **_sizes("opd0", c=16, h=20, w=20),
            **_sizes("opd1", h=3, w=3), "res0_addr": 0xC000, "opd1_addr": 0x4040,
        }),
        _compute("sAR", 2, 2, (3, 15), {
            "tsk_opd_num": 2, **integers, **signs, "opd0_str": 3, "opd0_c_str": 1, **whole, "opd0_addr": 0x400C, "opd1_addr": 0xC000,
            "res0_addr": 0xC000,
        }),
        _compute("sRQ&sDQ", 3, 2, (4, 1), {
            "opd0_sign": 1, "opd2_sign": 1, "opd0_prec": 4, "opd2_n_str": 5, **whole, "opd0_addr": 0xC000, "opd1_addr": 0x4000,
            "res0_addr": 0x10000,
        }),
        _compute("sTRANS&sBC", 4, 3, (5, 3), {
            **_sizes("res0", n=1, c=64, h=1, w=256), **_sizes("opd0", c=1, w=256), "res0_addr": 0x8000, "opd0_addr": 0x8000,
        }),
        _compute("sSG", 5, 3, (6, 5), {
            "opd0_str": 4, **_sizes("res0", n=1, c=32, h=1, w=400), **_sizes("opd0", h=1, w=256), **_sizes("opd1", c=32, w=400),
            "opd0_addr": 0x8000, "opd1_addr": 0x10000, "res0_addr": 0x14000,
        }),
        Command("SYSID", {"cmd_id": 6, "tsk_typ": 15, "tsk_eu_typ": 31}),
    ]  # fmt: skip


def program(name: str = "smallest", input_scale: float = 0.1) -> Program:
    """The network with everything a file can say about it."""
    x = ProgramTensor("x", (1, 16, 20, 20), DType.I8, CONTEXT, input_scale)
    y = ProgramTensor("y", (1, 32, 20, 20), DType.I8, CONTEXT + 0x2000, 0.3)
    coeff = bytes(range(256)) * 80 + bytes(range(256)) + bytes(4096 - 256)
    return Program(
        name=name, target=target.load("bm1684x"), tiu=tiu(), gdma=gdma(), coeff=coeff, coeff_address=COEFF, ctx_address=CONTEXT,
        ctx_bytes=24576, inputs=[x], outputs=[y], layers=[LayerSpan("y", "tpu.Conv2D", y, 1, 5, 1, 4)],
        weights=[WeightSpan("y", 0, 20480), WeightSpan("y_table", 20480, 256)],
    )  # fmt: skip
