"""How the next token is chosen, and what a generation is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen and when they end.

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus (Holtzman et al. 2020); 1 keeps all.
        top_k: how many of the likeliest tokens are kept; 0 keeps all.
        seed: the same seed gives the same text in any batch; None draws one.
        stop: texts that end the generation; they are not part of it.
        answer_only: end where a fact of the memory has been said; without one it changes nothing.
        logprobs: how many alternatives each token's log-probabilities name; None gives no log-probabilities.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_k: int = 0
    logprobs: int | None = None
    answer_only: bool = False


@dataclass(frozen=True)
class TokenLogProb:
    """A chosen token's log-probability under the model (temperature 1), and the likeliest tokens with theirs."""

    token_id: int
    log_prob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Generation:
    """What was generated, and what it took."""

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    finish_reason: FinishReason
    first_token_s: float
    total_s: float
    log_probs: tuple[TokenLogProb, ...] = ()

    @property
    def completion_tokens(self) -> int:
        return len(self.token_ids)


def generator_of(sampling: Sampling) -> torch.Generator | None:
    """The random stream of one request: its own, so that it does not depend on who shares its batch."""
    if sampling.temperature == 0:
        return None
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    return generator


def sample(logits: Tensor, sampling: Sampling, generator: torch.Generator | None) -> int:
    """Draw one token from (V,) logits by temperature, top-k and nucleus."""
    shifted = (logits - logits.max()).double() / sampling.temperature  # however low, it overflows to -inf only, never to NaN
    probabilities = shifted.softmax(-1).to(logits.dtype)
    ordered, ids = probabilities.sort(descending=True, stable=True)
    kept = ordered.cumsum(0) - ordered < sampling.top_p
    kept[0] = True  # however small top_p
    if sampling.top_k:
        kept[sampling.top_k :] = False
    return int(ids[torch.multinomial(ordered * kept, 1, generator=generator)])


def log_prob(logits: Tensor, token: int, alternatives: int) -> TokenLogProb:
    """The log-probability of a token under (V,) logits, beside the `alternatives` likeliest."""
    log_probs = logits.log_softmax(-1)
    values, ids = log_probs.topk(min(alternatives, len(logits)))
    return TokenLogProb(token, float(log_probs[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))
