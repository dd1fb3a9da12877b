"""Faults that are found in a program without looking at values: undefined reads, missing results, conflicts without a wait."""

from __future__ import annotations

from time import perf_counter

import numpy as np
from bmflow.container.model import Bmodel
from bmflow.ir.types import DType
from bmflow.isa.program import Command, ProgramTensor
from bmflow.simulator import Simulator
from simulator_bench import COEFF, PREC, Shape, bmodel, dma, local_address, numbered, sizes, tiu

ROW: Shape = (64, 64, 64, 1)


def load(byte: int, count: int = 64, wait: int = 0, lanes: int = 1) -> Command:
    """Weights into local memory."""
    return dma((local_address(byte), (count, count, count, 1)), (COEFF, (0, 0, 0, 1)), (1, lanes, 1, count), wait=wait)


def save(byte: int, count: int = 64, wait: int = 0, to: int = 0) -> Command:
    """Local memory into the activations, which begin 4096 bytes after the weights."""
    return dma((COEFF + 4096 + to, ROW), (local_address(byte), ROW), (1, 1, 1, count), wait=wait)


def copy(y: int, x: int, count: int = 64, wait: int = 0, step: int = 1) -> Command:
    """TIU copy of bytes in lane 0."""
    fields = {
        "tsk_opd_num": 1,
        "res0_prec": PREC["i8"],
        "opd0_prec": PREC["i8"],
        **sizes("res0", (1, 1, 1, count)),
        "res0_addr": y,
        "opd0_addr": x,
    }
    for name in ("res0", "opd0"):
        fields |= {f"{name}_str": 3, f"{name}_w_str": step}
    return tiu("sAR", (3, 19), fields, wait)


def model(tiu_commands: list[Command], gdma_commands: list[Command], output_bytes: int = 64) -> Bmodel:
    output = ProgramTensor("y", (output_bytes,), DType.I8, COEFF + 4096)
    return bmodel(*numbered(tiu_commands, gdma_commands), bytes(4096), 4096, outputs=[output])


def kinds(tiu_commands: list[Command], gdma_commands: list[Command], output_bytes: int = 64) -> list[str]:
    return [problem.kind for problem in Simulator(model(tiu_commands, gdma_commands, output_bytes)).problems]


def test_a_sound_program_has_no_problems() -> None:
    assert kinds([copy(0x100, 0, wait=1)], [load(0), save(0x100, wait=1)]) == []


def test_one_byte_that_nobody_wrote_is_found() -> None:
    simulator = Simulator(model([copy(0x100, 0, wait=1)], [load(0, 63), save(0x100, wait=1)]))
    [problem] = simulator.problems
    assert problem.kind == "uninitialised"
    assert "reads 1 bytes" in str(problem)
    assert "TIU command 1 (arith.copy)" in str(problem)


def test_bytes_between_written_ones_stay_undefined() -> None:
    spread = copy(0x100, 0, 32, wait=1, step=2)
    assert kinds([spread], [load(0), save(0x100, wait=1)]) == ["uninitialised"]


def test_activations_that_nobody_wrote_are_found() -> None:
    reads = dma((local_address(0), ROW), (COEFF + 4096 + 128, ROW), (1, 1, 1, 64))
    assert kinds([copy(0x100, 0, wait=1)], [reads, save(0x100, wait=1)]) == ["uninitialised"]


def test_an_output_that_is_not_complete_is_found() -> None:
    simulator = Simulator(model([copy(0x100, 0, wait=1)], [load(0), save(0x100, wait=1)], output_bytes=65))
    assert [str(problem) for problem in simulator.problems] == ["output y: 1 of its 65 bytes are never written"]


def test_reading_before_the_load_is_a_hazard() -> None:
    assert "hazard" in kinds([copy(0x100, 0)], [load(0), save(0x100, wait=1)])


def test_loading_over_bytes_still_read_is_a_hazard() -> None:
    good = [load(0), save(0x100, wait=1), load(0, wait=1)]
    assert kinds([copy(0x100, 0, wait=1)], good) == []
    assert kinds([copy(0x100, 0, wait=1)], [load(0), load(0), save(0x100, wait=1)]) == ["hazard"]


def test_writing_over_bytes_being_stored_is_a_hazard() -> None:
    commands = [copy(0x100, 0, wait=1), copy(0x100, 0, wait=1)]
    assert kinds(commands, [load(0), save(0x100, wait=1)]) == ["hazard"]
    assert kinds([commands[0], copy(0x100, 0, wait=2)], [load(0), save(0x100, wait=1)]) == []


def test_bytes_side_by_side_do_not_conflict() -> None:
    even, odd = copy(0x100, 0, 32, wait=1, step=2), load(0x101, 1)
    assert "hazard" not in kinds([even], [load(0), odd, save(0x100, 1, wait=1)], 1)
    assert "hazard" in kinds([even], [load(0), load(0x102, 1), save(0x100, 1, wait=1)], 1)


def test_other_lanes_do_not_conflict() -> None:
    other = dma((local_address(5 * 0x40000), ROW), (COEFF, ROW), (1, 1, 1, 64))
    assert kinds([copy(0x100, 0, wait=1)], [load(0), other, save(0x100, wait=1)]) == []


def test_a_wait_of_an_earlier_command_counts_for_later_ones() -> None:
    assert kinds([copy(0x200, 0x40, wait=2), copy(0x100, 0, wait=0)], [load(0), load(0x40), save(0x100, wait=2)]) == []


def test_ten_thousand_commands_of_each_engine_are_checked_in_seconds() -> None:
    count = 10000
    gdma = [load(0x100 * (k % 64), wait=max(0, k - 32)) for k in range(count)]
    tiu_commands = [copy(0x8000 + 64 * (k % 64), 0x100 * (k % 64), wait=k + 1) for k in range(count)]
    simulator = Simulator(model(tiu_commands, [*gdma, save(0x8000, wait=count)]))
    start = perf_counter()
    assert simulator.problems == []
    assert perf_counter() - start < 20


def test_a_program_without_any_wait_is_reported_in_bounded_space() -> None:
    gdma, tiu_commands = [load(0)] * 3000, [copy(0x100, 0)] * 3000
    problems = Simulator(model(tiu_commands, [*gdma, save(0x100)])).problems
    assert 200 <= len(problems) < 1000
    assert "more problems of this kind" in problems[-1].text


def test_a_run_does_not_depend_on_what_a_run_before_left() -> None:
    simulator = Simulator(model([copy(0x100, 0x800)], [load(0), save(0x100, wait=1)]))
    first = simulator.run({}).outputs["y"]
    assert np.array_equal(first, simulator.run({}).outputs["y"])
