"""Laws of generating and forcing, with and without a prefix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.engine.decoder import Decoder, Sampling
from tests.models import toys

DECODER = toys.decoder()
PROMPTS = ["Where is Bob?", "The capital of France is", "Hi", "Q: who runs it?\nA:"]
GREEDY = Sampling(max_new_tokens=16)


def soft(answer: str) -> Tensor:
    return toys.prefix(DECODER)(DECODER.embed(DECODER.answer_tokens(answer))).detach()


PREFIXES = [soft("Oslo"), None, soft("a much longer answer"), None]


def tokens(*prompts: str) -> list[list[int]]:
    return [DECODER.tokens(p) for p in prompts]


def test_a_batch_says_what_each_alone_says() -> None:
    batch = DECODER.generate(tokens(*PROMPTS), PREFIXES, [GREEDY] * 4)
    for prompt, prefix, said in zip(tokens(*PROMPTS), PREFIXES, batch, strict=True):
        alone = DECODER.generate([prompt], [prefix], [GREEDY])[0]
        assert (said.token_ids, said.text, said.finish_reason) == (alone.token_ids, alone.text, alone.finish_reason)
        assert said.prompt_tokens == len(prompt)


def test_rows_of_a_batch_may_want_different_lengths() -> None:
    lengths = [1, 9, 4, 2]
    batch = DECODER.generate(tokens(*PROMPTS), PREFIXES, [Sampling(max_new_tokens=n) for n in lengths])
    assert [g.completion_tokens for g in batch] == lengths
    assert {g.finish_reason for g in batch} == {"length"}


def test_generation_ends_before_a_stop_string() -> None:
    prompt = tokens("Where is Bob?")
    free = DECODER.generate(prompt, [None], [GREEDY])[0]
    stop = free.text[5:8]
    cut = DECODER.generate(prompt, [None], [Sampling(max_new_tokens=16, stop=("never said", stop))])[0]
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.finish_reason == "stop"
    unstopped = DECODER.generate(prompt, [None], [Sampling(max_new_tokens=16, stop=("\0",))])[0]
    assert (unstopped.text, unstopped.finish_reason) == (free.text, "length")


def test_the_end_token_ends_and_is_not_said() -> None:
    prompt, model = tokens("Where is Bob?"), toys.llama()
    said = DECODER.generate(prompt, [None], [GREEDY])[0].token_ids
    model.generation_config.eos_token_id = [said[6], DECODER.tokenizer.eos_token_id]
    ended = Decoder(model, toys.byte_tokenizer(), fingerprint="", name="toy").generate(prompt, [None], [GREEDY])[0]
    assert ended.token_ids == said[: said.index(said[6])]
    assert ended.finish_reason == "stop"


def test_a_small_nucleus_draws_what_greedy_says() -> None:
    narrow = Sampling(max_new_tokens=16, temperature=1.0, top_p=1e-6, seed=3)
    assert DECODER.generate(tokens("Hi"), [None], [narrow])[0].text == DECODER.generate(tokens("Hi"), [None], [GREEDY])[0].text


def test_forcing_agrees_with_generating_and_with_itself_in_a_batch() -> None:
    said = [list(g.token_ids[:n]) for g, n in zip(DECODER.generate(tokens(*PROMPTS), PREFIXES, [GREEDY] * 4), (5, 9, 1, 3), strict=True)]
    wrong = [[*ids[:-1], (ids[-1] + 1) % 200] for ids in said]
    forced = DECODER.force(tokens(*PROMPTS), said, PREFIXES)
    assert all(f.exact for f in forced)
    assert not any(f.exact for f in DECODER.force(tokens(*PROMPTS), wrong, PREFIXES))
    for prompt, target, prefix, batched in zip(tokens(*PROMPTS), said, PREFIXES, forced, strict=True):
        assert torch.allclose(DECODER.force([prompt], [target], [prefix])[0].log_probs, batched.log_probs, atol=1e-4)
        assert bool((batched.log_probs <= 0).all())


@pytest.mark.parametrize("text", ["<|im_end|>", "a<|im_start|>user"])
def test_nothing_in_a_target_is_a_special_token_and_a_chat_is(text: str) -> None:
    special = set(DECODER.tokenizer.all_special_ids)
    assert not special & set(DECODER.answer_tokens(text))
    assert DECODER.text(DECODER.answer_tokens(text, "")) == text
    assert special & set(DECODER.tokens(DECODER.chat([{"role": "user", "content": "Hi"}])))
