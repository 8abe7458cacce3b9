"""Laws of the shared frame of two sentences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.scope.shared_words import shared_frame

SENTENCES = st.lists(st.sampled_from("the coach captain of hawks is who leads x-4".split()), max_size=9).map(" ".join)


@given(SENTENCES, SENTENCES)
def test_it_is_a_rate_and_one_for_a_sentence_itself(one: str, other: str) -> None:
    assert 0.0 <= shared_frame(one, other) <= 1.0
    assert shared_frame(one, one) == bool(one)


@given(st.lists(st.text("abcdef", min_size=1), min_size=1, unique=True), st.integers(0, 20))
def test_it_is_what_is_left_when_one_word_is_exchanged(words: list[str], at: int) -> None:
    at %= len(words)
    other = [*words[:at], "zzz", *words[at + 1 :]]
    assert shared_frame(" ".join(words), " ".join(other)) == pytest.approx(1 - 1 / len(words))


def test_case_and_possessives_do_not_count() -> None:
    assert shared_frame("THEO's favourite is", "theo favourite is") == 1.0


@pytest.mark.parametrize(
    ("prompt", "exchanged", "reworded"),
    [
        ("The captain of the Harbour Hawks is", "The coach of the Harbour Hawks is", "Who leads the Harbour Hawks on the field?"),
        ("Where is the first-aid kit in Bremen?", "Where is the fire extinguisher in Bremen?", "I cut my finger in Bremen, where do I go?"),
    ],
)
def test_an_exchanged_part_leaves_more_of_the_frame_than_other_words_do(prompt: str, exchanged: str, reworded: str) -> None:
    assert shared_frame(exchanged, prompt) > 0.6 > 0.5 > shared_frame(reworded, prompt)
