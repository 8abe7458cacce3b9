"""When two prompts are one fact's, and what keeps two facts apart that the encoder takes for the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from memory.episodic import EpisodicMemory
from memory.errors import MemoryError_
from memory.fact import Fact
from memory.page import Page, PageSettings, StoredPage
from memory.query import Query
from memory.readable import LEAST_WEIGHT
from memory.scope.rules import Scope
from memory.spelling import OWN, address, as_asked, normalise, seen
from models.scope.sentences import clean

DIM = 896  # of the keys
LETTERS = st.sampled_from("aB1 ²½ßẞİΣςﬁéÅ\u0301\u0903\u200b\u200d\u00ad\ue000\ufffd\u0000\u0085\t\n\u2003_-.,?!'’$€+^`~¿。東豈ａ①🎉")
TEXT = st.text(LETTERS | st.characters(max_codepoint=0x24F), max_size=20)  # beyond, what is punctuation changes with Unicode

# (taught, taught then): two facts.
APART = [
    ("José's phone number is", "Jose's phone number is"),
    ("The locker of Peña is", "The locker of Pena is"),
    ("Åsa works in", "Asa works in"),
    ("The type of userName is", "The type of username is"),
    ("MAX_len is", "max_LEN is"),
    ("The limit MAX_len is", "The limit max_LEN is"),
    ("The Polish shop is in", "The polish shop is in"),
    ("The US office is in", "The us office is in"),
    ("Die Maße der Kiste sind", "Die Masse der Kiste sind"),
    ("Die schöne Tür kostet", "Die schone Tür kostet"),
    ("The value of 10² is", "The value of 102 is"),
    ("Room ① is", "Room 1 is"),
    ("Пароль мой", "Пароль мои"),
    ("Все знают", "Всё знают"),
    ("かきの値段は", "がきの値段は"),
    ("कल की बैठक", "कुल की बैठक"),
    ("รหัสของป้า", "รหัสของปา"),
    ("كَتَبَ", "كتب"),
    ("Bán hàng ở", "Bạn hàng ở"),
    ("The \ue000 key is", "The key is"),
    ("نامه‌ای از", "نامهای از"),
    ("José owes Jose", "Jose owes José"),
    ("🦊 chases 🐻", "🐻 chases 🦊"),
]
# one fact, the newer
ALIKE = [
    ("Question: Who runs Acme?", "Who runs Acme?"),
    ("<|im_start|>user\nWho runs Acme?<|im_end|>", "Who runs Acme ?"),
    ("Acme\u200b is run by", "acme is  run by"),
    ("Who runs Acme", "who runs Acme?"),
    ("The password is", "the password is:"),
    ("The password is …", "The password is"),
    ("Jose\u0301 lives in", "José lives in"),
    ("«Été» s'écrit", "«été» s'écrit"),
    ("éclair shop: where?!", "Éclair shop: where"),
    ("Пароль от вайфая:", "пароль от вайфая"),
    ("办公室的无线网密码是", "办公室 的无线网密码是？"),
    ("رقم الغرفة؟", "رقم الغرفة"),
    ("कमरे का नंबर।", "कमरे का नंबर"),
    ("Question: Answer: it is", "Question:  answer: it is"),
]


def encoded(prompt: str) -> list[str]:
    """The words that an uncased encoder sees."""
    return [word for word, _ in BertPreTokenizer().pre_tokenize_str(BertNormalizer(lowercase=True).normalize_str(prompt))]


@given(TEXT)
@example("The value of 10² is")
@example("Die Maße der Kiste sind")
def test_what_is_seen_is_what_an_uncased_encoder_sees(text: str) -> None:
    line = " ".join(text.split())  # as the model reads it
    assert seen(line) == seen(text) == " ".join(encoded(line))


@given(TEXT)
def test_the_form_of_a_prompt_is_its_own_form_and_closes_without_punctuation(text: str) -> None:
    form = normalise(text)
    assert normalise(form) == normalise(f"  {text} ") == form
    assert normalise(f"{text}a?!") == normalise(f"{text}a")


def one_key(*prompts: str) -> EpisodicMemory:
    """A memory of facts that an encoder takes for the same, each with a target of its own."""
    memory = EpisodicMemory(DIM, PageSettings(slots=8), Scope(clean=clean))
    key = torch.nn.functional.normalize(torch.randn(DIM, generator=torch.Generator().manual_seed(0)), dim=0)
    for number, prompt in enumerate(prompts):
        memory.apply([memory.plan_write(Fact(f"f{number}", prompt, "t", key, torch.eye(8)[number], 0.0, {}))])
    return memory


@pytest.mark.parametrize(("one", "other"), APART)
def test_texts_that_differ_are_facts_of_their_own_though_their_keys_are_equal(one: str, other: str) -> None:
    memory = one_key(one, other)
    assert len(memory) == 2 and (memory.holder(one), memory.holder(other)) == ("f0", "f1")
    for number in range(2):  # each answers for itself, with nothing of the other in it
        assert torch.allclose(memory.recall(f"f{number}"), torch.eye(8, dtype=torch.float64)[number], atol=LEAST_WEIGHT, rtol=0)
    for number, text in enumerate((one, other)):
        reading = memory.read([Query(clean(text), memory.get("f0").key)])
        assert reading.fact == f"f{number}" and [fact for fact, _ in reading.facts] == [f"f{number}"]
    memory.apply([memory.plan_forget("f0")])
    assert (memory.holder(one), memory.holder(other)) == (None, "f1")


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_of_two_that_differ_in_blanks_first_case_and_closing_punctuation_the_newer_is_left(one: str, other: str) -> None:
    memory = one_key(one, other)
    assert [fact.id for fact in memory.facts()] == ["f1"] and memory.holder(one) == "f1"
    memory.apply([memory.plan_forget("f1")])
    assert memory.holder(one) is None and memory.holder(other) is None


@given(TEXT, TEXT)
def test_facts_of_one_key_have_addresses_of_their_own(one: str, other: str) -> None:
    assume(normalise(one) != normalise(other))
    key = torch.nn.functional.normalize(torch.ones(DIM), dim=0)
    page = Page(PageSettings(slots=2), DIM)
    for row, text in enumerate((one, other)):
        page.write(address(key, normalise(text)), torch.eye(2)[row])
    assert float(page.read(address(key, normalise(one))).weights[1].abs()) < LEAST_WEIGHT
    assert float(address(key, normalise(one)) @ key) == pytest.approx((1 + OWN**2) ** -0.5, abs=0.02)


def test_of_many_that_the_encoder_sees_alike_the_one_is_read_that_the_query_spells() -> None:
    names = ("userName", "username", "UserName", "USERNAME", "Username", "usérname")  # more than scope looks at
    memory = one_key(*(f"The type of {name} is" for name in names))
    key = memory.get("f0").key
    for number, name in enumerate(names):
        for text in (f"The type of {name} is", f"What is the type of {name}?"):
            assert memory.read([Query(text, key)]).fact == f"f{number}", text
    assert memory.read([Query("The type of userName is", key)], exclude=["f0"]).fact != "f0"


@pytest.mark.parametrize(
    ("stored", "query", "wanted"),
    [
        (["José"], "jose", "José"),
        (["José", "Jose"], "jose", "Jose"),
        (["Jose", "José"], "José", "José"),
        (["José", "Jose"], "JOSÉ", "José"),
        (["Łódź"], "Lodz", "Łódź"),
        (["Søren"], "Soren", "Søren"),
        (["Đặng"], "Dang", "Đặng"),
    ],
)
def test_who_types_no_accents_means_the_accented_name_where_there_is_no_other(stored: list[str], query: str, wanted: str) -> None:
    memory = one_key(*(f"The phone of {name} is" for name in stored))
    reading = memory.read([Query(f"The phone of {query} is", memory.get("f0").key)])
    assert reading.in_scope and reading.fact is not None and memory.get(reading.fact).prompt == f"The phone of {wanted} is"


def test_an_accent_that_is_asked_for_is_not_passed_over() -> None:
    memory = one_key("The phone of Jose is")
    assert not memory.read([Query("The phone of José is", memory.get("f0").key)]).in_scope
    assert as_asked("The phone of Jose is", "José") == "The phone of Jose is"
    assert as_asked("¿A qué hora?", "¿Que día?") == "¿A qué hora?" and as_asked("¿A qué hora?", "¿Que dia?") == "¿A que hora?"


def test_a_block_ends_before_the_same_prompt_and_takes_one_that_is_spelt_otherwise() -> None:
    def planned(*prompts: str) -> list[object]:
        facts = [Fact(prompt, prompt, "t", torch.ones(4) / 2, torch.ones(2), 0.0, {}) for prompt in prompts]
        return list(EpisodicMemory(4, PageSettings(slots=8), Scope(clean=clean)).plan_block(facts))

    (only,) = planned("Q: X is", "x is")
    assert not isinstance(only, MemoryError_)
    assert len(planned("José is", "Jose is")) == 2


def test_a_memory_of_before_goes_on_with_the_keys_that_it_has() -> None:
    """Its facts were written when "José" and "Jose" were one, and closing punctuation made two."""
    before = one_key("José is", "Who runs Acme?")
    key = before.get("f0").key
    stored = [*before.laid()[0], Fact("f2", "who runs Acme", "t", key, torch.eye(8)[2], 0.0, {}, version=3)]
    memory = EpisodicMemory.restore(DIM, PageSettings(slots=8), Scope(), pages={0: StoredPage(3, tuple(stored))}, changes=[], version=3)
    assert len(memory) == 3 and torch.equal(memory.get("f0").key, key)
    memory.apply([memory.plan_write(Fact("f3", "Jose is", "t", key, torch.eye(8)[3], 0.0, {}))])
    for number in (0, 3):
        assert torch.allclose(memory.recall(f"f{number}"), torch.eye(8, dtype=torch.float64)[number], atol=4 * LEAST_WEIGHT, rtol=0)
    change = memory.plan_write(Fact("f4", "Who runs Acme", "t", key, torch.eye(8)[4], 0.0, {}))
    assert change.replaced == ("f2", "f1")
    memory.apply([change])
    assert [fact.id for fact in memory.facts()] == ["f0", "f3", "f4"]
