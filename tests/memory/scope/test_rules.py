"""Laws of the scope decision."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memory.fact import Fact
from memory.query import ScopeChoice
from memory.scope.answer_kind import is_question, misfits
from memory.scope.rules import Scope

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
    scores = [SCOPE.score(query, p, "t", s) for p, s in candidates]
    assert (decision.fact is None) == (not candidates)
    assert decision.in_scope == (decision.fact is not None and decision.score >= decision.threshold)
    if candidates:
        assert decision.score == max(scores)


def score(query: str, prompt: str, likeness: float = 0.6, target: str = "t") -> float:
    return SCOPE.score(query, prompt, target, likeness)


def test_names_that_conflict_speak_against_and_names_that_agree_speak_for() -> None:
    agreeing, conflicting = (score(f"what is the printer in room {n}?", "The printer in room 4 is") for n in (4, 5))
    assert agreeing > 0.6 > conflicting


@pytest.mark.parametrize(("asked", "other"), [("left", "right"), ("weekly", "monthly"), ("ground", "third"), ("big", "small")])
def test_words_that_exclude_each_other_are_a_conflict(asked: str, other: str) -> None:
    same, contrast = (score(f"the valve on the {word} part is", f"the valve on the {asked} part is") for word in (asked, other))
    assert same == 0.6 > contrast + SCOPE.conflict / 2


def test_the_same_sentence_with_other_words_in_it_speaks_against_and_really_different_words_do_not() -> None:
    prompt = "The choir of the old church rehearses in"
    substituted, reworded = score("The choir of the old church sings for", prompt), score("where do the singers practise?", prompt)
    assert substituted < 0.6 <= reworded


@pytest.mark.parametrize(
    ("query", "target", "fits"),
    [
        ("when do they play?", "on Saturday", True),
        ("where do they play?", "on Saturday", False),
        ("who leads it?", "3 May", False),
        ("who leads it?", "Maria", True),
        ("how many are there?", "Maria", False),
        ("how many are there?", "forty-two or 42", True),
        ("tell me about it", "Maria", True),
    ],
)
def test_a_target_of_the_wrong_kind_speaks_against(query: str, target: str, fits: bool) -> None:
    prompt = "the fixture is"
    assert misfits(query, prompt, target) != fits


def test_what_a_fact_says_in_its_own_words_is_judged_by_likeness_alone() -> None:
    assert score("who runs it?", "who runs it?", 0.4) == 0.4


def test_a_name_in_lower_case_is_not_lacking() -> None:
    assert score("who runs acme?", "Who runs Acme?", 0.4) >= 0.4


def test_likeness_is_that_of_the_meaning() -> None:
    meaning, lexical = torch.eye(2)[0], torch.eye(2)[1]
    a = torch.nn.functional.normalize(torch.cat([meaning, 0.5**0.5 * meaning]), dim=0)
    b = torch.nn.functional.normalize(torch.cat([meaning, 0.5**0.5 * lexical]), dim=0)
    scope = Scope(meaning=2)
    stored = Fact("f", "p", "t", b, torch.zeros(1), 0.0, {})
    assert scope.likeness(a, stored, float(a @ b)) == pytest.approx(1.0)
    assert scope.likeness(torch.cat([lexical, meaning]), stored, 0.0) == pytest.approx(0.0)


def test_a_facts_own_words_ask_for_it_whatever_else_is_near() -> None:
    own, other = "the capital of red is zor", "is the capital of red zor"
    assert score(own, other, 1.0) == score(own, own, 1.0) == 1.0
    decision = SCOPE.decide(own.upper(), [(fact(other), 1.0), (fact(own), 1.0)], 2)
    assert decision.fact is not None and decision.fact.prompt == own


def test_a_whole_sentence_is_asked_for_by_less_than_it_says() -> None:
    sentence = "Acme was founded in 1998 by Ann Zor."
    stored = Fact("f", sentence, sentence, torch.zeros(1), torch.zeros(1), 0.0, {})

    def told(query: str) -> float:
        return SCOPE.decide(query, [(stored, 0.5)], 1).score

    assert told("who founded Acme?") > SCOPE.score("who founded Acme?", sentence, "Rome", 0.5)  # its names beyond the query's
    assert told("who founded Acme?") > told("who founded Kal?")


def test_an_empty_memory_is_out_of_scope() -> None:
    assert not SCOPE.decide("anything", [], 0).in_scope


def test_a_prompt_that_asks_for_another_kind_of_answer_speaks_against() -> None:
    assert misfits("who runs Acme?", "Acme is based in", "Rome")
    assert not misfits("who runs Acme?", "The CEO of Acme is", "Ann")
    assert not misfits("tell me about Acme", "The CEO of Acme is", "Ann")


def test_questions_and_requests_are_told_from_statements() -> None:
    for text in ("who runs it", "It runs?", "Tell me the code", "What's the code", "  is it open", "PLEASE give me"):
        assert is_question(text)
    for text in ("The code is", "Acme was founded in", "", "42", "Whoever runs it is"):
        assert not is_question(text)


@given(st.sampled_from([None, 0.01, 0.3, 1.0]), st.integers(1, 10_000))
def test_a_choice_changes_the_threshold_and_nothing_else(threshold: float | None, facts: int) -> None:
    chosen = SCOPE.chosen(ScopeChoice(threshold))
    assert chosen.threshold_for(facts) == (SCOPE.threshold_for(facts) if threshold is None else threshold)
    assert replace(chosen, threshold=SCOPE.threshold, rise=SCOPE.rise) == SCOPE
