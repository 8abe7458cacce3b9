"""Laws of names in sentences."""

from __future__ import annotations

import gc
import random
import time
import weakref
from difflib import SequenceMatcher

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.scope.proper_names import LETTERS, WORDS, alike, lacking, names, sequence, wording, words
from memory.scope.rules import Scope

WORD = st.text(st.sampled_from("abcdefgh1234"), min_size=1, max_size=12)


@given(WORD, WORD)
def test_likeness_has_no_direction_for_prefixes_and_equals(a: str, b: str) -> None:
    assert alike(a, a)
    if a.startswith(b) or b.startswith(a):
        assert alike(a, b) == alike(b, a)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_numbers_are_alike_only_if_equal(a: int, b: int) -> None:
    assert alike(str(a), str(b)) == (a == b)
    assert alike(f"room{a}", f"room{b}") == (a == b)


@given(st.lists(WORD), st.lists(WORD))
def test_nothing_of_ones_own_is_lacking(some: list[str], others: list[str]) -> None:
    assert lacking(some, some) == []
    assert lacking(some, some + others) == []
    assert lacking(some, []) == some


def test_of_a_long_text_the_first_words_are_looked_at() -> None:
    text = " ".join(f"Word{number}" for number in range(30_000))
    assert sequence(text) == [f"word{number}" for number in range(WORDS)]
    assert len(names(text)) == len(words(text)) == WORDS


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Who invented C#?", "Who invented C++?"),
        ("The inventor of C is", "The inventor of C++ is"),
        ("Steel at -40 is", "Steel at 40 is"),
        ("blood type A+ goes to", "blood type A- goes to"),
        ("The code for 🦊 is", "The code for 🐻 is"),
        ("The price in € is", "The price in $ is"),
        ("!!!", "???"),
        (" ".join(f"word{number}" for number in range(WORDS)) + " one", " ".join(f"word{number}" for number in range(WORDS)) + " two"),
    ],
)
def test_signs_that_tell_names_apart_are_in_the_words(one: str, other: str) -> None:
    assert wording(one) != wording(other)
    assert wording(one) == wording(one) == wording(f"{one} !" if sequence(one) else one)


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("At −40 °C, 2020-21 (pages 3-4)", ["at", "-40", "c", "2020-21", "pages", "3-4"]),
        ("Anna-Lena's C++, or F#. #5", ["anna-lena", "c++", "or", "f#", "5"]),
    ],
)
def test_what_belongs_to_a_word(sentence: str, found: list[str]) -> None:
    assert wording(sentence) == found


@given(st.text(st.sampled_from("ab CD12.'’-+#€🦊−"), max_size=40))
def test_names_are_among_the_words(sentence: str) -> None:
    assert names(sentence) <= words(sentence)


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("The capital of France is", {"france"}),
        ("What is Acme's door code?", {"acme"}),
        ("the printer in room 4", {"4"}),
        ("Anna-Lena O’Neill founded", {"anna-lena", "o’neill"}),
        ("who runs the firm", set()),
        ("Our bank in the US is", {"us"}),
        ("Freezer A is kept at", {"freezer", "a"}),
        ("A freezer that I keep", set()),
        ("who has plan b or a", {"b"}),
        ("TELL US WHO RUNS ACME", {"acme", "runs"}),
        ("Zürich lies in", {"zürich"}),
    ],
)
def test_capitals_and_digits_name_and_common_first_words_do_not(sentence: str, found: set[str]) -> None:
    assert names(sentence) == found


def test_a_typo_or_a_shortened_name_is_alike_and_another_name_is_not() -> None:
    assert alike("coyote", "coyotte") and alike("acme", "acmerockets")
    assert not alike("paris", "parma") and not alike("ann", "anna")


@given(st.text("abcde", min_size=5, max_size=16), st.data())
def test_a_typo_is_what_the_matching_of_runs_says(word: str, data: st.DataObject) -> None:
    """The quicker count before it never says otherwise."""
    at = data.draw(st.integers(0, len(word) - 1))
    other = word[:at] + data.draw(st.text("abcde", max_size=3)) + word[at + data.draw(st.integers(0, 3)) :]
    if len(other) >= 5 and (word[0] == other[0] or word[-1] == other[-1]) and not (word.startswith(other) or other.startswith(word)):
        assert alike(word, other) == (SequenceMatcher(None, word, other).ratio() >= 0.84)


def _cost(letters: int) -> float:
    """CPU seconds for the scores of one query with its four candidates, of words of so many letters."""
    drawn = random.Random(letters)

    def text() -> str:
        return " ".join("B" + "".join(drawn.choices("abcd", k=letters - 2)) + "z" for _ in range(WORDS))

    pairs = [(text(), text()) for _ in range(4)]
    started = time.thread_time()
    for query, prompt in pairs:
        Scope().score(query, prompt, "t", 0.5)
    return time.thread_time() - started


@pytest.mark.parametrize("letters", [LETTERS, 200])
def test_long_words_that_are_nearly_alike_cost_little_more_than_short_ones(letters: int) -> None:
    """200 letters took half a minute, fifty times what 8 did."""
    assert _cost(letters) < 20 * _cost(8)


class Word(str):
    """A text that can be watched."""


def test_no_word_is_kept_when_words_are_compared() -> None:
    """A fact that is forgotten leaves none of its words behind."""
    one, other = Word("Klimenkow"), Word("Klimenkov")
    assert alike(one, other)
    watched = [weakref.ref(one), weakref.ref(other)]
    del one, other
    gc.collect()
    assert [word() for word in watched] == [None, None]
