"""What an adapter starts from, before any training: value code, document frequencies, untrained prefix."""

from __future__ import annotations

from typing import Any

import torch

from models.adapter import Adapter
from models.code import SlotCode
from models.encoder import inverse_document_frequency
from models.engine.decoder import Decoder
from models.prefix import CLOSING, OPENING, Prefix
from models.training.corpus import Corpus

SLOT_DIM = 64
MAX_SLOTS = 64
HIDDEN = 1024


def fit(decoder: Decoder, encoder_tokenizer: Any, corpus: Corpus, *, encoder_fingerprint: str, seed: int = 0) -> Adapter:
    """An untrained adapter: its prefix says the answer after the embeddings of "The answer is:".

    Args:
        encoder_tokenizer: of the sentence encoder, whose word pieces are counted.
        corpus: what they are counted in.
        seed: of the MLP's first layer (the last one starts at zero).
    """
    mean, projection = SlotCode.fit(decoder.embedding.weight, SLOT_DIM)
    opening, closing = (decoder.embed(decoder.answer_tokens(text, "")).float().cpu() for text in (OPENING, CLOSING))
    about = {
        "decoder": decoder.name,
        "decoder_fingerprint": decoder.fingerprint,
        "encoder_fingerprint": encoder_fingerprint,
        "data": corpus.hashes,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prefix = Prefix(opening, closing, max_slots=MAX_SLOTS, hidden=HIDDEN)
    return Adapter(prefix, mean, projection, inverse_document_frequency(encoder_tokenizer, documents(corpus)), about)


def documents(corpus: Corpus) -> list[str]:
    """Texts in which word pieces are as frequent as in what people teach and ask."""
    statements = [
        corpus.templates[relation][number % len(corpus.templates[relation])].replace("[X]", subject)
        for relation, facts in corpus.facts.items()
        for number, (subject, _) in enumerate(facts)
    ]
    return corpus.sentences + corpus.questions + corpus.claims + statements
