"""Bridges: what a question becomes with the answer of a first fact in it."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from memory.episodic import EpisodicMemory
from memory.fact import Fact
from memory.page import PageSettings
from memory.query import Query, Reading
from memory.scope.proper_names import places, sequence
from memory.scope.rules import Scope
from memory.scope.two_hops import BRIDGES, LENGTH, best, bridged, bridges

DIM = 8


def test_the_words_that_ask_for_the_first_fact_give_way_to_its_answer() -> None:
    louvre = ("The Louvre is in the country of", "Spain")
    assert "The capital of Spain is" in bridged("The capital of the country where the Louvre is located is", *louvre)
    assert "What is the capital of Spain?" in bridged("What is the capital of the country with the Louvre?", *louvre)
    assert "Spain's capital is" in bridged("The Louvre's capital is", *louvre)
    assert "who runs Acme" in bridged("who runs the maker of red rockets", "red rockets are made by", "Acme")


def test_nothing_is_put_where_the_first_fact_has_no_subject() -> None:
    assert bridged("The capital of France is", "The Louvre is in the country of", "Spain") == []
    assert bridged("", "The Louvre is in the country of", "Spain") == []
    assert bridged("Who is it?", "Where was it?", "there") == []
    assert bridged("The Louvre", "The Louvre is in", "Spain") == []  # nothing would be left to ask


@given(query=st.text(max_size=80), prompt=st.text(max_size=40), target=st.text(min_size=1, max_size=10))
def test_any_text(query: str, prompt: str, target: str) -> None:
    for text in bridged(query, prompt, target):
        assert target in text and len(sequence(text)) <= len(sequence(query)) + len(sequence(target))
    assert [word for word, _, _ in places(query)] == sequence(query)
    for word, start, end in places(query):
        assert query[start:end].casefold() == word


def fact(number: int, prompt: str, target: str) -> Fact:
    key = torch.nn.functional.normalize(torch.randn(DIM, generator=torch.Generator().manual_seed(number)), dim=0)
    return Fact(f"f{number}", prompt, target, key, torch.ones(4), 0.0, {})


def test_the_nearest_facts_are_tried_and_excluded_ones_are_not() -> None:
    memory = EpisodicMemory(DIM, PageSettings(), Scope())
    assert bridges(memory, [Query("anything", torch.ones(DIM))]) == []
    first = fact(1, "The Louvre is in the country of", "Spain")
    memory.apply([memory.plan_write(first)])
    memory.apply([memory.plan_write(fact(2, "The capital of Spain is", "Rome"))])
    asked = [Query("The capital of the country where the Louvre is located is", first.key)]
    assert "The capital of Spain is" in bridges(memory, asked)
    assert bridges(memory, asked, exclude=["f1"]) == []


def test_the_reading_that_is_more_alike_counts_if_it_is_in_scope() -> None:
    def reading(in_scope: bool, similarity: float) -> Reading:
        return Reading(in_scope, 0.7 if in_scope else 0.1, 0.6, similarity, 0.5, None, (), "q")

    one = reading(True, 0.7)
    for further, wanted in ((reading(True, 0.9), 0.9), (reading(True, 0.6), 0.7), (reading(False, 0.9), 0.7)):
        assert best(one, further).similarity == wanted
    assert best(reading(False, 0.9), reading(True, 0.5)).similarity == 0.5


def test_of_many_questions_the_most_promising_are_tried() -> None:
    """Those of the nearest facts in turns, and of each the spans first that share most words with it."""
    memory = EpisodicMemory(DIM, PageSettings(), Scope())
    facts = [fact(1, "The Louvre is in the country of", "Spain"), fact(2, "The Louvre was designed by", "Bob")]
    for each in facts:
        memory.apply([memory.plan_write(each)])
    text = "tell me please what good old {} the capital of the country the Louvre is in has today near my own old town"
    asked = [Query(text.format(n), facts[n % 2].key) for n in range(16)]
    found = bridges(memory, asked)
    assert len(found) == BRIDGES == len(set(found))
    assert {n for n in range(16) if any(f"old {n} " in one for one in found)} == set(range(16))
    best_of = bridged(text.format(0), facts[0].prompt, "Spain")[:8]  # of 81
    assert "tell me please what good old 0 the capital of Spain has today near my own old town" in best_of


def test_no_answer_is_put_in_a_text_that_is_no_question() -> None:
    louvre = "The Louvre is in the country of"
    assert bridged(f"The capital of the country with the Louvre is {'x ' * LENGTH}", louvre, "Spain") == []
    assert bridged("The capital of the country with the Louvre is", louvre, "x" * LENGTH) == []
