"""The time estimate: its formula for single commands, engines side by side, and layers that add up."""

from __future__ import annotations

import numpy as np
import pytest
import smallest
from bmflow import target
from bmflow.container import bmodel
from bmflow.simulator import Simulator
from bmflow.simulator.cycles import command_cycles
from bmflow.simulator.instruction import Work

RATES = target.load("bm1684x").rates
assert RATES is not None


def simulator() -> Simulator:
    return Simulator(bmodel.read(bmodel.write(smallest.program())))


def test_commands_cost_what_the_formulas_of_the_notes_say() -> None:
    assert command_cycles(Work("cube", 1000), RATES) == RATES.tiu_start_cycles + 1000 / RATES.conv_efficiency
    assert command_cycles(Work("vector", 70), RATES) == RATES.tiu_start_cycles + 70
    assert command_cycles(Work("gather", 6400), RATES) == RATES.tiu_start_cycles + 6400 / RATES.gather_elements_per_cycle
    seconds = 1_000_000 / RATES.ddr_bytes_per_second
    assert command_cycles(Work("dma", 3, 0, 1_000_000), RATES) == pytest.approx(RATES.gdma_start_cycles + seconds * RATES.freq_hz)


def test_the_example_costs_its_chain_of_waits() -> None:
    """GDMA loads x, blob, table; the convolution starts after the blob; TIU goes on; the store ends it all (format notes, 9.2)."""
    per_byte = RATES.freq_hz / RATES.ddr_bytes_per_second
    loads = [RATES.gdma_start_cycles + size * per_byte for size in (6400, 20480, 256)]
    store = RATES.gdma_start_cycles + 12800 * per_byte
    vector = [25, 25 * 3]  # 400 int32 values in 16s, once and three times
    conv = 100 * 9 / RATES.conv_efficiency
    table, gather = 4, 400 / RATES.gather_elements_per_cycle
    first = loads[0] + loads[1] + 3 * RATES.tiu_start_cycles + conv + sum(vector)
    tail = 2 * RATES.tiu_start_cycles + table + gather
    total = max(first, sum(loads)) + tail + store
    found = simulator().estimate()
    assert found.total_cycles == pytest.approx(total, abs=1)
    assert found.milliseconds == pytest.approx(total / RATES.freq_hz * 1e3, rel=1e-3)


def test_layers_hold_all_commands_and_add_up() -> None:
    found = simulator().estimate()
    [layer] = found.layers
    assert (layer.name, layer.tiu_commands, layer.gdma_commands) == ("y", 5, 4)
    assert layer.ddr_bytes == 6400 + 20480 + 256 + 12800
    assert layer.macs == 32 * 400 * 16 * 9
    assert layer.cycles == found.total_cycles


def test_the_table_has_a_line_for_each_layer() -> None:
    simulation = simulator().run({"x": np.zeros((1, 16, 20, 20), np.int8)})
    lines = simulation.profile.splitlines()
    assert lines[0].startswith("Estimate (assumed rates):")
    assert lines[3].split()[:4] == ["y", "tpu.Conv2D", "5", "4"]
    assert lines[3].endswith("100.0%")
