"""Tenants take turns."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.inference.fair_queue import FairQueue


def test_a_single_item_waits_for_one_of_each_other_tenant_at_most() -> None:
    turns: FairQueue[int] = FairQueue()
    for number in range(1000):
        turns.put("many", number)
    turns.put("one", -1)
    assert [turns.take() for _ in range(4)] == [0, -1, 1, 2]
    assert turns.waiting("many") == len(turns) == 997


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=30), st.integers(1, 9))
def test_order_holds_within_each_tenant_whatever_is_taken_together(items: list[tuple[str, int]], limit: int) -> None:
    turns: FairQueue[tuple[str, int, int]] = FairQueue()
    for number, (tenant, kind) in enumerate(items):
        turns.put(tenant, (tenant, kind, number))
    taken: list[tuple[str, int, int]] = []
    while turns:
        first = turns.peek()
        assert first == turns.take()
        together = turns.take_if(lambda item, kind=first[1]: item[1] == kind, limit)  # type: ignore[misc]
        assert len(together) <= limit and all(item[1] == first[1] for item in together)
        taken += [first, *together]
    assert sorted(n for _, _, n in taken) == list(range(len(items)))
    for tenant in "abc":
        numbers = [n for name, _, n in taken if name == tenant]
        assert numbers == sorted(numbers)


def test_drop_takes_out_what_no_one_waits_for() -> None:
    turns: FairQueue[int] = FairQueue()
    for number in range(6):
        turns.put("ab"[number % 2], number)
    turns.drop(lambda number: number in (0, 1, 3, 5))
    assert [turns.take() for _ in range(len(turns))] == [2, 4]
    assert not turns and turns.waiting("b") == 0
