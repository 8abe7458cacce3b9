"""A fact's second key, of prompt and target together: stored, found by, and forgotten with the fact."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from memory.episodic import EpisodicMemory
from memory.errors import BadKey
from memory.excerpt import Excerpt, Selection
from memory.fact import Fact
from memory.fact_index import FactIndex
from memory.packed_fact import describe, pack, size_bytes, unpack
from memory.page import PageSettings
from memory.query import Candidate, Query, ScopeChoice, ScopeDecision

DIM, STATED, WIDTH = 16, 12, 8


def unit(seed: int, dim: int) -> Tensor:
    return normalize(torch.randn(dim, generator=torch.Generator().manual_seed(seed)), dim=0)


def fact(number: int, *, stated: bool = True, version: int = 0) -> Fact:
    statement = unit(number + 5000, STATED) if stated else None
    key, code = unit(number, DIM), unit(-number - 1, WIDTH)
    return Fact(f"f{number:03}", f"prompt {number}", "t", key, code, 0.0, {}, version, statement=statement)


@dataclass(frozen=True)
class Nearest:
    """A detector that takes whatever lies nearest by either key."""

    by_prompt: int = 2
    by_statement: int = 3
    clean = staticmethod(str)

    def chosen(self, _: ScopeChoice) -> Nearest:
        return self

    def decide_all(self, queries: Sequence[Query], candidates: Sequence[Sequence[Candidate]], facts: int) -> list[ScopeDecision]:  # noqa: ARG002
        return [ScopeDecision(True, 1.0, 0.5, found[0].similarity, found[0].fact) for found in candidates]


def memory_of(facts: Sequence[Fact]) -> EpisodicMemory:
    memory = EpisodicMemory(DIM, PageSettings(slots=8), Nearest())
    for one in facts:
        memory.apply([memory.plan_write(one)])
    return memory


@given(st.integers(0, 99), st.booleans())
def test_a_fact_is_unpacked_as_it_was_packed(number: int, stated: bool) -> None:
    told = replace(fact(number, stated=stated), version=3, metadata={"stated": "mine"})
    again = unpack(pack(told))
    assert describe(again) == describe(told) and torch.equal(again.key, told.key) and torch.equal(again.code, told.code)
    assert (again.statement is None) == (told.statement is None) == (not stated)
    assert again.statement is None or told.statement is None or torch.equal(again.statement, told.statement)
    assert len(pack(told)) <= size_bytes(told)


def test_records_of_an_earlier_version_are_read_and_written_as_they_were() -> None:
    told = fact(7, stated=False, version=3)
    head = json.dumps(describe(told), ensure_ascii=False, separators=(",", ":")).encode()
    key, code = (tensor.numpy().astype("<f4").tobytes() for tensor in (told.key, told.code))
    earlier = struct.pack("<BII", 1, len(head), len(key)) + head + key + code
    assert pack(told) == earlier
    assert unpack(earlier).statement is None and torch.equal(unpack(earlier).code, told.code)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 60), st.booleans()), min_size=1, max_size=60), st.integers(0, 99))
def test_the_nearest_statements_are_those_of_a_plain_search_whatever_came_and_went(steps: list[tuple[int, bool]], asked: int) -> None:
    index, held = FactIndex(DIM), dict[str, Fact]()
    for version, (number, stated) in enumerate(steps, 1):
        one = fact(number, stated=stated, version=version)
        if one.id in held:
            index.remove(one.id)
            del held[one.id]
        else:
            index.add(one, 0)
            held[one.id] = one
    query = unit(asked, STATED)
    wanted = sorted(((float(f.statement @ query), f.id) for f in held.values() if f.statement is not None), reverse=True)
    (found,) = index.nearest_statements(query[None], 5)
    assert [fact_id for fact_id, _ in found] == [fact_id for _, fact_id in wanted[:5]]
    assert [cosine for _, cosine in found] == pytest.approx([cosine for cosine, _ in wanted[:5]], abs=1e-5)


def test_a_forgotten_facts_statement_key_is_nowhere_and_its_room_is_given_back() -> None:
    facts = [fact(n, version=n + 1) for n in range(200)]
    index = FactIndex(DIM)
    index.add_all(facts, 0)
    most = index.size_bytes
    for one in facts[:-1]:
        index.remove(one.id)
    left, own = index._statements._keys, facts[0].statement
    assert own is not None and len(left) <= 16 and not (left == own).all(1).any()
    assert index.size_bytes < most / 10
    index.remove(facts[-1].id)
    assert not index._statements._keys.any() and index.nearest_statements(unit(0, STATED)[None], 3) == [[]]
    index.add(replace(fact(1, version=999), statement=unit(1, 2 * STATED)), 0)  # all facts are gone: another encoder may begin
    assert [found for found, _ in index.nearest_statements(unit(1, 2 * STATED)[None], 3)[0]] == ["f001"]


def test_history_is_found_by_neither_key() -> None:
    index = FactIndex(DIM)
    index.add(fact(1, version=1), 0)
    index.add(replace(index.remove("f001"), until=2), 0)
    own = fact(1).statement
    assert own is not None and index.nearest_statements(own[None], 3) == [[]] and index.history == 1
    index.remove("f001")


def query(number: int, towards: Fact) -> Query:
    """Near one fact by its prompt's key and near another by its statement key."""
    return Query(f"question {number}", unit(number, DIM), statement=towards.statement)


