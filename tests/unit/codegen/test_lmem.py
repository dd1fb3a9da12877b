"""Local memory placement and buffers used in turn."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from bmflow import target
from bmflow.codegen.lmem import Slots, place
from bmflow.target import Memory
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def memory() -> Memory:
    return target.load("bm1684x").require_codegen()


@given(st.lists(st.integers(1, 40000), max_size=14), st.booleans())
def test_placed_buffers_are_inside_and_never_overlap(sizes: list[int], separate: bool) -> None:
    memory = target.load("bm1684x").require_codegen()
    addresses = place(memory, sizes, separate)
    if addresses is None:
        return
    ranges = list(zip(addresses, sizes, strict=True))
    assert all(a % memory.eu_bytes == 0 and a + size <= memory.lmem_bytes for a, size in ranges)
    assert all(a + n <= b or b + m <= a for (a, n), (b, m) in combinations(ranges, 2))


@given(st.lists(st.integers(1, 40000), max_size=14))
def test_buffers_kept_apart_share_no_bank(sizes: list[int]) -> None:
    memory = target.load("bm1684x").require_codegen()
    addresses = place(memory, sizes, separate_banks=True)
    if addresses is None:
        return
    banks = [set(range(a // memory.bank_bytes, (a + n - 1) // memory.bank_bytes + 1)) for a, n in zip(addresses, sizes, strict=True)]
    assert all(not one & other for one, other in combinations(banks, 2))


def test_buffers_that_fill_every_bank_still_fit(memory: Memory) -> None:
    assert place(memory, [memory.bank_bytes] * memory.banks) is not None
    assert place(memory, [memory.bank_bytes] * (memory.banks + 1)) is None


def test_many_small_buffers_fit_when_they_may_share_banks(memory: Memory) -> None:
    assert place(memory, [100] * (memory.banks + 1)) is None
    assert place(memory, [100] * (memory.banks + 1), separate_banks=False) is not None


def test_slots_load_only_what_is_not_there() -> None:
    slots = Slots([0, 100])
    taken = [slots.take(content) for content in "aabacba"]
    assert [fresh for _, fresh in taken] == [True, False, True, False, True, True, True]


@given(st.lists(st.integers(0, 3), max_size=30))
def test_slots_never_overwrite_the_content_taken_just_before(contents: list[int]) -> None:
    slots = Slots([0, 100])
    taken = [(content, *slots.take(content)) for content in contents]
    for (before, at, _), (content, address, fresh) in pairwise(taken):
        assert not (fresh and address == at)
        assert (before == content) == (address == at)
