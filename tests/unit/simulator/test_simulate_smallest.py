"""The published example from end to end, and what happens when one of its waits is weakened."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import numpy as np
import pytest
import smallest
from bmflow.container import bmodel
from bmflow.isa.program import Command, Program
from bmflow.simulator import Simulation, simulate


def filled(rng: np.random.Generator, largest_bias: int = 2**15) -> tuple[Program, dict[str, np.ndarray]]:
    """The example with random coefficients in the published layout, and these coefficients."""
    values = {
        "multiplier": rng.integers(2**30, 2**31, 32), "rshift": rng.integers(38, 42, 32), "zero": rng.integers(-20, 20, 32),
        "bias": rng.integers(-largest_bias, largest_bias, 32), "weight": rng.integers(-128, 128, (32, 16, 3, 3)),
        "table": rng.integers(-128, 128, 256),
    }  # fmt: skip
    blob = np.zeros((32, 640), np.uint8)
    words = np.stack([values["multiplier"], -values["rshift"], values["zero"], values["bias"]], axis=1).astype("<i4")
    blob[:, :16] = words.view(np.uint8)
    for ky in range(3):
        for kx in range(3):
            first = 64 + (3 * ky + kx) * 64
            blob[:, first : first + 16] = values["weight"][:, :, ky, kx].astype(np.int8).view(np.uint8)
    coeff = blob.tobytes() + values["table"].astype(np.int8).tobytes() + bytes(4096 - 256)
    return replace(smallest.program(), coeff=coeff), values


def expected(x: np.ndarray, values: dict[str, np.ndarray]) -> np.ndarray:
    """Convolution, bias, half-up requantization and look-up in 64-bit integers."""
    padded = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    total = np.zeros((1, 32, 20, 20), np.int64)
    for ky in range(3):
        for kx in range(3):
            total += np.einsum("oi,nihw->nohw", values["weight"][:, :, ky, kx].astype(np.int64), padded[:, :, ky : ky + 20, kx : kx + 20])
    total = np.clip(total + values["bias"].reshape(1, 32, 1, 1), -(2**31), 2**31 - 1)
    multiplier, rshift, zero = (values[name].astype(np.int64).reshape(1, 32, 1, 1) for name in ("multiplier", "rshift", "zero"))
    q = np.clip(((total * multiplier + (1 << (rshift - 1))) >> rshift) + zero, -128, 127)
    return values["table"][q & 255]


def run(program: Program, rng: np.random.Generator) -> Simulation:
    return simulate(bmodel.write(program), {"x": rng.integers(-128, 128, (1, 16, 20, 20)).astype(np.int8)})


def test_every_byte_of_the_published_example_is_as_computed_with_integers(rng: np.random.Generator) -> None:
    program, values = filled(rng)
    x = rng.integers(-128, 128, (1, 16, 20, 20)).astype(np.int8)
    simulation = simulate(bmodel.write(program), {"x": x})
    assert not simulation.problems
    assert np.array_equal(simulation.outputs["y"], expected(x, values))


def test_a_bias_that_makes_sums_saturate_is_added_like_any_other(rng: np.random.Generator) -> None:
    program, values = filled(rng, 2**31)
    values["bias"][:2] = (2**31 - 1, -(2**31))
    coeff = np.frombuffer(program.coeff, np.uint8).copy()
    for channel in (0, 1):
        coeff[640 * channel + 12 : 640 * channel + 16] = np.frombuffer(
            int(values["bias"][channel]).to_bytes(4, "little", signed=True), np.uint8
        )
    x = rng.integers(-128, 128, (1, 16, 20, 20)).astype(np.int8)
    result = simulate(bmodel.write(replace(program, coeff=coeff.tobytes())), {"x": x}).outputs["y"]
    assert np.array_equal(result, expected(x, values))


def test_real_inputs_are_quantized_by_the_scale_in_the_file(rng: np.random.Generator) -> None:
    program, values = filled(rng)
    real = rng.normal(scale=6, size=(1, 16, 20, 20)).astype(np.float32)
    steps = real.astype(np.float64) / 0.1
    x = np.clip(np.trunc(steps + np.copysign(0.5, steps)), -128, 127).astype(np.int64)
    assert np.array_equal(simulate(bmodel.write(program), {"x": real}).outputs["y"], expected(x, values))


def test_one_simulator_gives_the_same_with_and_without_checks(rng: np.random.Generator) -> None:
    from bmflow.simulator import Simulator

    program, values = filled(rng)
    simulator = Simulator(bmodel.read(bmodel.write(program)))
    for check in (True, False, True):
        x = rng.integers(-128, 128, (1, 16, 20, 20)).astype(np.int8)
        assert np.array_equal(simulator.run({"x": x}, check=check).outputs["y"], expected(x, values))


def needed_waits() -> list[tuple[str, int]]:
    """Stream and position of each wait that is more than what the commands before it wait for."""
    found: list[tuple[str, int]] = []
    for name, stream in (("tiu", smallest.tiu()), ("gdma", smallest.gdma())):
        waits = [command.fields.get("cmd_id_dep", 0) for command in stream]
        before = [0, *accumulate(waits, max)]
        found += [(name, k) for k, wait in enumerate(waits) if wait > before[k]]
    return found


@pytest.mark.parametrize(("stream", "position"), needed_waits())
def test_each_needed_wait_is_missed_when_it_is_one_less(stream: str, position: int, rng: np.random.Generator) -> None:
    program, _ = filled(rng)
    commands = list(getattr(program, stream))
    old = commands[position]
    commands[position] = Command(old.layout, {**old.fields, "cmd_id_dep": old.fields["cmd_id_dep"] - 1})
    problems = run(replace(program, **{stream: commands}), rng).problems
    assert any(problem.kind == "hazard" for problem in problems)


def test_the_example_has_waits_in_both_streams_that_are_needed() -> None:
    assert {stream for stream, _ in needed_waits()} == {"tiu", "gdma"}
