"""Fluency of what follows an edit: repetition, and perplexity by the plain decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from models.engine.decoder import Decoder


def repetition(text: str, size: int = 3) -> float:
    """Rate of word n-grams that were said before; 0 for texts shorter than two of them."""
    words = text.split()
    grams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return 1.0 - len(set(grams)) / len(grams) if len(grams) > 1 else 0.0


@torch.inference_mode()
def perplexity(decoder: Decoder, prompts: Sequence[str], texts: Sequence[str], batch: int = 16) -> float:
    """exp of the mean negative log-probability a token of each text after its prompt; empty texts do not count."""
    pairs = [(decoder.tokens(p), decoder.answer_tokens(t, "")) for p, t in zip(prompts, texts, strict=True) if t.strip()]
    total, count = 0.0, 0
    for at in range(0, len(pairs), batch):
        chunk = pairs[at : at + batch]
        for forced in decoder.force([p for p, _ in chunk], [t for _, t in chunk], [None] * len(chunk)):
            total -= float(forced.log_probs.sum())
            count += len(forced.log_probs)
    return math.exp(total / max(1, count))
