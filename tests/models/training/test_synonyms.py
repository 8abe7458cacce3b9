"""Close wordings: other words, the same subject, and nothing made up."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from models.training.synonyms import SYNONYMS, Synonyms
from models.training.wordings import kinds

KNOWN = Synonyms.read()
WORDINGS = [wording for kind in kinds() for relation in kind.relations for wording in relation]


@given(st.sampled_from(WORDINGS), st.integers(0, 1000))
def test_a_close_wording_is_another_about_the_same_subject(wording: str, seed: int) -> None:
    close = KNOWN.close(random.Random(seed), wording)
    assert close == KNOWN.close(random.Random(seed), wording)
    assert close is None or (close.casefold() != wording.casefold() and close.count("{s}") == wording.count("{s}"))


def test_a_phrase_is_exchanged_whole_and_keeps_its_capital() -> None:
    two = Synonyms([["begins", "starts"], ["what is", "tell me"]])
    said = {two.close(random.Random(seed), "What is it that begins in {s}") for seed in range(40)}
    assert said == {"Tell me it that begins in {s}", "What is it that starts in {s}", "Tell me it that starts in {s}"}
    assert two.close(random.Random(0), "somewhat isolated beginsters of {s}") is None


def test_a_statement_is_turned_into_a_question() -> None:
    said = {Synonyms([["a", "b"]]).close(random.Random(seed), "The night guard of {s} is") for seed in range(200)}
    assert {"What is the night guard of {s}?", "{s}'s night guard is", None} <= said


def test_no_group_says_a_phrase_twice() -> None:
    groups = [line.split(" | ") for line in SYNONYMS.read_text("utf-8").splitlines() if not line.startswith("#")]
    assert all(len(group) > 1 and len({phrase.casefold() for phrase in group}) == len(group) for group in groups)
