"""The frozen decoder: any causal language model of transformers, loaded once, never changed."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor

from models.device import fast_dtype
from models.engine import float32_attention
from models.engine.batch import Batch
from models.engine.pointer import Pointer
from models.engine.sampling import Generation, Sampling
from models.engine.sequence import Ahead, TextSequence
from models.engine.trunk import Trunk, trunk_of
from models.errors import ChatRefused

__all__ = ["Decoder", "Forced", "Generation", "Sampling"]

# Byte-level vocabularies write a letter of more than one byte by its first byte: Ã, Ä and Å begin the accented Latin ones.
_IN_WORD = re.compile("[A-Za-z0-9ÃÄÅ]")
_FALLBACK = re.compile("<0x([0-9A-F]{2})>")  # a byte, in vocabularies of pieces


def _byte_letters() -> dict[str, int]:
    """The letter that a byte-level vocabulary writes for each byte (Radford et al. 2019): its own, or the next from 256 on."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_letters()


@dataclass(frozen=True)
class Forced:
    """A target forced after a prompt: log-probability and greedy agreement of each of its tokens."""

    log_probs: Tensor  # (n,) float32
    greedy: Tensor  # (n,) bool

    @property
    def exact(self) -> bool:
        return bool(self.greedy.all())

    @property
    def mean_log_prob(self) -> float:
        return float(self.log_probs.mean())


