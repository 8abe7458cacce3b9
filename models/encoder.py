"""The encoder: a sentence encoder and a lexical projection give the address key of a text.

    key = unit(concat(mean-pooled unit vector of MiniLM, √½ · lexical vector)) ∈ R^D

MiniLM's weights carry a low-rank update that taught it which wordings want the same answer (models.training.encoder_training).

The lexical vector is a fixed Gaussian random projection of the set of word pieces, weighted by inverse document
frequency, made a unit vector: it keeps names apart that the sentence encoder holds for alike. Words that the tokenizer has no
pieces for (symbols, rare scripts) are all one piece to the sentence encoder; the lexical vector has a direction for each.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.bert import BertTrunk
from models.lora import LowRank

LEXICAL_DIM = 512
SEED = 2403_11901 % 2**31  # of the directions of words, which stored keys are made of
_STREAM = np.random.RandomState()  # seeded anew for each direction: a new one takes six times as long
_DRAWING = threading.Lock()


class Encoder:
    """Texts to address keys.

    Args:
        trunk: a transformers encoder with mean pooling, in eval mode.
        tokenizer: its tokenizer.
        idf: (V,) float32, inverse document frequency of its word pieces.
        fingerprint: SHA-256 of its weights.
    """

    def __init__(self, trunk: Any, tokenizer: Any, *, idf: Tensor, fingerprint: str) -> None:
        self.trunk, self.tokenizer, self.idf, self.fingerprint = trunk.requires_grad_(False), tokenizer, idf, fingerprint
        self.device: torch.device = trunk.device
        self.max_tokens = int(trunk.config.max_position_embeddings)
        self.meaning_dim = int(trunk.config.hidden_size)  # of a key's first part
        self.key_dim = self.meaning_dim + LEXICAL_DIM
        self._packed = BertTrunk(trunk) if BertTrunk.fits(trunk) else None
        self._special = frozenset(tokenizer.all_special_ids)
        self._rarest = float(idf.max())

    @classmethod
    def load(cls, folder: Path, device: torch.device, *, idf: Tensor, fingerprint: str, update: LowRank | None = None) -> Encoder:
        """
        Args:
            folder: of the frozen encoder's safetensors and tokenizer files.
            fingerprint: SHA-256 of its weights; the loaded encoder's is another where it is updated.
            update: taught it which wordings want the same.
        """
        trunk, tokenizer = read(folder)
        if update is not None:
            update.merge(trunk)
            fingerprint = hashlib.sha256(f"{fingerprint}{update.fingerprint}".encode()).hexdigest()
        return cls(trunk.to(device), tokenizer, idf=idf, fingerprint=fingerprint)

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Word pieces of each text, cut to what the trunk reads."""
        ids: list[list[int]] = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        return ids

    @torch.inference_mode()
    def keys(self, texts: Sequence[str]) -> Tensor:
        """(n, D) float32 unit address keys on the CPU."""
        ids = self.pieces(texts)
        meaning = torch.cat([self._meaning(ids[i : i + 32]) for i in range(0, len(ids), 32)])  # (n, d)
        unknown = [unknown_words(self.tokenizer, text, row) for text, row in zip(texts, ids, strict=True)]
        lexical = torch.stack([self.lexical(*own) for own in zip(ids, unknown, strict=True)])  # (n, L)
        return torch.nn.functional.normalize(torch.cat([meaning.cpu(), 0.5**0.5 * lexical], 1))

    @torch.inference_mode()
    def meanings(self, texts: Sequence[str]) -> Tensor:
        """(n, d) float32 unit sentence vectors on the CPU, a key's first part alone."""
        ids = self.pieces(texts)
        return torch.cat([self._meaning(ids[i : i + 32]) for i in range(0, len(ids), 32)]).cpu()

    def _meaning(self, ids: Sequence[Sequence[int]]) -> Tensor:
        if self._packed is not None:
            return torch.nn.functional.normalize(self._packed.means(ids))
        lengths = torch.tensor([len(row) for row in ids], device=self.device)
        padded = torch.zeros(len(ids), int(lengths.max()), dtype=torch.long, device=self.device)
        for row, tokens in enumerate(ids):
            padded[row, : len(tokens)] = torch.tensor(tokens)
        mask = torch.arange(padded.shape[1], device=self.device) < lengths[:, None]
        hidden = self.trunk(input_ids=padded, attention_mask=mask.long()).last_hidden_state  # (n, T, d)
        pooled = (hidden * mask[..., None]).sum(1) / lengths[:, None]
        return torch.nn.functional.normalize(pooled)

    def lexical(self, ids: Iterable[int], unknown: Iterable[str] = ()) -> Tensor:
        """(L,) float32 unit vector of a set of word pieces, and of words that have none."""
        total = np.zeros(LEXICAL_DIM)
        for word in sorted(set(unknown)):
            total += self._rarest * _direction(*np.frombuffer(hashlib.sha256(word.encode()).digest()[:16], "<u4").tolist())
        for piece in sorted(set(ids) - self._special):
            total += float(self.idf[piece]) * _direction(piece)
        norm = float(np.linalg.norm(total))
        return torch.from_numpy(total / norm if norm > 0 else total).float()


def read(folder: Path) -> tuple[Any, Any]:
    """The frozen encoder, in eval mode, and its tokenizer."""
    from transformers import AutoModel, AutoTokenizer

    trunk = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32, add_pooling_layer=False)
    return trunk.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def unknown_words(tokenizer: Any, text: str, ids: Sequence[int]) -> frozenset[str]:
    """The words of a text, case folded, that the tokenizer has no pieces for; `ids`: its pieces."""
    if tokenizer.unk_token_id not in ids:
        return frozenset()
    found = tokenizer(text, truncation=True, max_length=len(ids), return_offsets_mapping=True)
    pieces = zip(found["input_ids"], found["offset_mapping"], strict=True)
    return frozenset(text[begin:end].casefold() for piece, (begin, end) in pieces if piece == tokenizer.unk_token_id)


def _direction(*seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The fixed random direction (L,) of a word piece, or of the digest of a word. NumPy freezes `RandomState`'s streams, so stored
    keys stay valid. It is drawn each time, in 17 µs: a cache of the vocabulary takes 130 MB, and would know words that are forgotten."""
    with _DRAWING:
        _STREAM.seed([SEED, *seed])
        drawn: np.ndarray[Any, np.dtype[np.float64]] = _STREAM.standard_normal(LEXICAL_DIM)
    drawn /= LEXICAL_DIM**0.5
    return drawn


def inverse_document_frequency(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """(V,) float32: log((1 + n) / (1 + df)) of each word piece over n texts."""
    counts = np.zeros(len(tokenizer))
    for start in range(0, len(texts), 1024):
        for ids in tokenizer(list(texts[start : start + 1024]), add_special_tokens=False, truncation=True, max_length=256)["input_ids"]:
            counts[list(set(ids))] += 1
    return torch.from_numpy(np.log((1 + len(texts)) / (1 + counts))).float()
