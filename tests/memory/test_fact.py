"""When two prompts are the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from memory.episodic import EpisodicMemory
from memory.errors import MemoryError_
from memory.fact import Fact, normalise
from memory.page import PageSettings
from memory.scope import Scope
from models.sentences import clean

LETTERS = st.sampled_from("aB1 ²½ßẞİΣςﬁéÅ\u0301\u0903\u200b\u00ad\ue000\ufffd\u0000\u0085\t\n\u2003_-.,?!'’$€+^`~¿。東豈ａ①🎉")


def encoded(prompt: str) -> list[str]:
    """The words that an uncased encoder sees."""
    return [word for word, _ in BertPreTokenizer().pre_tokenize_str(BertNormalizer(lowercase=True).normalize_str(prompt))]


@given(st.text(LETTERS | st.characters(max_codepoint=0x24F), max_size=20))  # beyond, what is punctuation changes with Unicode
@example("The value of 10² is")
@example("Die Maße der Kiste sind")
def test_what_is_compared_is_what_an_uncased_encoder_sees(text: str) -> None:
    line = " ".join(text.split())  # as the model reads it
    assert normalise(line) == normalise(text) == " ".join(encoded(line))


def taught(*prompts: str) -> EpisodicMemory:
    memory = EpisodicMemory(4, PageSettings(slots=8), Scope(clean=clean))
    for number, prompt in enumerate(prompts):
        key = torch.nn.functional.normalize(torch.randn(4, generator=torch.Generator().manual_seed(number)), dim=0)
        memory.apply([memory.plan_write(Fact(f"f{number}", prompt, "t", key, torch.ones(2), 0.0, {}))])
    return memory


@pytest.mark.parametrize(
    ("one", "other"),
    [("The value of 10² is", "The value of 102 is"), ("Die Maße der Kiste sind", "Die Masse der Kiste sind"), ("Room ① is", "Room 1 is")],
)
def test_a_fact_takes_no_place_of_one_that_the_encoder_tells_apart(one: str, other: str) -> None:
    assert len(taught(one, other)) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Question: Who runs Acme?", "Who runs Acme?"),
        ("<|im_start|>user\nWho runs Acme?<|im_end|>", "Who runs Acme ?"),
        ("Acme\u200b is run by", "ACME is run by"),
        ("Question: Answer: it is", "Question:  answer: it is"),
    ],
)
def test_of_two_facts_with_one_key_the_newer_is_left(one: str, other: str) -> None:
    """Their answers would be averaged."""
    memory = taught(one, other)
    assert [fact.id for fact in memory.facts()] == ["f1"] and memory.holder(one) == "f1"
    memory.apply([memory.plan_forget("f1")])
    assert memory.holder(one) is None and memory.holder(other) is None


def test_a_block_ends_before_the_same_prompt() -> None:
    facts = [Fact(name, prompt, "t", torch.ones(4) / 2, torch.ones(2), 0.0, {}) for name, prompt in (("a", "Q: x is"), ("b", "x is"))]
    planned = taught().plan_block(facts)
    assert len(planned) == 1 and not isinstance(planned[0], MemoryError_)
