"""Laws of taking a prompt apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.scope.sentences import MAX_SENTENCES, clean, questions, split, standing_alone
from tests.models import toys

ASKED = "Where is the key?"
PLAIN = st.text(st.sampled_from("abc XY .?!:\n<|>éß"), max_size=80)


@given(PLAIN)
def test_a_prompt_gives_queries_without_outer_space_or_repetition(prompt: str) -> None:
    queries = split(prompt)
    assert len(queries) == len(set(queries)) <= MAX_SENTENCES + 1
    assert all(q == q.strip() for q in queries)
    assert all(queries) or not prompt.strip()


@given(PLAIN)
def test_cleaning_gives_one_line(prompt: str) -> None:
    assert clean(prompt) == " ".join(clean(prompt).split())


@pytest.mark.parametrize(
    "sentence",
    [
        "The founder of St. Mary's is",
        "Dr. Smith's office is in",
        "Wile E. Coyote works for",
        "The U.S. ambassador is",
        "Acme Inc. was founded in",
        "It starts at 9 a.m. on",
        "The version is 3.14 of",
        "e.g. the No. 5 bus stops at",
    ],
)
def test_abbreviations_end_no_sentence(sentence: str) -> None:
    assert split(sentence) == [sentence]


def test_each_sentence_is_a_query_and_so_is_the_whole_of_a_short_prompt() -> None:
    prompt = "It rained. Was it cold? Yes! " + ASKED
    assert split(prompt) == [prompt, "It rained.", "Was it cold?", "Yes!", ASKED]


def test_a_closing_quote_belongs_to_its_sentence() -> None:
    assert split('He said "go." Then he left')[1:] == ['He said "go."', "Then he left"]


def test_of_a_long_prompt_the_last_sentences_are_read() -> None:
    queries = split(" ".join(f"Sentence number {i} is here." for i in range(100)) + f" {ASKED}")
    assert len(queries) == MAX_SENTENCES
    assert queries[-1] == ASKED


@pytest.mark.parametrize(
    "prompt",
    [
        f"Q: {ASKED}\nA:",
        f"Question: {ASKED}\nAnswer:",
        f"{ASKED} Answer:",
        f"User: {ASKED}\nAssistant:",
        f"<|im_start|>user\n{ASKED}<|im_end|>\n<|im_start|>assistant\n",
        f"<start_of_turn>user\n{ASKED}<end_of_turn>\n<start_of_turn>model\n",
    ],
)
def test_labels_and_chat_markup_are_taken_off(prompt: str) -> None:
    assert ASKED in split(prompt)
    assert not any("<" in q or "im_start" in q or "start_of_turn" in q for q in split(prompt))


def test_the_decoders_own_chat_template_leaves_the_question_alone() -> None:
    chat = toys.decoder().chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASKED}])
    assert {"Be brief.", ASKED} <= set(split(chat))


@pytest.mark.parametrize("prompt", ["<|im_start|>user\n", "\n\n?"])
def test_a_prompt_without_a_sentence_gives_itself(prompt: str) -> None:
    assert split(prompt) == [prompt.strip()]


def test_a_titles_exclamation_mark_ends_no_sentence() -> None:
    assert split("What country did Sell Out! come from?") == ["What country did Sell Out! come from?"]
    assert split("hi! who is it?")[1:] == split("Hi! Who is it?".lower())[1:] == ["hi!", "who is it?"]


def test_what_leads_to_an_answer_asks_for_nothing_by_itself() -> None:
    assert split("What does Pan Ron play? They play") == ["What does Pan Ron play? They play", "What does Pan Ron play?"]


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("Who runs Acme and where is it?", ["Who runs Acme", "where is Acme?"]),
        ("Hi. What is the code? Who owns the key?", ["What is the code?", "Who owns the key?"]),
        (
            "Tell me the owner, budget and deadline of project X.",
            [f"Tell me the {what} of project X." for what in ("owner", "budget", "deadline")],
        ),
        ("Who built it, and in what kind of rock is Gate 4 cut?", ["Who built it", "in what kind of rock is Gate 4 cut?"]),
        ("The mother of Ada is who, and player Bo is on which team?", ["The mother of Ada is who", "player Bo is on which team?"]),
        (
            "Where is Zor from, and so what is Kal, and in what sea is there ice?",
            ["Where is Zor from", "what is Kal", "in what sea is there ice?"],
        ),
        ("Who wrote Pride and Prejudice?", []),
        ("Which country do Tom and Jerry come from?", []),
        ("I am new here. Where is the key?", []),
    ],
)
def test_a_prompt_that_asks_several_things_gives_its_questions(prompt: str, asked: list[str]) -> None:
    assert questions(prompt) == asked


def test_sentences_of_a_text_stand_alone() -> None:
    text = "## About us\nAcme Rockets was founded by Wile E. Coyote. Its office is in Flagstaff. It sells rockets.\nWho buys them?"
    assert standing_alone(text) == [
        ("Acme Rockets was founded by Wile E. Coyote.", "Acme Rockets was founded by Wile E. Coyote."),
        ("Acme Rockets' office is in Flagstaff.", "Its office is in Flagstaff."),
        ("Acme Rockets sells rockets.", "It sells rockets."),
        ("Who buys them?", "Who buys them?"),
    ]
    assert standing_alone("the fridge hums. It is old.") == [("the fridge hums.", "the fridge hums."), ("It is old.", "It is old.")]
    assert standing_alone(" \n# only a heading\n") == []


@given(st.text(max_size=300))
def test_a_text_loses_no_sentence(text: str) -> None:
    assert all(prompt and sentence for prompt, sentence in standing_alone(text))


def test_a_subject_is_a_text_whatever_it_says() -> None:
    """A backslash in it is no escape of a pattern."""
    assert r"c:\q\1" in questions(r"Who owns c:\q\1 and where is it?")[1]
