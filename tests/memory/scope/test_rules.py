"""Laws of the scope decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memory.fact import Fact
from memory.scope.answer_kind import is_question, misfits
from memory.scope.rules import Scope, ScopeChoice

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


class Bench:
    """A judge that says what it is told to, and remembers what it was asked."""

    def __init__(self, odds: float) -> None:
        self.odds, self.asked = odds, list[tuple[str, str]]()

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self.asked += pairs
        return [self.odds] * len(pairs)


def judged(query: str, prompt: str, similarity: float, odds: float) -> tuple[float, Bench]:
    bench = Bench(odds)
    return Scope(judge=bench).decide(query, [(fact(prompt), similarity)], 1).score, bench


@given(COSINE, COSINE, st.integers(1, 10_000), st.floats(6, 30))
def test_a_nearer_query_is_never_less_in_scope_if_the_judge_thinks_well_of_it(a: float, b: float, facts: int, odds: float) -> None:
    scope, stored = Scope(judge=Bench(odds)), fact("The head of Acme is")
    near, far = (scope.decide("who runs Acme?", [(stored, like)], facts).in_scope for like in (max(a, b), min(a, b)))
    assert near >= far


@given(st.floats(-50, 50), st.floats(0.5, 1))
def test_a_judgement_counts_so_much_and_no_more(odds: float, likeness: float) -> None:
    plain, suspicion = SCOPE._weighed("who runs Acme?", "The head of Acme is", "t", likeness)
    score, bench = judged("who runs Acme?", "The head of Acme is", likeness, odds)
    assert bench.asked == [("The head of Acme is", "who runs Acme?")] and suspicion > 0
    won = 0.06 * max(-10, min(2, odds + 1.25)) + 0.4 * suspicion * torch.sigmoid(torch.tensor(2.0 * odds, dtype=torch.float64)).item()
    assert score == pytest.approx(plain - suspicion + won - 0.08 * max(0, min(6, 2 + 33 * (likeness - 0.9) - odds)))


def test_the_nearer_a_query_the_better_must_the_judge_think_of_it() -> None:
    far, near = (judged("who runs Acme?", "Who runs Acme today?", likeness, -4.0)[0] for likeness in (0.74, 0.8))
    assert far > near


def test_the_judge_is_asked_only_where_it_may_decide() -> None:
    for query, prompt, similarity in (
        ("who runs Acme?", "The river of Zor is", -0.9),  # too far
        ("The head of Acme is", "The head of Acme is", 1.0),  # the fact's own words
        ("Acme", "The head of Acme is", 0.6),  # a statement of another frame, and not near
    ):
        assert judged(query, prompt, similarity, -9.0)[1].asked == []
    assert judged("The foot of Acme is", "The head of Acme is", 0.9, -9.0)[1].asked  # the fact's frame


RIVALS = [fact(f"The {part} of Acme is") for part in ("head", "foot", "arm", "eye")]


class Table(Bench):
    """Log-odds by prompt."""

    def __init__(self, odds: Sequence[float]) -> None:
        super().__init__(0.0)
        self.table = dict(zip((rival.prompt for rival in RIVALS), odds, strict=True))

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self.asked += pairs
        return [self.table[prompt] for prompt, _ in pairs]


@given(
    st.sampled_from(["who runs Acme?", "The chair of Acme is"]),
    st.lists(st.floats(0.2, 1), min_size=4, max_size=4),
    st.lists(st.floats(-15, 15), min_size=4, max_size=4),
)
def test_of_several_candidates_the_one_is_best_that_is_best_alone(query: str, likes: list[float], odds: list[float]) -> None:
    candidates = list(zip(RIVALS, likes, strict=True))
    alone = [Scope(judge=Table(odds)).decide(query, [candidate], 1) for candidate in candidates]
    bench = Table(odds)
    assert Scope(judge=bench).decide(query, candidates, 1) == max(alone, key=lambda decision: decision.score)
    assert len(set(bench.asked)) == len(bench.asked)


def test_candidates_that_cannot_come_first_any_more_are_not_judged() -> None:
    bench, candidates = Table([9.0] * 4), list(zip(RIVALS, [0.5, 0.9, 0.5, 0.4], strict=True))
    assert Scope(judge=bench).decide("who runs Acme?", candidates, 1).fact == RIVALS[1]
    assert bench.asked == [(RIVALS[1].prompt, "who runs Acme?")]


def test_a_strict_detector_hears_the_judge_on_statements_that_share_little_of_the_frame() -> None:
    query, stored = "The tower of Acme leans to", fact("The head of Acme is")
    usual, strict = (Scope(judge=Bench(-9.0), strict=strict).decide(query, [(stored, 0.9)], 1) for strict in (False, True))
    assert strict.score == pytest.approx(usual.score - 0.06 * 7.75 - 0.08 * (6 - 2.25))


@given(st.sampled_from([None, -1.0, 0.3, 1.9]), st.sampled_from([None, False, True]), st.booleans(), st.integers(1, 10_000))
def test_a_choice_changes_what_it_names_and_nothing_else(threshold: float | None, strict: bool | None, own: bool, facts: int) -> None:
    scope = Scope(strict=own)
    chosen = scope.chosen(ScopeChoice(threshold, strict))
    assert chosen.strict == (own if strict is None else strict)
    assert chosen.threshold_for(facts) == (scope.threshold_for(facts) if threshold is None else threshold)
    assert replace(chosen, strict=own, threshold=scope.threshold, rise=scope.rise) == scope


@given(st.floats(-20, 20), st.floats(0, 0.95), st.sampled_from(["Acme lies near", "The tower of Acme leans to", "who runs Acme?"]))
def test_what_a_strict_detector_answers_the_usual_one_answers_too(odds: float, likeness: float, query: str) -> None:
    head = fact("The head of Acme is")
    usual, strict = (Scope(judge=Bench(odds), strict=strict).decide(query, [(head, likeness)], 1) for strict in (False, True))
    assert usual.in_scope >= strict.in_scope


def test_a_statement_wins_back_its_suspicion_at_most_and_own_words_are_worth_the_most() -> None:
    plain, suspicion = SCOPE._weighed("The foot of Acme is", "The head of Acme is", "t", 0.9)
    assert judged("The foot of Acme is", "The head of Acme is", 0.9, 9.0)[0] == pytest.approx(plain - 0.6 * suspicion)
    assert judged("The foot of Acme is", "The head of Acme is", 0.9, -9.0)[0] == pytest.approx(plain - suspicion - 0.06 * 7.75 - 0.08 * 6)
    own = judged("who heads Acme?", "Who heads Acme?", 1.0, -9.0)
    assert own[0] == pytest.approx(SCOPE.decide("who heads Acme?", [(fact("Who heads Acme?"), 1.0)], 1).score + 0.12) and not own[1].asked


def test_questions_and_requests_are_told_from_statements() -> None:
    for text in ("who runs it", "It runs?", "Tell me the code", "What's the code", "  is it open", "PLEASE give me"):
        assert is_question(text)
    for text in ("The code is", "Acme was founded in", "", "42", "Whoever runs it is"):
        assert not is_question(text)
