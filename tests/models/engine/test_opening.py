"""A decoder that wants a token before every text, scales its embeddings and has no chat template: Gemma 3."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from models.code import SlotCode
from models.engine.decoder import Decoder, Sampling
from models.engine.trunk import TransformersTrunk
from models.prefix import CLOSING, OPENING, Prefix
from models.training.corpus import Corpus
from models.training.mixture import Mixture
from models.training.prefix_training import Schedule, batches, loss_of
from tests.models import toys
from tests.models.architectures import toy_decoder

BOS = "<|im_start|>"


@pytest.fixture(scope="module")
def gemma() -> Decoder:
    """Random weights; a base model: it has no chat template."""
    plain = toys.byte_tokenizer()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer.from_str(plain.backend_tokenizer.to_str()),
        bos_token=BOS,
        eos_token=plain.eos_token,
        pad_token=plain.pad_token,
    )
    begin = (BOS, tokenizer.convert_tokens_to_ids(BOS))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[begin])
    return Decoder(toy_decoder("gemma3").model, tokenizer, fingerprint="toy-gemma", name="toy-gemma")


def test_embeddings_are_scaled_as_the_model_scales_them(gemma: Decoder) -> None:
    ids = gemma.tokens("The river is blue")
    assert isinstance(gemma.trunk, TransformersTrunk) and ids[0] == gemma.opening[0]
    torch.testing.assert_close(gemma.embed(ids), gemma.embedding.weight[ids] * gemma.embedding.weight.shape[1] ** 0.5)


def test_a_prefix_stands_behind_the_token_that_begins_a_text(gemma: Decoder) -> None:
    soft = gemma.embed(gemma.answer_tokens("The answer is: 42\n\n", ""))
    prompt = gemma.tokens("The code is")
    as_text = [*gemma.opening, *gemma.answer_tokens("The answer is: 42\n\n", ""), *prompt[1:]]
    assert torch.equal(gemma.inputs(prompt, soft), gemma.embed(as_text))
    sampling = Sampling(8)
    (soft_said,), (said,) = gemma.generate([prompt], [soft], [sampling]), gemma.generate([as_text], [None], [sampling])
    assert soft_said.token_ids == said.token_ids
    target = gemma.answer_tokens("42")
    (forced,), (wanted,) = gemma.force([prompt], [target], [soft]), gemma.force([as_text], [target], [None])
    assert torch.equal(forced.log_probs, wanted.log_probs)
    bare = gemma.answer_tokens("The code is", "")  # no such token: the prefix begins the text
    assert torch.equal(gemma.inputs(bare, soft)[: len(soft)], soft)


def test_its_codes_come_back_and_its_prefix_learns_without_a_chat_template(gemma: Decoder, tmp_path: Path) -> None:
    mean, projection = SlotCode.fit(gemma.embedding.weight, 24)
    code, target = SlotCode(mean, projection, gemma.embedding.weight, 24), gemma.answer_tokens("Wile E. Coyote")
    assert code.clean(code.encode(target)) == target
    toys.write_corpus(tmp_path)
    mixture = Mixture(Corpus.read(tmp_path), gemma)
    assert not any("<|im_end|>" in mixture.draw(random.Random(seed)).prompt for seed in range(200))
    opening, closing = (gemma.embed(gemma.answer_tokens(text, "")) for text in (OPENING, CLOSING))
    prefix = Prefix(opening, closing, max_slots=24, hidden=16)
    rows = next(batches(mixture, Schedule(steps=1, batch=8), 24))
    optimizer = torch.optim.Adam(prefix.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = loss_of(gemma, prefix, rows)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
