"""One text in the making."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from models.engine.pointer import Pointer
from models.engine.sampling import FinishReason, Generation, Sampling, TokenLogProb, generator_of, log_prob, sample

UNFINISHED = "\ufffd"  # what an incomplete character decodes to


@dataclass(frozen=True, eq=False)
class Ahead:
    """What many texts begin with, read once for all of them.

    Attributes:
        embeddings: (k, d) of it.
        cache: the trunk's, after it.
    """

    embeddings: Tensor
    cache: Any


class TextSequence:
    """A prompt, and what is generated after it, token by token.

    Args:
        embeddings: (T, d) of prefix and prompt.
        prompt_tokens: how many tokens of them are the prompt's.
        sampling: how to go on.
        decode: token ids to text.
        ends: ids of tokens that end a text.
        pointer: holds the text to the readouts that its prefix says.
        alone: ids of what has been said to the embeddings (T, d) of the prompt and it, without the prefix. When the pointer
            has said its answer and the text does not end there, the memory has no more to say: the prefix is let go, and
            what follows is the decoder's own continuation of prompt and answer.
        ahead: what the embeddings begin with, where that has been read before.
    """

    def __init__(
        self,
        embeddings: Tensor,
        prompt_tokens: int,
        sampling: Sampling,
        decode: Callable[[Sequence[int]], str],
        ends: frozenset[int],
        pointer: Pointer | None = None,
        alone: Callable[[Sequence[int]], Tensor] | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        self.unread, self.prompt_tokens, self.sampling = embeddings[len(ahead.embeddings) if ahead else 0 :], prompt_tokens, sampling
        self.ahead, self.capacity = ahead, len(embeddings) + sampling.max_new_tokens
        self.cache: Any = None
        self.ids: list[int] = []
        self.text = ""
        self.finish: FinishReason | None = None
        self.error: Exception | None = None  # what broke it, and no other
        self.log_probs: list[TokenLogProb] = []
        self._decode, self._ends, self._pointer, self._alone = decode, ends, pointer, alone
        self._generator = generator_of(sampling)
        self._started = time.perf_counter()
        self._first_token_s = self._total_s = 0.0

    @property
    def settled(self) -> str:
        """The part of the text that no later token changes: no half character, nothing that may begin a stop text."""
        if self.finish:
            return self.text
        settled = self.text.rstrip(UNFINISHED)
        held = 0
        for stop in self.sampling.stop:
            for length in range(min(len(stop) - 1, len(settled)), held, -1):
                if settled.endswith(stop[:length]):
                    held = length
                    break
        return settled[: len(settled) - held].rstrip(UNFINISHED)

    def extend(self, logits: Tensor, greedy: int) -> None:
        """Take the next token, given (V,) logits and their argmax; or let the prefix go, and have `unread` again."""
        asked = self.sampling
        if self._alone and self._pointer and self._pointer.done and greedy not in self._ends:
            self.unread, self.cache, self.ahead, self._alone = self._alone(self.ids), None, None, None
            return
        if self._pointer is not None and (pointed := self._pointer.apply(logits)) is not logits:
            logits, greedy = pointed, int(pointed.argmax())
        token = greedy
        if asked.temperature > 0:
            token = sample(logits.cpu(), asked, self._generator)
        elapsed_s = time.perf_counter() - self._started
        self._first_token_s, self._total_s = self._first_token_s or elapsed_s, elapsed_s
        if token in self._ends:
            self._end("stop")
            return
        self.ids.append(token)
        if self._pointer is not None:
            self._pointer.advance(token)
        if asked.logprobs is not None:
            self.log_probs.append(log_prob(logits, token, asked.logprobs))
        self.text = self._decode(self.ids)
        cuts = [at for stop in asked.stop if (at := self.text.find(stop)) >= 0]
        if cuts:
            self.text = self.text[: min(cuts)]
            self._end("stop")
        elif asked.answer_only and self._pointer is not None and self._pointer.done:
            self._end("stop")
        elif len(self.ids) >= asked.max_new_tokens:
            self._end("length")

    def _end(self, reason: FinishReason) -> None:
        """A last character whose bytes are not all there is no part of the text."""
        self.text, self.finish = self.text.rstrip(UNFINISHED), reason

    @property
    def generation(self) -> Generation:
        """What is there so far."""
        return Generation(
            self.text,
            tuple(self.ids),
            self.prompt_tokens,
            self.finish or "length",
            self._first_token_s,
            self._total_s,
            tuple(self.log_probs),
        )
