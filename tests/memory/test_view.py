"""A view is the memory at one version, for any thread: held against a plain dict of facts."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memory import excerpt, view
from memory.episodic import EpisodicMemory
from memory.errors import FactNotFound
from memory.excerpt import Excerpt, Selection
from memory.fact import Fact, was_there
from memory.page import PageSettings
from memory.query import Query
from memory.scope.rules import Scope
from memory.view import Span, Spans, View, rested

DIM = 8


def unit(seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(DIM, generator=torch.Generator().manual_seed(seed)), dim=0)


def fact(number: int, *, prompt: str | None = None, expires_at: float | None = None) -> Fact:
    # ids in another order than the versions
    return Fact(f"{number * 7919 % 1000:03}", prompt or f"what is {number}?", "x", unit(number), unit(-number - 1), 0.0, {}, 0, expires_at)


def grown(steps: Sequence[tuple[int, int]]) -> tuple[EpisodicMemory, list[tuple[View, dict[str, Fact]]]]:
    """A memory that was changed by steps (kind, number), and after each its view and the facts that it must show."""
    memory, told = EpisodicMemory(DIM, PageSettings(slots=4), Scope()), list[tuple[View, dict[str, Fact]]]()
    facts: dict[str, Fact] = {}
    for number, (kind, chosen) in enumerate(steps):
        if kind == 0 and facts:
            gone = sorted(facts)[chosen % len(facts)]
            memory.apply([memory.plan_forget(gone)])
            del facts[gone]
        else:
            made = fact(number, prompt=f"what is {chosen % 5}?" if kind == 2 else None, expires_at=float(chosen) if kind == 3 else None)
            (change,) = memory.plan_block([made], keep=True)
            memory.apply([change])  # type: ignore[list-item]
            facts |= {i: replace(f, until=memory.version) for i, f in facts.items() if f.prompt == made.prompt and not f.until}
            facts[made.id] = replace(made, version=memory.version)
        told.append((memory.view, dict(facts)))
    return memory, told


STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 99)), max_size=60)


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_every_view_stays_what_it_was(steps: list[tuple[int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view, "SPAN", 3)
        _, told = grown(steps)
    for seen, facts in told:
        ordered = [facts[fact_id] for fact_id in sorted(facts)]

        def shown(found: Sequence[Fact]) -> list[tuple[str, int, int]]:
            return [(f.id, f.version, f.until) for f in found]

        assert shown(seen.facts(where=lambda _: True)) == shown(ordered)
        assert shown(seen.facts()) == shown([f for f in ordered if not f.until])
        assert (seen.current, seen.history) == (sum(not f.until for f in ordered), sum(bool(f.until) for f in ordered))
        for version in range(seen.version + 2):
            assert shown(seen.facts(at=version, where=lambda _: True)) == shown([f for f in ordered if was_there(f, version)])
        for after in ("", "300", *facts):
            assert shown(seen.facts(after, 4)) == shown([f for f in ordered if f.id > after and not f.until][:4])
        for fact_id in facts:
            assert seen.find(fact_id)[0].version == facts[fact_id].version
        with pytest.raises(FactNotFound):
            seen.find("none")
        times = [f.expires_at for f in ordered if f.expires_at is not None]
        assert seen.next_expiry == min(times, default=None)
        for now in (0.0, 50.0, 100.0):
            assert shown(seen.expired(now)) == shown([f for f in ordered if f.expires_at is not None and f.expires_at <= now])
        assert all(span.facts and len(span.facts) <= 6 for span in seen.spans)


@settings(deadline=None, max_examples=30)
@given(STEPS, st.integers(0, 60), st.integers(0, 10**6))
def test_an_excerpt_reads_as_a_memory_of_those_facts_alone(steps: list[tuple[int, int]], version: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module in (view, excerpt):
            patch.setattr(module, "SPAN", 3)
        memory, told = grown(steps)
        facts = told[-1][1] if told else {}
        there = sorted(fact_id for fact_id, f in facts.items() if was_there(f, min(version, memory.version)))
        only = [fact_id for number, fact_id in enumerate(there) if seed >> number & 1]
        exclude = there[seed % 3 :: 3]
        asked = [Query(f"what is {number}?", unit(seed + number)) for number in range(3)]
        for chosen, some in (
            ({"exclude": exclude}, set(there) - set(exclude)),
            ({"only": only}, set(only)),
            ({"only": only, "exclude": exclude}, set(only) - set(exclude)),
        ):
            found = Excerpt(memory, Selection(version, **chosen))  # type: ignore[arg-type]
            alone = EpisodicMemory(DIM, PageSettings(slots=4), Scope())
            by_page: dict[int, list[Fact]] = {}
            for one in sorted((facts[fact_id] for fact_id in some), key=lambda f: f.version):
                by_page.setdefault(memory.view.find(one.id)[1], []).append(replace(one, until=0))
            for page, rows in by_page.items():
                alone._lay(page, rows)
            assert len(found) == len(alone) == len(some) and found.version == min(version, memory.version)
            keys = torch.stack([query.key for query in asked])
            for near, wanted in zip(found.nearest(keys, 5), alone.nearest(keys, 5), strict=True):
                assert [i for i, _ in near] == [i for i, _ in wanted]
                assert [s for _, s in near] == pytest.approx([s for _, s in wanted], abs=1e-6)
            ours, theirs = found.read(asked), alone.read(asked)
            assert (ours.fact, ours.in_scope, ours.query, [i for i, _ in ours.facts]) == (
                theirs.fact,
                theirs.in_scope,
                theirs.query,
                [i for i, _ in theirs.facts],
            )
            assert (ours.code is None) == (theirs.code is None)
            if ours.code is not None and theirs.code is not None:
                assert torch.equal(ours.code, theirs.code)


def test_a_span_that_was_there_whole_or_not_at_all_is_not_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Facts whose ids rise with time, as the server's own do, lie in spans of one time each: of a version only one is mixed."""
    spans, count = Spans(), 10_000
    spans.add([replace(fact(0), id=f"{number:05}", version=number + 1) for number in range(count)], 0)
    seen = View(count, spans.frozen(), count)
    seen.facts(at=count // 2)  # what a span knows of itself it works out once
    looked: list[int] = []
    monkeypatch.setattr(view, "was_there", lambda one, version: looked.append(1) or was_there(one, version))
    for version in (0, 1, count // 3, count - 1, count):
        assert len(seen.facts(at=version)) == version
        assert len(looked) <= view.SPAN, version
        looked.clear()


def test_a_change_copies_one_span() -> None:
    spans = Spans()
    spans.add([replace(fact(0), id=f"{number:05}") for number in range(10_000)], 0)
    before = spans.frozen()
    spans.add([replace(fact(0), id="05000x")], 1)
    spans.remove("02000")
    after = spans.frozen()
    assert len(set(before) - set(after)) == 2 and {len(span.facts) for span in before} <= {view.SPAN, 10_000 % view.SPAN}


def test_who_looks_through_spans_gives_way_after_each() -> None:
    """Another thread that wants the interpreter for a moment only gets it as often as the looking thread rests."""
    spans = [Span((fact(number),), (0,)) for number in range(50)]
    gaps: list[float] = []
    done = threading.Event()

    def waits() -> None:
        while not done.is_set():
            began = time.perf_counter()
            time.sleep(0)
            gaps.append(time.perf_counter() - began)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(10.0)  # nobody is made to give way: what the other thread gets was given
    other = threading.Thread(target=waits)
    try:
        other.start()
        before = len(gaps)
        for _ in rested(spans):
            sum(range(20_000))
        given_ = len(gaps) - before
    finally:
        done.set()
        sys.setswitchinterval(interval)
        other.join()
    assert given_ >= len(spans) - 1
