"""The decoder's layers as generation runs them: one cache for each sequence, one step for many sequences."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Trunk(Protocol):
    """What generation needs of a decoder. A row's bits do not depend on which other rows share its step."""

    def cache(self, capacity: int, ahead: Any = None) -> Any:
        """A cache for one sequence of at most `capacity` tokens, empty or with all that another one has read."""

    def extend(self, embeddings: Tensor, cache: Any) -> Tensor:
        """Read (T, d) embeddings into one sequence's cache; outputs (T, d)."""

    def step(self, embeddings: Tensor, caches: Sequence[Any]) -> Tensor:
        """Read one embedding (B, d) into each of B sequences; outputs (B, d)."""

    def logits(self, hidden: Tensor) -> Tensor:
        """(B, d) outputs to (B, V) float32 logits."""

    def release(self, model: Any) -> None:
        """Free what the model holds and this trunk has copied."""


class TransformersTrunk:
    """Any causal LM by transformers' own forward, one sequence after the other: its tokens are those of `generate`."""

    def __init__(self, model: Any) -> None:
        self._trunk, self._head = model.base_model, model.get_output_embeddings()

    def cache(self, capacity: int, ahead: Any = None) -> Any:  # noqa: ARG002  (it grows)
        from transformers import DynamicCache

        return DynamicCache(config=self._trunk.config) if ahead is None else copy.deepcopy(ahead)

    def extend(self, embeddings: Tensor, cache: Any) -> Tensor:
        out: Tensor = self._trunk(inputs_embeds=embeddings[None], past_key_values=cache, use_cache=True).last_hidden_state
        return out[0]

    def step(self, embeddings: Tensor, caches: Sequence[Any]) -> Tensor:
        return torch.cat([self.extend(row[None], cache) for row, cache in zip(embeddings, caches, strict=True)])

    def logits(self, hidden: Tensor) -> Tensor:
        return torch.cat([self._head(row[None]) for row in hidden]).float()

    def release(self, model: Any) -> None:
        """Nothing is copied."""


def trunk_of(model: Any) -> Trunk:
    """The fastest trunk for a transformers causal LM."""
    from models.engine.llama import LlamaTrunk

    return LlamaTrunk(model) if LlamaTrunk.fits(model) else TransformersTrunk(model)
