"""Waits order every pair of conflicting commands of different engines: checked against all pairs, one by one."""

from __future__ import annotations

from itertools import pairwise
from time import perf_counter

from bmflow.codegen.dependencies import Access, DependencyTracker, Engine
from hypothesis import given
from hypothesis import strategies as st

accesses = st.builds(
    lambda begin, size, lane, lanes, write: Access(begin, begin + size, lane, min(lane + lanes, 7), write),
    st.integers(0, 40), st.integers(1, 20), st.integers(0, 7), st.integers(0, 7), st.booleans(),
)  # fmt: skip
programs = st.lists(st.tuples(st.sampled_from(Engine), st.lists(accesses, max_size=4)), max_size=60)


def bytes_of(access: Access) -> set[tuple[int, int]]:
    return {(lane, byte) for lane in range(access.first_lane, access.last_lane + 1) for byte in range(access.begin, access.end)}


def collide(one: list[Access], other: list[Access]) -> bool:
    """Byte by byte, independent of interval arithmetic."""
    return any((a.write or b.write) and bytes_of(a) & bytes_of(b) for a in one for b in other)


@given(programs)
def test_conflicting_commands_are_ordered_and_waits_never_decrease(program: list[tuple[Engine, list[Access]]]) -> None:
    tracker = DependencyTracker()
    numbered = [(engine, *tracker.add(engine, own), own) for engine, own in program]
    for k, (engine, _, wait, own) in enumerate(numbered):
        for other_engine, other_id, _, others in numbered[:k]:
            if other_engine is not engine and collide(own, others):
                assert wait >= other_id
    for engine in Engine:
        stream = [(number, wait) for which, number, wait, _ in numbered if which is engine]
        assert [number for number, _ in stream] == list(range(1, len(stream) + 1))
        assert all(before <= after for (_, before), (_, after) in pairwise(stream))


@given(programs)
def test_nothing_waits_without_a_conflict(program: list[tuple[Engine, list[Access]]]) -> None:
    tracker = DependencyTracker()
    needed = {Engine.TIU: 0, Engine.GDMA: 0}
    done: list[tuple[Engine, int, list[Access]]] = []
    for engine, own in program:
        number, wait = tracker.add(engine, own)
        conflicts = [other_id for other, other_id, others in done if other is not engine and collide(own, others)]
        needed[engine] = max([needed[engine], *conflicts])
        assert wait == needed[engine]
        done.append((engine, number, own))


def test_ten_thousand_commands_take_less_than_a_second() -> None:
    tracker = DependencyTracker()
    start = perf_counter()
    for k in range(5000):
        slot = 16384 * (k % 4)
        tracker.add(Engine.GDMA, [Access(slot, slot + 16384, 0, 63, True)])
        tracker.add(Engine.TIU, [Access(slot, slot + 16384, 0, 63, False), Access(131072, 147456, 0, 63, True)])
    assert perf_counter() - start < 1.0
