"""DMA_tensor commands against element-by-element copies over flat memories."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import pytest
from bmflow.errors import InputError
from bmflow.ir.types import DType
from bmflow.isa.program import Command, ProgramTensor
from bmflow.simulator import Simulator
from simulator_bench import COEFF, LANE_BYTES, LANES, Place, Shape, aligned, bmodel, dma, get, local_address, numbered, picture, put

SPAN = 0x2000
DDR_BYTES = 1 << 16


def run(commands: list[Command], source: np.ndarray, memory: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Run copies with `source` as weights; DDR behind them and local memory as they are afterwards."""
    memory = picture(SPAN) if memory is None else memory
    inside, outside = (LANES * SPAN // 4, SPAN // 4, SPAN // 4, 1), (SPAN // 4, SPAN // 4, SPAN // 4, 1)
    words: Shape = (1, LANES, 1, SPAN // 4)
    coeff = source.tobytes() + memory.tobytes()
    ctx = COEFF + len(coeff)
    zeros = dma((ctx, (0, 0, DDR_BYTES // 64, 1)), (0, (0, 0, 0, 0)), (1, 1, 64, DDR_BYTES // 64), nchw_copy=0, fill_constant_en=1)
    sized = {f"dst_{dim}size": size for dim, size in zip("nchw", (1, 1, 64, DDR_BYTES // 64), strict=True)}
    zeros = Command(zeros.layout, zeros.fields | sized)
    first = dma((local_address(0), outside), (COEFF + source.nbytes, inside), words, "i32")
    last = dma((ctx + DDR_BYTES, inside), (local_address(0), outside), words, "i32")
    outputs = [
        ProgramTensor("ddr", (DDR_BYTES,), DType.U8, ctx), ProgramTensor("memory", (LANES, SPAN), DType.U8, ctx + DDR_BYTES),
    ]  # fmt: skip
    model = bmodel(*numbered([], [zeros, first, *commands, last]), coeff, DDR_BYTES + LANES * SPAN, outputs=outputs)
    simulation = Simulator(model).run({})
    assert not simulation.problems, [str(problem) for problem in simulation.problems]
    return simulation.outputs["ddr"], simulation.outputs["memory"]


def ctx_address(source: np.ndarray) -> int:
    return COEFF + source.nbytes + LANES * SPAN


def flat(shape: Shape, strides: Shape) -> list[int]:
    """Offset of every element in the order n, c, h, w."""
    return [sum(k * s for k, s in zip(index, strides, strict=True)) for index in product(*(range(size) for size in shape))]


@pytest.mark.parametrize("kind", ["i8", "f16", "f32"])
@pytest.mark.parametrize("lane", [0, 50])
def test_a_strided_load_places_channels_in_lanes(kind: str, lane: int, rng: np.random.Generator) -> None:
    size = {"i8": 1, "f16": 2, "f32": 4}[kind]
    source = rng.integers(0, 256, 32768).astype(np.uint8)
    shape, strides = (2, 70, 3, 4), (3000, 40, 13, 3)
    place = aligned(0x100, shape, kind, lane)
    _, memory = run([dma((local_address(place), place.strides), (COEFF + 8, strides), shape, kind)], source)
    words = source[8 : 8 + (len(source) - 8) // size * size].view(f"u{size}")
    assert np.array_equal(get(memory, place).view(f"u{size}").ravel(), words[flat(shape, strides)])


def test_a_store_writes_every_element_and_nothing_else(rng: np.random.Generator) -> None:
    source = np.zeros(16, np.uint8)
    shape, strides = (1, 66, 5, 7), (0, 300, 50, 2)
    place = aligned(0x40, shape, "i16", lane=3)
    memory, values = picture(SPAN), rng.integers(-999, 999, shape)
    put(memory, place, values)
    ddr, _ = run([dma((ctx_address(source) + 20, strides), (local_address(place), place.strides), shape, "i16")], source, memory)
    expected = np.zeros(DDR_BYTES // 2, np.int16)
    expected[[10 + offset for offset in flat(shape, strides)]] = values.ravel()
    assert np.array_equal(ddr.view(np.int16), expected)


@pytest.mark.parametrize(
    ("before", "after"), [((1, 6, 5, 4), (2, 3, 2, 10)), ((1, 70, 3, 4), (1, 1, 60, 14)), ((1, 1, 1, 840), (1, 70, 4, 3))]
)
def test_elements_keep_their_order_when_shapes_differ(before: Shape, after: Shape, rng: np.random.Generator) -> None:
    source = rng.integers(0, 256, 4096).astype(np.uint8)
    dense = tuple(prod(before[k + 1 :]) for k in range(4))
    place = aligned(0x100, after, "i8", lane=7)
    sized = {f"dst_{dim}size": size for dim, size in zip("nchw", after, strict=True)}
    _, memory = run([dma((local_address(place), place.strides), (COEFF, dense), before, nchw_copy=0, **sized)], source)
    assert np.array_equal(get(memory, place).view(np.uint8).ravel(), source[: prod(before)])


def test_local_memory_is_reshaped_by_way_of_the_order_of_elements(rng: np.random.Generator) -> None:
    source = np.zeros(16, np.uint8)
    a, b = aligned(0, (1, 70, 3, 4), "i8"), aligned(0x400, (2, 7, 6, 10), "i8", lane=60)
    memory, values = picture(SPAN), rng.integers(-128, 128, a.shape)
    put(memory, a, values)
    sized = {f"dst_{dim}size": size for dim, size in zip("nchw", b.shape, strict=True)}
    command = dma((local_address(b), b.strides), (local_address(a), a.strides), a.shape, nchw_copy=0, **sized)
    _, after = run([command], source, memory)
    assert np.array_equal(get(after, b).ravel(), values.ravel())


def test_n_and_c_are_exchanged(rng: np.random.Generator) -> None:
    source = rng.integers(0, 256, 4096).astype(np.uint8)
    shape: Shape = (3, 70, 2, 5)
    place = aligned(0, (70, 3, 2, 5), "i8")
    command = dma((local_address(place), place.strides), (COEFF, (700, 10, 5, 1)), shape, cmd_special_function=1)
    _, memory = run([command], source)
    assert np.array_equal(get(memory, place).view(np.uint8), source[: prod(shape)].reshape(shape).swapaxes(0, 1))


def test_a_broadcast_brings_one_channel_to_many_lanes(rng: np.random.Generator) -> None:
    source = rng.integers(0, 256, 4096).astype(np.uint8)
    place = Place(0x40, (2, 30, 3, 20), "i8", (128, 128, 20, 1), 20)
    sized = {f"dst_{dim}size": size for dim, size in zip("nchw", place.shape, strict=True)}
    fields = dma(
        (local_address(place), (128, 0, 20, 0)), (COEFF, (100, 0, 30, 0)), (2, 1, 3, 20), cmd_special_function=3, nchw_copy=0, **sized
    )
    _, memory = run([fields], source)
    expected = source[flat((2, 1, 3, 20), (100, 0, 30, 1))].reshape(2, 1, 3, 20)
    assert np.array_equal(get(memory, place).view(np.uint8), np.broadcast_to(expected, place.shape))


@pytest.mark.parametrize("kind", ["i8", "f16", "i32"])
def test_a_fill_writes_the_low_bits_of_the_constant(kind: str) -> None:
    place = aligned(0, (1, 70, 2, 3), kind, lane=9)
    sized = {f"dst_{dim}size": size for dim, size in zip("nchw", place.shape, strict=True)}
    fill = dma(
        (local_address(place), place.strides), (0, (0, 0, 0, 0)), (0, 0, 0, 0), kind, nchw_copy=0, fill_constant_en=1,
        constant_value=0x89ABCDEF, **sized,
    )  # fmt: skip
    _, memory = run([fill], np.zeros(16, np.uint8))
    bits = {"i8": 0xEF, "f16": 0xCDEF, "i32": 0x89ABCDEF}[kind]
    values = get(memory, place)
    assert (values.view(f"u{values.itemsize}") == bits).all()


def test_a_copy_within_ddr_may_overlap_itself(rng: np.random.Generator) -> None:
    source = rng.integers(0, 256, 4096).astype(np.uint8)
    ctx = ctx_address(source)
    row: Shape = (4096, 4096, 4096, 1)
    commands = [dma((ctx, row), (COEFF, row), (1, 1, 1, 4096)), dma((ctx + 1, row), (ctx, row), (1, 1, 1, 4000))]
    ddr, _ = run(commands, source)
    assert np.array_equal(ddr[1:4001], source[:4000])


@pytest.mark.parametrize(
    ("to", "source", "words"),
    [
        (COEFF, local_address(0), "stores into the weights"),
        (COEFF + (1 << 30), local_address(0), "neither in the weights nor in the activations"),
        (local_address(0), COEFF + 16 + LANES * SPAN - 4, "past the end of the weight memory"),
        (local_address(LANE_BYTES - 4), COEFF, "of a lane of"),
    ],
)
def test_addresses_outside_of_memory_are_refused(to: int, source: int, words: str) -> None:
    row: Shape = (8, 8, 8, 1)
    with pytest.raises(InputError, match=words):
        run([dma((to, row), (source, row), (1, 1, 1, 8))], np.zeros(16, np.uint8))
