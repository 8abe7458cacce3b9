"""Laws of the scope decision."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from memory.fact import Fact
from memory.scope import Scope

SCOPE = Scope()
COSINE = st.floats(-1, 1)


def fact(prompt: str) -> Fact:
    return Fact(prompt, prompt, "t", torch.zeros(1), torch.zeros(1), 0.0, {})


def decided(query: str, prompt: str, similarity: float, facts: int = 1) -> bool:
    return SCOPE.decide(query, [(fact(prompt), similarity)], facts).in_scope


@given(COSINE, COSINE, st.integers(1, 10_000))
def test_a_nearer_query_is_never_less_in_scope(a: float, b: float, facts: int) -> None:
    near, far = max(a, b), min(a, b)
    assert decided("who runs Acme?", "The head of Acme is", near, facts) >= decided("who runs Acme?", "The head of Acme is", far, facts)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_the_threshold_rises_with_the_number_of_facts(a: int, b: int) -> None:
    assert SCOPE.threshold_for(max(a, b)) >= SCOPE.threshold_for(min(a, b))
    assert SCOPE.threshold_for(0) == SCOPE.threshold_for(1)


@given(st.lists(st.tuples(st.sampled_from(["The head of Acme is", "The head of Zor is", "room 4 is"]), COSINE), max_size=5))
def test_the_best_candidate_is_chosen_and_compared_with_the_threshold(candidates: list[tuple[str, float]]) -> None:
    query = "who heads Acme?"
    decision = SCOPE.decide(query, [(fact(p), s) for p, s in candidates], len(candidates))
    scores = [SCOPE.score(query, p, s) for p, s in candidates]
    assert (decision.fact is None) == (not candidates)
    assert decision.in_scope == (decision.fact is not None and decision.score >= decision.threshold)
    if candidates:
        assert decision.score == max(scores)


def test_names_that_conflict_speak_against_and_names_that_agree_speak_for() -> None:
    prompt, similarity = "The printer in room 4 is", 0.6
    agreeing, conflicting = (SCOPE.score(f"what is the printer in room {n}?", prompt, similarity) for n in (4, 5))
    assert agreeing > similarity > conflicting


def test_a_query_without_names_is_judged_by_likeness_alone() -> None:
    assert SCOPE.score("who runs it?", "The head of Acme is", 0.4) == 0.4


def test_a_name_in_lower_case_is_not_lacking() -> None:
    assert SCOPE.score("who runs acme?", "The head of Acme is", 0.4) >= 0.4


def test_an_empty_memory_is_out_of_scope() -> None:
    assert not SCOPE.decide("anything", [], 0).in_scope
