"""DDR planning: tensors alive together never share memory, inputs come first and stay, reshapes share."""

from __future__ import annotations

from itertools import combinations

from bmflow.dialects.tpu.compute import TpuReluOp
from bmflow.dialects.tpu.shape import TpuReshapeOp
from bmflow.ir.module import Module, ModuleBuilder
from bmflow.ir.types import tensor_type
from bmflow.passes.memory import Buffer, allocate, plan_tensors
from hypothesis import given
from hypothesis import strategies as st

PAGE = 4096


@st.composite
def buffers(draw: st.DrawFn) -> list[Buffer]:
    made: list[Buffer] = []
    for i in range(draw(st.integers(1, 25))):
        first = draw(st.integers(0, 20))
        made.append(Buffer(str(i), draw(st.integers(1, 50000)), first, first + draw(st.integers(0, 10)), draw(st.booleans())))
    return made


@given(buffers())
def test_buffers_alive_together_never_overlap(made: list[Buffer]) -> None:
    allocation = allocate(made, PAGE)
    offsets = allocation.offsets
    assert all(offsets[b.name] % PAGE == 0 and offsets[b.name] + b.size_bytes <= allocation.total_bytes for b in made)
    for one, other in combinations(made, 2):
        apart = offsets[one.name] + one.size_bytes <= offsets[other.name] or offsets[other.name] + other.size_bytes <= offsets[one.name]
        assert apart or (not one.meets(other) and not (one.pinned and other.pinned))


def chain(length: int) -> Module:
    """x -> relu -> ... -> relu, all of one page."""
    builder = ModuleBuilder("chain", "ONNX")
    value = builder.input("x", (1, 1, 32, 32))
    for i in range(length):
        value = builder.append(TpuReluOp.make(f"relu{i}", [value], tensor_type((1, 1, 32, 32)))).results[0]
    return builder.finish([value])


def test_a_chain_needs_two_buffers_beside_its_input() -> None:
    plan = plan_tensors(chain(9), PAGE)
    assert plan.offsets["x"] == 0
    assert plan.total_bytes == 3 * PAGE


def test_a_reshape_shares_memory_and_keeps_it_alive() -> None:
    builder = ModuleBuilder("shared", "ONNX")
    x = builder.input("x", (1, 1, 32, 32))
    a = builder.append(TpuReluOp.make("a", [x], tensor_type((1, 1, 32, 32)))).results[0]
    r = builder.append(TpuReshapeOp.make("r", [a], tensor_type((32, 32)))).results[0]
    b = builder.append(TpuReluOp.make("b", [x], tensor_type((1, 1, 32, 32)))).results[0]
    c = builder.append(TpuReluOp.make("c", [r], tensor_type((32, 32)))).results[0]
    offsets = plan_tensors(builder.finish([b, c]), PAGE).offsets
    assert offsets["r"] == offsets["a"]
    assert len({offsets[name] for name in "xab"}) == 3