def test_an_excerpt_finds_by_statement_what_the_memory_finds() -> None:
    facts = [fact(n, stated=n % 3 > 0) for n in range(40)]
    memory = memory_of(facts)
    queries = [query(100 + n, facts[n]) for n in range(40) if n % 3]
    everything = memory.candidates(queries)
    for one, own in zip(everything, (fact for fact in facts if fact.statement is not None), strict=True):
        assert own.id in {candidate.fact.id for candidate in one} and 3 <= len(one) <= 5
        assert one == sorted(one, key=lambda candidate: -max(candidate.similarity, candidate.statement))
        (best,) = (candidate for candidate in one if candidate.fact.id == own.id)
        assert best.statement == pytest.approx(1, abs=1e-5) and best.similarity < 0.999
        for candidate in one:
            assert candidate.fact.statement is not None or candidate.statement == candidate.similarity
    as_of = Excerpt(memory, Selection(as_of=memory.version)).candidates(queries)

    def told(found: Sequence[Sequence[Candidate]]) -> list[list[str]]:
        return [sorted(candidate.fact.id for candidate in one) for one in found]

    assert told(as_of) == told(everything)
    only = [one.id for one in facts[:20]]
    assert all(set(ids) <= set(only) for ids in told(Excerpt(memory, Selection(only=only)).candidates(queries)))
    without = memory.candidates(queries, exclude=["f001"])
    assert not any("f001" in ids for ids in told(without))
    assert told(Excerpt(memory, Selection(as_of=memory.version, exclude=["f001"])).candidates(queries)) == told(without)


def test_queries_without_a_statement_key_find_by_prompt_alone() -> None:
    memory = memory_of([fact(n) for n in range(9)])
    (found,) = memory.candidates([Query("question", unit(3, DIM))])
    assert len(found) == 2 and found[0].fact.id == "f003" and found[0].statement == found[0].similarity


@pytest.mark.parametrize(
    "statement", [torch.zeros(0), torch.full((STATED,), torch.nan), torch.zeros(1, STATED), unit(1, STATED + 1)], ids=str
)
def test_a_statement_key_that_does_not_fit_is_refused_and_nothing_is_changed(statement: Tensor) -> None:
    memory, bad = memory_of([fact(1), fact(2, stated=False)]), replace(fact(3), statement=statement)
    before = memory.checksum()
    with pytest.raises(BadKey, match="statement key"):
        memory.plan_write(bad)
    good, refused, after = memory_of([]).plan_block([fact(1), bad, fact(4)])  # a block's first one says how wide they are
    assert isinstance(refused, BadKey) and not isinstance(good, Exception) and not isinstance(after, Exception)
    assert memory.checksum() == before
