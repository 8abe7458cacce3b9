"""The pointer holds what is being said to the readout, and has no other say."""

from __future__ import annotations

from itertools import takewhile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from app.server.settings import Settings
from models.engine.decoder import Sampling
from models.engine.pointer import AFTER, FIRST, NEXT, SURE, Pointer, listed
from models.model import Model
from tests.models import toys

MODEL = toys.model()
TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=14)  # few kinds: answers that repeat themselves


@given(TOKENS)
def test_who_follows_the_bonus_says_the_answer_once(answer: list[int]) -> None:
    pointer, said = Pointer([answer]), []
    while bonus := pointer.bonus:
        (token,) = bonus
        assert bonus[token] == (FIRST if not said else NEXT if len(said) < AFTER else SURE)
        said.append(token)
        assert not pointer.done
        pointer.advance(token)
    assert said == answer and pointer.done


@given(TOKENS, TOKENS)
def test_after_anything_else_the_answer_may_still_begin(before: list[int], answer: list[int]) -> None:
    pointer = Pointer([[t + 10 for t in answer]])
    for token in before:
        pointer.advance(token)
        assert pointer.bonus == {}
    pointer.advance(answer[0] + 10)
    assert pointer.bonus == ({answer[1] + 10: NEXT} if len(answer) > 1 else {})


def test_an_answer_may_be_said_in_each_of_its_tokenisations() -> None:
    pointer = Pointer([[1, 2, 3], [4, 3], []])
    assert pointer.bonus == {1: FIRST, 4: FIRST}
    pointer.advance(4)
    assert pointer.bonus == {3: NEXT}
    pointer.advance(3)
    assert pointer.bonus == {}


def test_only_the_named_logits_rise() -> None:
    logits, pointer = torch.zeros(6), Pointer([[2, 5]])
    assert torch.equal(pointer.apply(logits), torch.tensor([0.0, 0.0, FIRST, 0.0, 0.0, 0.0]))
    pointer.advance(0)
    assert pointer.apply(logits) is logits


def test_only_the_token_behind_an_answer_does_not_go_on_with_its_word() -> None:
    joined, logits = torch.tensor([True, False, True, False]), torch.zeros(4)
    pointer = Pointer([[2, 3]], joined)
    for token in (2, 3):
        assert not pointer.apply(logits).isinf().any()
        pointer.advance(token)
    assert torch.equal(pointer.apply(logits).isinf(), joined)
    pointer.advance(1)
    assert pointer.apply(logits) is logits


@pytest.mark.parametrize(("answer", "held"), [("Astana", True), ("45", True), ("5 kg.", False), ("東京", False), ("Åä", True)])
def test_words_that_are_written_apart_end_with_the_answer(answer: str, held: bool) -> None:
    _, pointer = MODEL.conditioning(MODEL.code.encode(MODEL.decoder.answer_tokens(answer)))
    assert pointer is not None
    for token in MODEL.decoder.answer_tokens(answer):
        pointer.advance(token)
    pointed = pointer.apply(torch.zeros(len(MODEL.decoder.joined)))
    blocked = {MODEL.decoder.tokenizer.decode([number]) for number in pointed.isinf().nonzero().flatten().tolist()}
    assert pointer.done and ({"a", "Z", "7"} <= blocked if held else not blocked) and not {" ", ".", "<", "-"} & blocked


@pytest.mark.parametrize("answer_only", [True, False])
def test_a_text_may_end_where_the_fact_has_been_said(answer_only: bool) -> None:
    said = MODEL.decoder.answer_tokens("Oslo")
    code = MODEL.code.encode(said)
    sequence = MODEL.sequence(MODEL.decoder.tokens("Who runs it?"), code, Sampling(max_new_tokens=20, answer_only=answer_only))
    for token in said:
        assert sequence.finish is None
        sequence.extend(100.0 * torch.nn.functional.one_hot(torch.tensor(token), len(MODEL.decoder.joined)), token)
    assert sequence.text == " Oslo" and sequence.finish == ("stop" if answer_only else None)


def test_a_vocabulary_with_gaps_and_without_rows_is_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = toys.decoder()
    monkeypatch.setattr(decoder.tokenizer, "convert_ids_to_tokens", lambda ids: ["a", None, " b", *[""] * (len(ids) - 3)])
    assert decoder.joined.nonzero().flatten().tolist() == [0] and len(decoder.joined) == decoder.embedding.weight.shape[0]


@pytest.fixture(scope="module")
def real() -> Model:
    settings = Settings()
    return Model.load(settings.decoder, settings.adapter, "cpu", settings.weights_dir)


@pytest.mark.model
@pytest.mark.parametrize("target", ["Tatatoo", "978-3-555-01020-7", "open the lid, wait until the rotor stands still, then open the lid"])
def test_an_answer_that_repeats_itself_is_said_to_its_end(real: Model, target: str) -> None:
    code = real.encode_fact("What is on the label?", target)[1]
    for prompt in ("What is on the label?", "Hi! Do you know what the label says?\nAnswer:", "The label says"):
        assert real.generate(prompt, code=code, sampling=Sampling(max_new_tokens=32)).text.strip().startswith(target)


def test_forcing_scores_the_logits_that_generation_chooses_from() -> None:
    code = MODEL.encode_fact("Who runs Acme?", "Oslo")[1]
    said = MODEL.generate("Who runs Acme?", code=code, sampling=Sampling(max_new_tokens=10))
    decoder, tokens = MODEL.decoder, [MODEL.decoder.tokens("Who runs Acme?")]
    prefix, pointer = MODEL.conditioning(code)
    assert pointer is not None
    held = list(takewhile(lambda token: not pointer.done and not pointer.advance(token), said.token_ids))  # with the prefix
    forced = decoder.force(tokens, [held], [prefix], [MODEL.conditioning(code)[1]])[0]
    assert held and forced.exact
    assert MODEL.conditioning(None) == MODEL.conditioning(torch.zeros(3 * toys.SLOT_DIM)) == (None, None)


def test_answers_are_listed_as_people_list_them() -> None:
    assert [listed("abc"[:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
