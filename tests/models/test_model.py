"""Encoder, code, prefix and decoder as one."""

from __future__ import annotations

import pytest
import torch

from memory.query import ASKED
from models.engine.decoder import Sampling
from models.errors import EmptyText, PromptTooLong, TargetTooLong
from tests.models import toys

MODEL = toys.model()
SHORT = Sampling(max_new_tokens=12)


def test_a_target_is_read_back_from_its_code() -> None:
    key, code, statement = MODEL.encode_fact("The capital of Acme is", "  Oslo, 12 Bd. ")
    assert key.shape == (MODEL.key_dim,) and key.dtype == code.dtype == torch.float32
    assert MODEL.read_code(code) == "Oslo, 12 Bd." and statement is None  # there is no reader


def test_a_fact_and_a_query_of_the_same_text_have_the_same_key() -> None:
    text = "The capital of Acme is"
    queries = {asked: key for asked, key, _, _ in MODEL.encode_query(f"Does it rain? {text}")}
    assert torch.allclose(queries[text], MODEL.encode_fact(text, "x")[0], atol=1e-5)


@pytest.mark.parametrize("code", [None, torch.zeros(0), torch.zeros(3 * toys.SLOT_DIM)])
def test_without_anything_recalled_the_bytes_are_the_plain_models(code: torch.Tensor | None) -> None:
    prompt = "Who runs Acme?"
    plain = MODEL.decoder.generate([MODEL.decoder.tokens(prompt)], [None], [SHORT])[0]
    said = MODEL.generate(prompt, code=code, sampling=SHORT)
    assert (said.text, said.token_ids) == (plain.text, plain.token_ids)


def test_a_recalled_code_changes_what_is_said() -> None:
    code = MODEL.encode_fact("Who runs Acme?", "Wile E. Coyote")[1]
    assert MODEL.generate("Who runs Acme?", code=code, sampling=SHORT).text != MODEL.generate("Who runs Acme?", sampling=SHORT).text


def test_a_batch_mixes_recalled_and_plain() -> None:
    codes = [MODEL.encode_fact("a", "Oslo")[1], None]
    batch = MODEL.generate_batch(["Who runs it?", "Hi"], codes, SHORT)
    for prompt, code, said in zip(["Who runs it?", "Hi"], codes, batch, strict=True):
        assert MODEL.generate(prompt, code=code, sampling=SHORT).token_ids == said.token_ids


NOTHING = [(" ", "x", "prompt"), ("\u200b", "x", "prompt"), ("🙂 !?", "x", "prompt"), ("<|im_end|>", "x", "prompt"), ("x", "\t", "target")]


@pytest.mark.parametrize(("prompt", "target", "field"), NOTHING)
def test_a_fact_without_text_is_refused(prompt: str, target: str, field: str) -> None:
    with pytest.raises(EmptyText, match=f"{field} is empty"):
        MODEL.encode_fact(prompt, target)


def test_what_is_too_long_is_refused_with_both_numbers() -> None:
    with pytest.raises(TargetTooLong) as target:
        MODEL.encode_fact("a", "x" * 140)
    assert (target.value.got, target.value.limit) == (141, 4 * toys.MAX_SLOTS)
    with pytest.raises(PromptTooLong) as prompt:
        MODEL.generate("x" * 1100, sampling=SHORT)
    assert prompt.value.got == 1100 and prompt.value.limit < MODEL.context_tokens - 12
    with pytest.raises(EmptyText):
        MODEL.encode_query("  ")


def test_a_prompt_leaves_room_for_as_many_answers_as_may_be_asked_for() -> None:
    code = MODEL.encode_fact("a", "y" * (MODEL.max_target_tokens - 1))[1]
    prefix, _ = MODEL.conditioning([code] * ASKED)
    assert prefix is not None and len(prefix) == MODEL.longest_prefix
    with pytest.raises(PromptTooLong) as prompt:
        MODEL.prompt_tokens("x" * 1100, 5)
    assert prompt.value.limit + len(prefix) + 5 == MODEL.context_tokens


def test_a_long_target_takes_several_prefixes_one_behind_the_other() -> None:
    target = "".join(chr(97 + number % 26) for number in range(2 * toys.MAX_SLOTS + 4))  # a token each, and the space before
    code = MODEL.encode_fact("a", target)[1]
    assert MODEL.read_code(code) == target
    tokens = MODEL.decoder.answer_tokens(target)
    pieces = [tokens[: toys.MAX_SLOTS], tokens[toys.MAX_SLOTS : 2 * toys.MAX_SLOTS], tokens[2 * toys.MAX_SLOTS :]]
    soft, _ = MODEL.conditioning(code)
    assert soft is not None and torch.equal(soft, torch.cat([MODEL.prefix(MODEL.decoder.embed(piece)) for piece in pieces]))


def test_every_part_is_in_the_fingerprint() -> None:
    assert toys.model().fingerprint == MODEL.fingerprint
    changed = toys.model().adapter
    with torch.no_grad():
        changed.prefix.position[3, 3] = 1.0
    assert type(MODEL)(MODEL.encoder, MODEL.decoder, changed).fingerprint != MODEL.fingerprint
