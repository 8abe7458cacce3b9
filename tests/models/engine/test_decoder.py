"""The real decoder: its tokens are those of transformers, alone and in a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from app.server.settings import Settings
from models import weights
from models.engine.decoder import Decoder, Sampling
from models.model import silent

pytestmark = pytest.mark.model
PROMPTS = [
    "The capital of France is",
    "Who runs Acme Rockets?",
    "Question: What is the door code?\nAnswer:",
    "Once upon a time, in a land far away, there was a",
    "def fibonacci(n):\n",
    "x",
    "The quick brown fox jumps over the lazy dog. " * 40,
]


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    settings = Settings()
    found = weights.locate(settings.decoder, settings.data_dir / "models", silent)
    loaded = Decoder.load(found.folder, torch.device("cpu"), fingerprint=found.fingerprint, name=settings.decoder)
    if loaded.dtype != torch.float32:  # bfloat16 ties fall either way
        loaded = Decoder(loaded.model.float(), loaded.tokenizer, fingerprint=found.fingerprint, name=settings.decoder)
    yield loaded


def test_a_batch_says_what_transformers_says_of_each_prompt(decoder: Decoder) -> None:
    prompts = [decoder.tokens(text) for text in PROMPTS]
    together = decoder.generate(prompts, [None] * len(prompts), [Sampling(24)] * len(prompts))
    for prompt, made in zip(prompts, together, strict=True):
        ids = torch.tensor([prompt])
        out: Any = decoder.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        wanted = [token for token in out[0, len(prompt) :].tolist() if token not in decoder.end_ids]
        assert list(made.token_ids) == wanted
        (alone,) = decoder.generate([prompt], [None], [Sampling(24)])
        assert (alone.text, alone.token_ids) == (made.text, made.token_ids)


def test_benchmarks_find_the_weights_of_both_sides() -> None:
    from app.bench.decode import decode
    from app.cli.bench import load

    figures = decode(load(1), tokens=2, repeats=1)
    assert figures["whole_text"]["transformers"]["n"] == 1 and figures["weights_mib"] > 100
