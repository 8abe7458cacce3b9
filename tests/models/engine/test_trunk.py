"""Generation's own forward says what transformers' says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.engine.decoder import Decoder, Sampling
from models.engine.llama import LlamaTrunk
from models.engine.trunk import TransformersTrunk
from models.packed_linear import ROWS, Linear
from tests.models.architectures import CONFIGS, toy_decoder

PROMPTS = ["a", "The door code is", "x" * 300]


def reference(decoder: Decoder, prompt: list[int], count: int) -> list[int]:
    """`generate` of transformers, greedy."""
    ids = torch.tensor([prompt])
    out: Any = decoder.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=256
    )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", CONFIGS)
def test_greedy_tokens_are_those_of_transformers(kind: str) -> None:
    decoder = toy_decoder(kind)
    decoder.end_ids = frozenset()
    prompts = [decoder.tokens(text) for text in PROMPTS]
    made = decoder.generate(prompts, [None] * len(prompts), [Sampling(24)] * len(prompts))
    wanted = [reference(decoder, prompt, 24) for prompt in prompts]
    assert [list(generation.token_ids) for generation in made] == wanted
    assert len({token for tokens in wanted for token in tokens}) > 8, "a toy that repeats itself shows little"


def test_only_what_fits_takes_the_fast_path() -> None:
    kinds = {kind: type(toy_decoder(kind).trunk) for kind in CONFIGS}
    slow = {"gemma3", "gpt2"}
    assert kinds == {kind: TransformersTrunk if kind in slow else LlamaTrunk for kind in CONFIGS}


def test_logits_agree_with_the_model_to_rounding() -> None:
    decoder = toy_decoder()
    prompt = torch.randint(0, 256, (600,))
    with torch.inference_mode():
        wanted = decoder.model(prompt[None]).logits[0, -1]
        cache = decoder.trunk.cache(600)
        for chunk in prompt.split(256):
            out = decoder.trunk.extend(decoder.embed(chunk), cache)
        got = decoder.trunk.logits(out[-1:])[0]
    assert torch.allclose(got, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("shape", [(960, 576), (576, 1536), (40, 24)])
def test_a_row_does_not_depend_on_the_rows_beside_it(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer, rows = Linear(torch.randn(shape)), torch.randn(4 * ROWS, shape[1])
    whole = layer(rows)
    for count in (*range(2, 2 * ROWS, 2), 2 * ROWS, 3 * ROWS):
        assert torch.equal(layer(rows[:count]), whole[:count])
    turned = torch.cat([rows[5:ROWS], rows[:5]])
    assert torch.equal(layer(turned)[ROWS - 5 :], whole[:5])
    assert torch.allclose(layer.add_to(whole, rows), 2 * whole)


def test_without_its_own_weights_a_decoder_says_and_scores_the_same() -> None:
    whole, light = toy_decoder(), toy_decoder()
    prompt, target = list(range(40, 70)), list(range(90, 97))
    light.release()
    assert light.generate([prompt], [None], [Sampling(8)])[0].token_ids == whole.generate([prompt], [None], [Sampling(8)])[0].token_ids
    (forced,), (wanted,) = (d.force([prompt], [target], [None]) for d in (light, whole))
    assert torch.equal(forced.log_probs, wanted.log_probs)
    with torch.inference_mode():
        logits = whole.model(torch.tensor([[*prompt, *target]])).logits[0, len(prompt) - 1 : -1]
    assert torch.allclose(forced.log_probs, logits.log_softmax(-1).gather(1, torch.tensor(target)[:, None])[:, 0], atol=1e-3)
    layers = light.model.base_model.layers
    assert sum(p.numel() for p in layers.parameters()) < sum(p.numel() for p in whole.model.base_model.layers.parameters()) / 10
