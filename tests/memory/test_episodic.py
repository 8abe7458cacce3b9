"""Laws of pages and of a tenant's memory."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from memory.addressing import AddressingName
from memory.change import Change
from memory.episodic import EpisodicMemory
from memory.errors import BadKey, DuplicateId, FactNotFound
from memory.fact import Fact
from memory.page import PageSettings
from memory.query import Query
from memory.scope import Scope

DIM, WIDTH = 24, 8
SMALL = PageSettings(slots=8)


def unit(seed: int, dim: int = DIM) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(dim, generator=torch.Generator().manual_seed(seed)), dim=0)


def code(seed: int, width: int = WIDTH) -> Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(seed + 10_000))


def fact(seed: int, prompt: str | None = None) -> Fact:
    return Fact(f"f{seed:04}", prompt or f"prompt {seed}", "t", unit(seed), code(seed, WIDTH * (1 + seed % 3)), 0.0, {})


def test_a_change_round_trips() -> None:
    change = Change(3, "write", 1, replace(fact(4), version=3), ("f0001",))
    again = Change.from_fields(change.to_fields())
    assert again.fact is not None and change.fact is not None
    assert (again.version, again.page, again.forgets, again.fact.prompt) == (3, 1, ("f0001",), "prompt 4")
    assert torch.equal(again.fact.key, change.fact.key)


@pytest.mark.parametrize("addressing", get_args(AddressingName))
@given(steps=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), min_size=1, max_size=40), slots=st.integers(1, 40))
@settings(deadline=None, max_examples=50)
def test_replay_without_what_was_forgotten_equals_the_live_memory(
    addressing: AddressingName, steps: list[tuple[int, int]], slots: int
) -> None:
    """Bit for bit: single writes, blocks of all sizes, forgets and snapshots in any order."""
    pages = PageSettings(slots=slots, addressing=addressing)
    live = EpisodicMemory(DIM, pages, Scope())
    log: list[Change] = []
    stored: dict[int, bytes] = {}
    taken = 0

    def named(seed: int) -> Fact:
        nonlocal taken
        taken += 1
        return replace(fact(seed), id=f"n{taken:04}")

    for kind, number in steps:
        if kind == 3 and len(live):
            ids = [f.id for f in live.facts(limit=1000)]
            changes = [live.plan_forget(ids[number % len(ids)])]
        elif kind == 2:
            stored |= live.dirty_pages()
            live.mark_stored(list(live.dirty_pages()), live.version)
            log = []
            continue
        elif kind == 4:
            planned = live.plan_block([named(seed) for seed in range(number, number + 1 + number)])
            changes = [change for change in planned if isinstance(change, Change)]
        else:
            changes = [live.plan_write(named(number))]
        prepared = live.prepare(changes) if any(c.forgets for c in changes) else None
        log += [Change.from_fields(change.to_fields()) for change in changes]
        if prepared is not None:
            log = [c for c in log if c.version not in prepared.erase]
            stored |= prepared.stored
        live.apply(changes, prepared)
    again = EpisodicMemory.restore(DIM, pages, Scope(), pages=stored, changes=log, version=live.version)
    assert again.checksum() == live.checksum()
    assert all(sheet.page.residual() < 1e-9 for sheet in live._sheets.values())


def test_a_block_is_solved_at_once_and_reads_like_a_sequence() -> None:
    block, sequence = (EpisodicMemory(DIM, PageSettings(slots=64), Scope()) for _ in range(2))
    facts = [fact(seed) for seed in range(30)]
    planned = block.plan_block(facts)
    assert [c.version for c in planned if isinstance(c, Change)] == list(range(1, 31))
    block.apply([c for c in planned if isinstance(c, Change)])
    for one in facts:
        sequence.apply([sequence.plan_write(one)])
    assert block._sheets[0].page.unchecked == 0 and block.version == sequence.version == 30
    assert block._sheets[0].ids == sequence._sheets[0].ids
    assert torch.allclose(block._sheets[0].page.matrix, sequence._sheets[0].page.matrix, rtol=0, atol=1e-9)


def test_a_block_refuses_a_bad_fact_and_takes_the_others() -> None:
    memory = EpisodicMemory(DIM, SMALL, Scope())
    memory.apply([memory.plan_write(fact(1))])
    narrow = replace(fact(5), key=unit(5, DIM - 1))
    nan = replace(fact(6), code=code(6) * float("nan"))
    first, taken, again, other, key, value = memory.plan_block([fact(2), fact(1), fact(2, "b"), fact(3), narrow, nan])
    assert isinstance(first, Change) and isinstance(other, Change) and (first.version, other.version) == (2, 3)
    assert isinstance(taken, DuplicateId) and isinstance(again, DuplicateId)
    assert isinstance(key, BadKey) and isinstance(value, BadKey)


def test_a_block_ends_before_it_would_supersede_itself_and_before_a_command_grows_too_long() -> None:
    memory = EpisodicMemory(DIM, SMALL, Scope())
    facts = [fact(1, "a"), fact(2, "b"), fact(3, "A"), fact(4, "c")]
    assert [c.version for c in memory.plan_block(facts) if isinstance(c, Change)] == [1, 2]
    long = [replace(fact(seed), code=torch.zeros(4096)) for seed in range(200)]
    changes = [change for change in memory.plan_block(long) if isinstance(change, Change)]
    sizes = [sum(map(len, change.to_fields().values())) for change in changes]
    assert 20 < len(changes) < 200 and 800_000 < sum(sizes) < 950_000


def test_the_same_prompt_supersedes_and_unknown_ids_are_refused() -> None:
    memory = EpisodicMemory(DIM, SMALL, Scope())
    memory.apply([memory.plan_write(fact(1, "The  Capital is"))])
    with pytest.raises(DuplicateId):
        memory.plan_write(fact(1))
    change = memory.plan_write(fact(2, "the capital IS"))
    assert change.forgets == ("f0001",)
    memory.apply([change], memory.prepare([change]))
    assert [f.id for f in memory.facts()] == ["f0002"]
    with pytest.raises(FactNotFound):
        memory.plan_forget("f0001")


def test_more_facts_than_slots_go_to_more_pages_and_all_are_read_back() -> None:
    memory = EpisodicMemory(DIM, SMALL, Scope())
    for seed in range(50):
        memory.apply([memory.plan_write(fact(seed))])
    assert memory.pages >= 7
    for seed in range(50):
        reading = memory.read([Query(f"prompt {seed}", unit(seed))])
        assert reading.in_scope and reading.facts[0][0] == f"f{seed:04}"


def test_excluding_a_fact_reads_as_if_it_was_forgotten() -> None:
    memory, never = EpisodicMemory(DIM, SMALL, Scope()), EpisodicMemory(DIM, SMALL, Scope())
    for seed in range(6):
        memory.apply([memory.plan_write(fact(seed))])
    never_facts = [s for s in range(6) if s != 2]
    for seed in never_facts:
        never.apply([never.plan_write(fact(seed))])
    query = [Query("prompt 2", unit(2))]
    assert memory.read(query, exclude=["f0002"]).facts[0][0] == never.read(query).facts[0][0]


def test_each_question_of_a_prompt_recalls_its_fact_and_out_of_scope_nothing_is_recalled() -> None:
    memory = EpisodicMemory(DIM, SMALL, Scope())
    for seed in range(3):
        memory.apply([memory.plan_write(fact(seed))])
    both = memory.read([Query("prompt 2", unit(2), 0), Query("prompt 0", unit(0), 1), Query("both", unit(50), None)])
    assert [fact_id for fact_id, _ in both.recalled] == ["f0002", "f0000"]
    one = memory.read([Query("prompt 2", unit(2), 0), Query("nothing", unit(60), 1)])
    assert [fact_id for fact_id, _ in one.recalled] == ["f0002"]
    assert torch.equal(one.readouts[0], memory.recall("f0002"))
    out = memory.read([Query("nothing", unit(60))])
    assert not out.in_scope and out.recalled == () and out.readouts == ()
