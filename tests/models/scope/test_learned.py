"""Scope by a reader: what is read, in which order, and what its word decides. The reader here is a table of log-odds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.fact import Fact
from memory.query import Candidate, Query, ScopeChoice, ScopeDecision
from models.scope.decision import FIRST, Calibration, choose
from models.scope.learned import MOST_FIRST, MOST_FURTHER, LearnedScope
from models.scope.reader import Judgement, Pair

KEY = torch.ones(1)
ASKED = "who runs it?"


class Table:
    """Log-odds by fact, and by question too where they differ; remembers what it was asked."""

    fingerprint = "table"

    def __init__(self, odds: Mapping[str, float], otherwise: float = -9.0) -> None:
        self.odds, self.otherwise, self.calls = odds, otherwise, list[list[Pair]]()

    def __call__(self, pairs: Sequence[Pair]) -> list[Judgement]:
        self.calls.append(list(pairs))
        return [Judgement(self.odds.get(pair.fact, self.otherwise), None, (0, 3)) for pair in pairs]

    @property
    def read(self) -> list[str]:
        return [pair.fact for call in self.calls for pair in call]


def fact(prompt: str) -> Fact:
    return Fact(prompt, prompt, "t", KEY, KEY, 0.0, {})


def candidates(prompts: Sequence[str], nearness: float = 0.9) -> list[Candidate]:
    """Nearest first."""
    return [Candidate(fact(prompt), nearness - n / 100, nearness - 0.2) for n, prompt in enumerate(prompts)]


def decided(reader: Table, prompts: Sequence[str], text: str = ASKED, choice: ScopeChoice | None = None, **more: float) -> ScopeDecision:
    scope = LearnedScope(reader, Calibration(**more))  # type: ignore[arg-type]
    (decision,) = scope.chosen(choice or ScopeChoice()).decide_all([Query(text, KEY)], [candidates(prompts)], len(prompts))
    return decision


@given(st.lists(st.floats(-8, 8), min_size=1, max_size=9), st.floats(0.05, 0.95), st.none() | st.floats(0.05, 0.95))
@settings(deadline=None)
def test_it_decides_as_the_calibration_was_fitted(odds: list[float], threshold: float, own: float | None) -> None:
    prompts = [f"Fact {n} is" for n in range(len(odds))]
    reader = Table({f"{prompt} t": z for prompt, z in zip(prompts, odds, strict=True)})
    decision, least = decided(reader, prompts, choice=ScopeChoice(own), threshold=threshold), threshold if own is None else own
    chosen = choose(odds, least)
    assert chosen.index is not None and decision.fact is not None and decision.threshold == least
    assert decision.score == chosen.probability and decision.in_scope == (chosen.probability >= least)
    assert dict(zip(prompts, chosen.probabilities, strict=False)) == {found.fact: found.probability for found in decision.considered}
    assert [found.probability for found in decision.considered] == sorted(chosen.probabilities, reverse=True)
    assert decision.fact.id == decision.considered[0].fact or chosen.probabilities.count(chosen.probability) > 1
    assert {found.span for found in decision.considered} == {(0, 3)}


def test_the_likeliest_are_read_first_and_the_others_only_where_none_of_these_answers() -> None:
    prompts = [f"Fact {n} is" for n in range(7)]
    found, missed, late = Table({"Fact 2 is t": 9.0}), Table({}), Table({"Fact 6 is t": 9.0})
    assert decided(found, prompts).in_scope
    assert [len(call) for call in found.calls] == [FIRST] and found.read == [f"{prompt} t" for prompt in prompts[:FIRST]]
    assert not decided(missed, prompts).in_scope and [len(call) for call in missed.calls] == [FIRST, len(prompts) - FIRST]
    decision = decided(late, prompts)
    assert decision.in_scope and decision.fact is not None and decision.fact.id == "Fact 6 is"


@pytest.mark.parametrize("text", ["Who runs it?", "who runs it", "WHO RUNS IT?", "  who   runs it? "])
def test_a_facts_own_words_ask_for_it_unread(text: str) -> None:
    reader = Table({"Who owns it? t": 9.0})
    decision = decided(reader, ["Who owns it?", "Who runs it?"], text)
    assert decision.in_scope and decision.score == 1.0 and decision.fact is not None and decision.fact.id == "Who runs it?"
    assert not reader.calls and [found.fact for found in decision.considered] == ["Who runs it?"]


def test_of_two_that_are_alike_but_for_case_the_one_spelt_the_same_is_meant() -> None:
    for text in ("what does userName hold", "what does username hold"):
        decision = decided(Table({}), ["what does userName hold", "what does username hold"], text)
        assert decision.fact is not None and decision.fact.id == text


def test_a_text_that_is_not_read_by_meaning_is_found_by_its_own_words_alone() -> None:
    def literal(prompt: str, query: str) -> float | None:
        return None if (prompt + query).isascii() else 0.97 if prompt[:4] == query[:4] else 0.0

    reader = Table({}, otherwise=9.0)  # which would answer anything
    scope = LearnedScope(reader, Calibration(), literal=literal)
    prompts = ["東京の駅は", "Who runs it?"]
    own, other, latin = scope.decide_all([Query(text, KEY) for text in ("東京の駅?", "大阪の駅?", "say it")], [candidates(prompts)] * 3, 2)
    assert own.in_scope and own.score == 0.97 and own.fact is not None and own.fact.id == prompts[0]
    assert not other.in_scope and other.score == 0.0 and other.considered == ()
    assert latin.fact is not None and latin.fact.id == "Who runs it?"
    assert all(pair.question.isascii() and pair.fact.isascii() for call in reader.calls for pair in call)


def test_what_is_far_by_both_keys_is_not_read() -> None:
    near = Candidate(fact("near"), 0.1, 0.5), Candidate(fact("nigh"), 0.5, 0.1)
    far = Candidate(fact("far"), 0.49, 0.49)
    reader = Table({}, otherwise=9.0)
    scope = LearnedScope(reader, Calibration(nearness=0.5))
    decisions = scope.decide_all([Query(ASKED, KEY), Query("or else?", KEY)], [[*near, far], [far]], 3)
    assert sorted(reader.read) == ["near t", "nigh t"]
    assert not decisions[1].in_scope and decisions[1].fact == far.fact and decisions[1].score == 0.0


def test_an_empty_memory_is_out_of_scope_unread() -> None:
    decision = decided(reader := Table({}), [])
    assert not decision.in_scope and decision.fact is None and not reader.calls


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(-0.5, 1)), min_size=1, max_size=40))
@settings(deadline=None)
def test_a_long_prompt_reads_no_more_than_its_budget_and_its_likeliest_queries_first(asked: list[tuple[int, float]]) -> None:
    reader = Table({})
    queries = [Query(f"question {n}?", KEY) for n in range(len(asked))]
    found = [candidates([f"Fact {n} {k} is" for k in range(count)], nearness) for n, (count, nearness) in enumerate(asked)]
    decisions = LearnedScope(reader, Calibration(nearness=-2.0)).decide_all(queries, found, 99)
    assert len(decisions) == len(queries) and not any(decision.in_scope for decision in decisions)
    sizes = [len(call) for call in reader.calls]
    wanted = sum(min(FIRST, count) for count, _ in asked)
    assert sizes[:1] == ([min(MOST_FIRST, wanted)] if wanted else []) and len(sizes) <= 2
    left = sum(count for count, _ in asked) - (sizes[0] if sizes else 0)
    assert sum(sizes[1:]) == min(MOST_FURTHER, left)
    likeliest = sorted((n for n in range(len(asked)) if found[n]), key=lambda n: -found[n][0].similarity)
    read_first = list(dict.fromkeys(pair.question for pair in (reader.calls[0] if reader.calls else ())))
    assert read_first == [queries[n].text for n in likeliest[: len(read_first)]]


def test_one_question_in_scope_ends_the_reading() -> None:
    prompts = [f"Fact {n} is" for n in range(7)]
    reader = Table({"Fact 0 is t": 9.0})
    queries = [Query(ASKED, KEY), Query("and else?", KEY)]
    LearnedScope(reader, Calibration()).decide_all(queries, [candidates(prompts), candidates([f"Other {n} is" for n in range(7)])], 14)
    assert len(reader.calls) == 1


def test_the_reader_is_given_the_turns_before_and_the_whole_fact() -> None:
    reader = Table({})
    query = Query("and who runs it?", KEY, before="Where is Acme?")
    sentence = Fact("s", "Acme was founded in 1998 by Ann.", "Acme was founded in 1998 by Ann.", KEY, KEY, 0.0, {})
    LearnedScope(reader, Calibration()).decide_all([query], [[Candidate(sentence, 0.9, 0.9), *candidates(["The head of Acme is"])]], 2)
    before, text = query.before, query.text
    assert reader.calls == [[Pair(text, sentence.prompt, before), Pair(text, "The head of Acme is t", before)]]


def test_a_choice_changes_the_threshold_and_nothing_else() -> None:
    scope = LearnedScope(Table({}), Calibration(threshold=0.4))
    assert scope.chosen(ScopeChoice()) is scope and scope.least == 0.4
    chosen = scope.chosen(ScopeChoice(0.9))
    assert chosen.least == 0.9 and (chosen.reader, chosen.calibration, chosen.clean) == (scope.reader, scope.calibration, scope.clean)
