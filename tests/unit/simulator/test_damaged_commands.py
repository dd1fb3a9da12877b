"""Commands that make no sense end in one InputError that names engine, id and layer, whatever is wrong with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import smallest
from bmflow.container.model import Bmodel, Net
from bmflow.errors import InputError
from bmflow.ir.types import DType
from bmflow.isa.program import Command, LayerSpan, ProgramTensor
from bmflow.simulator import Simulator
from simulator_bench import bmodel

COEFF_BYTES = 24576
X = ProgramTensor("x", (1, 16, 20, 20), DType.I8, smallest.CONTEXT, 0.1)
Y = ProgramTensor("y", (1, 32, 20, 20), DType.I8, smallest.CONTEXT + 0x2000, 0.3)
LAYERS = [LayerSpan("first", "tpu.Conv2D", Y, 1, 5, 1, 4)]


def changed(engine: str, position: int, **fields: int) -> Bmodel:
    """The published example with other values in one command."""
    streams = {"TIU": list(smallest.tiu()), "GDMA": list(smallest.gdma())}
    if position >= 0:
        old = streams[engine][position]
        streams[engine][position] = Command(old.layout, old.fields | fields)
    return bmodel(streams["TIU"], streams["GDMA"], bytes(COEFF_BYTES), 24576, [X], [Y], LAYERS)


CASES = {
    "no channels": ("TIU", 0, {"res0_c": 0}, r"TIU command 1 \(conv.normal\) of layer first: res0 has the sizes \(1, 0, 20, 20\)"),
    "another extent": ("TIU", 0, {"res0_h": 21}, "does not give"),
    "no stride": ("TIU", 0, {"res_op_y_str": 0}, "none may be 0"),
    "past the lane": ("TIU", 0, {"res0_addr": 0x3FFC0}, "of a lane of 262144"),
    "unknown type": ("TIU", 0, {"opd0_prec": 7}, "4-bit integers or unknown"),
    "int16 convolution": ("TIU", 0, {"opd0_prec": 3}, "cannot simulate"),
    "reflected padding": ("TIU", 0, {"pad_mode": 1}, "padding mode 1 is something this version cannot simulate"),
    "too many operands": ("TIU", 1, {"tsk_opd_num": 0}, "0 operands"),
    "float and integer": ("TIU", 1, {"opd0_prec": 2}, "adds of f32, si32 into si32"),
    "unknown operation": ("TIU", 1, {"tsk_eu_typ": 18}, "arith.mac is something this version cannot simulate"),
    "unknown rounding": ("TIU", 2, {"opd2_n_str": 7}, "no rounding mode"),
    "other lanes": ("TIU", 2, {"opd1_addr": 0x44000}, "different lanes"),
    "broadcast past the lanes": ("TIU", 3, {"res0_addr": 0x48000}, "broadcast to lanes 1 .. 64"),
    "another index shape": ("TIU", 4, {"opd1_w": 399}, "indices"),
    "another number": ("TIU", 4, {"cmd_id": 9}, "it is numbered 9"),
    "wait for nothing": ("TIU", 0, {"cmd_id_dep": 77}, r"waits for GDMA command 77, which never completes"),
    "wait in a circle": ("GDMA", 1, {"cmd_id_dep": 1}, "never completes before it"),
    "other size": ("GDMA", 0, {"nchw_copy": 0, "dst_nsize": 1, "dst_csize": 1, "dst_hsize": 1, "dst_wsize": 5}, "number of elements"),
    "masked lanes": ("GDMA", 0, {"localmem_mask_l32": 1}, "skips lanes"),
    "unknown function": ("GDMA", 0, {"cmd_special_function": 4}, "dma.tensor.distribute is something this version cannot simulate"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_command_that_makes_no_sense_is_named(name: str) -> None:
    engine, position, fields, words = CASES[name]
    with pytest.raises(InputError, match=words) as caught:
        Simulator(changed(engine, position, **fields))
    assert f"{engine} command" in str(caught.value) or "waits for" in str(caught.value)


def test_any_change_of_bits_is_run_or_refused(rng: np.random.Generator) -> None:
    sound = changed("TIU", -1).nets[0].stages[0]
    refused = 0
    for _ in range(400):
        streams = {"tiu": bytearray(sound.groups[0].tiu), "gdma": bytearray(sound.groups[0].gdma)}
        stream = streams[("tiu", "gdma")[rng.integers(2)]]
        for bit in rng.integers(0, 8 * len(stream), rng.integers(1, 4)):
            stream[bit // 8] ^= 1 << (bit % 8)
        group = replace(sound.groups[0], **{name: bytes(data) for name, data in streams.items()})
        model = Bmodel("2.2", "", "BM1684X", (Net("damaged", (replace(sound, groups=(group,)),)),))
        try:
            Simulator(model).run({"x": np.zeros(X.shape, np.int8)})
        except InputError:
            refused += 1
    assert 100 < refused < 400


def test_other_parts_of_the_model_are_asked_for_by_number() -> None:
    with pytest.raises(InputError, match="net 1, stage 0: the bmodel has no such part"):
        Simulator(changed("TIU", -1), net=1)


def test_another_processor_is_refused() -> None:
    model = changed("TIU", -1)
    with pytest.raises(InputError, match="made for BM1690, which this version cannot simulate"):
        Simulator(Bmodel(model.version, model.time, "BM1690", model.nets))


def test_inputs_are_asked_for_by_name_and_shape() -> None:
    simulator = Simulator(changed("TIU", -1))
    with pytest.raises(InputError, match="input x: no array was given"):
        simulator.run({"other": np.zeros(1)})
    with pytest.raises(InputError, match=r"input x: expected shape \[1, 16, 20, 20\], found \[1, 16, 20\]"):
        simulator.run({"x": np.zeros((1, 16, 20), np.float32)})


def test_an_unknown_layer_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match="did you mean first"):
        Simulator(changed("TIU", -1)).run({"x": np.zeros(X.shape, np.int8)}, layers=["fist"])