class Decoder:
    """A causal language model and its tokenizer.

    Args:
        model: a transformers causal LM in eval mode.
        tokenizer: its tokenizer.
        fingerprint: SHA-256 of its weights, which adapters are checked against.
        name: what the user called it.
    """

    def __init__(self, model: Any, tokenizer: Any, *, fingerprint: str, name: str) -> None:
        self.model, self.tokenizer = model.requires_grad_(False), tokenizer
        self.fingerprint, self.name = fingerprint, name
        self.embedding: Any = model.get_input_embeddings()
        self.head: Any = model.get_output_embeddings()
        self.device: torch.device = self.embedding.weight.device
        self.dtype: torch.dtype = self.embedding.weight.dtype
        self.width: int = self.embedding.weight.shape[1]
        self.context_tokens: int = int(getattr(model.config, "max_position_embeddings", 2048))
        ends = model.generation_config.eos_token_id
        self.opening: list[int] = tokenizer("")["input_ids"]  # what begins every text (BOS), if anything does
        self.end_ids = frozenset(ends if isinstance(ends, list) else [ends]) - {None} | {tokenizer.eos_token_id}
        self._ahead: Ahead | None = None

    @classmethod
    def load(cls, folder: Path, device: torch.device, *, fingerprint: str, name: str, dtype: torch.dtype | None = None) -> Decoder:
        """Load from a folder with safetensors and tokenizer files.

        Args:
            dtype: None is the one that the device serves best.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        dtype = dtype or fast_dtype(device)
        kind = float32_attention.register() if device.type == "cpu" and dtype == torch.bfloat16 else "sdpa"
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, attn_implementation=kind)
        return cls(model.to(device).eval(), tokenizer, fingerprint=fingerprint, name=name)

    def tokens(self, text: str) -> list[int]:
        """Prompt to token ids. Special tokens written in the text stay text, except those of the chat template."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    def answer_tokens(self, target: str, lead: str = " ") -> list[int]:
        """A target as it follows a prompt; nothing in it is read as a special token."""
        ids: list[int] = self.tokenizer(lead + target, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def text(self, token_ids: Sequence[int]) -> str:
        out: str = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return out

    def token_bytes(self, token_id: int) -> bytes:
        """A token's own bytes in a text, which may be part of a character; none of a special token."""
        text, piece = self.text([token_id]), str(self.tokenizer.convert_ids_to_tokens(token_id))
        if "\ufffd" in text:
            if byte := _FALLBACK.fullmatch(piece):
                return bytes.fromhex(byte[1])
            if all(letter in _BYTES for letter in piece):
                return bytes(_BYTES[letter] for letter in piece)
        elif piece.startswith("▁") and not text.startswith(" "):  # decoding takes the first blank of a text away
            return b" " + text.encode()
        return text.encode()

    @cached_property
    def joined(self) -> Tensor:
        """(V,) bool: tokens that begin in the middle of a Latin word or a number, without a space before them."""
        found = torch.zeros(self.embedding.weight.shape[0], dtype=torch.bool)
        known = self.tokenizer.convert_ids_to_tokens(range(min(len(self.tokenizer), len(found))))
        found[: len(known)] = torch.tensor([bool(token and _IN_WORD.match(token)) for token in known])
        return found.to(self.device)

    def chat(self, messages: list[dict[str, str]]) -> str:
        """Messages in the decoder's chat template, ready for the assistant's turn. Raises ChatRefused."""
        try:
            out: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise ChatRefused(f"messages: {str(error)[:200]}") from error
        return out

    def embed(self, token_ids: Sequence[int] | Tensor) -> Tensor:
        """(n,) token ids to (n, d) input embeddings, scaled as the model scales them."""
        ids = torch.as_tensor(token_ids, dtype=torch.long, device=self.device)
        out: Tensor = self.embedding(ids)
        return out

    def hidden(self, embeddings: Tensor, mask: Tensor | None = None, **kwargs: Any) -> Any:
        """Run the trunk on (B, T, d) input embeddings; mask (B, T) bool, True where there is a token."""
        if mask is not None:
            kwargs["attention_mask"] = mask.long()
            kwargs["position_ids"] = (mask.long().cumsum(1) - 1).clamp_min(0)[:, -embeddings.shape[1] :]
        return self.model.base_model(inputs_embeds=embeddings, **kwargs)

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, d) trunk outputs to (…, V) float32 logits."""
        out: Tensor = self.head(hidden.to(self.dtype)).float()
        return out

    def inputs(self, token_ids: Sequence[int], prefix: Tensor | None = None) -> Tensor:
        """(n,) token ids of a text, and a prefix (P, d), to (P + n, d) input embeddings.

        The prefix stands behind the tokens that begin every text: decoders that were trained with such tokens expect them first.
        """
        e = self.embed(token_ids)
        if prefix is None:
            return e
        first = len(self.opening) if list(token_ids[: len(self.opening)]) == self.opening else 0
        return torch.cat([e[:first], prefix.to(e), e[first:]])

    @torch.inference_mode()
    def force(
        self,
        prompts: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        prefixes: Sequence[Tensor | None],
        pointers: Sequence[Pointer | None] | None = None,
    ) -> list[Forced]:
        """Score targets after prompts, teacher-forced, by the trunk that generates."""
        out = []
        rows = [self.inputs([*p, *t], prefix) for p, t, prefix in zip(prompts, targets, prefixes, strict=True)]
        for row, target, pointer in zip(rows, targets, pointers or [None] * len(rows), strict=True):
            hidden = self.trunk.extend(row, self.trunk.cache(len(row)))  # (T, d)
            logits = self.trunk.logits(hidden[-len(target) - 1 : -1])  # (n, V)
            if pointer is not None:
                logits = torch.stack([_pointed(pointer, *said) for said in zip(logits, target, strict=True)])
            wanted = torch.as_tensor(target, device=self.device)
            log_probs = logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0]
            out.append(Forced(log_probs.cpu(), (logits.argmax(-1) == wanted).cpu()))
        return out

    def release(self) -> None:
        """Keep what generation and scoring need only: the trunk has the weights packed, training would need the model's own."""
        self.trunk.release(self.model)
        with contextlib.suppress(OSError, AttributeError):  # glibc keeps freed memory for later, 0.4 GB of it here
            ctypes.CDLL(None).malloc_trim(0)

    @cached_property
    def trunk(self) -> Trunk:
        """The layers as generation runs them; packed at the first use."""
        return trunk_of(self.model)

    def sequence(self, prompt: Sequence[int], prefix: Tensor | None, sampling: Sampling, pointer: Pointer | None = None) -> TextSequence:
        """A prompt, with an optional prefix (P, d) and its pointer, ready to join a batch."""
        with torch.inference_mode():
            embeddings = self.inputs(prompt, prefix)
        alone = None if prefix is None else lambda said: self.embed([*prompt, *said])
        ahead = self._ahead if prefix is not None and self._ahead and _begins(embeddings, self._ahead.embeddings) else None
        return TextSequence(embeddings, len(prompt), sampling, self.text, self.end_ids, pointer, alone, ahead)

    @torch.inference_mode()
    def read_ahead(self, constants: Tensor) -> None:
        """Read (k, d) soft tokens, as every text's prefix begins with them: those texts do not read them again."""
        embeddings = self.inputs(self.opening, constants)
        cache = self.trunk.cache(len(embeddings))
        self.trunk.extend(embeddings, cache)
        self._ahead = Ahead(embeddings, cache)

    def batch(self) -> Batch:
        """An empty batch that sequences join and leave."""
        return Batch(self.trunk, self.embed)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        prefixes: Sequence[Tensor | None],
        samplings: Sequence[Sampling],
        pointers: Sequence[Pointer | None] | None = None,
    ) -> list[Generation]:
        """Generate for several prompts together; each says what it says alone."""
        batch = self.batch()
        sequences = [self.sequence(*row) for row in zip(prompts, prefixes, samplings, pointers or [None] * len(prompts), strict=True)]
        for sequence in sequences:
            batch.add(sequence)
        while len(batch):
            for sequence in batch.step():
                if sequence.error:
                    raise sequence.error
        return [sequence.generation for sequence in sequences]


def _begins(embeddings: Tensor, ahead: Tensor) -> bool:
    """Whether a text begins so, and goes on."""
    return len(embeddings) > len(ahead) and torch.equal(embeddings[: len(ahead)], ahead)


def _pointed(pointer: Pointer, logits: Tensor, token: int) -> Tensor:
    """The (V,) logits that `token` is chosen from."""
    pointed = pointer.apply(logits)
    pointer.advance(token)
    return pointed
