"""The frozen decoder: any causal language model of transformers, loaded once, never changed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from models.device import fast_dtype


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; temperature 0 is greedy."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generation:
    """What was generated, and what it took."""

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    finish_reason: Literal["stop", "length"]
    first_token_s: float
    total_s: float

    @property
    def completion_tokens(self) -> int:
        return len(self.token_ids)


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


@dataclass
class _Row:
    """One sequence of a batch while it is being generated."""

    sampling: Sampling
    generator: torch.Generator | None
    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish: Literal["stop", "length"] | None = None
    first_token_s: float = 0.0


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
        self.end_ids = frozenset(ends if isinstance(ends, list) else [ends]) - {None} | {tokenizer.eos_token_id}

    @classmethod
    def load(cls, folder: Path, device: torch.device, *, fingerprint: str, name: str) -> Decoder:
        """Load from a folder with safetensors and tokenizer files, in the dtype the device does best."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=fast_dtype(device), local_files_only=True, attn_implementation="sdpa"
        )
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

    def chat(self, messages: list[dict[str, str]]) -> str:
        """Messages in the decoder's chat template, ready for the assistant's turn."""
        out: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
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

    def _inputs(self, prompts: Sequence[Sequence[int]], prefixes: Sequence[Tensor | None]) -> list[Tensor]:
        rows = []
        for ids, prefix in zip(prompts, prefixes, strict=True):
            e = self.embed(ids)
            rows.append(e if prefix is None else torch.cat([prefix.to(e), e]))
        return rows

    @torch.inference_mode()
    def force(
        self, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], prefixes: Sequence[Tensor | None]
    ) -> list[Forced]:
        """Score targets after prompts, teacher-forced, as one right-padded batch."""
        rows = self._inputs([[*p, *t] for p, t in zip(prompts, targets, strict=True)], prefixes)
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (B, T, d)
        lengths = torch.tensor([len(r) for r in rows], device=self.device)
        mask = torch.arange(padded.shape[1], device=self.device) < lengths[:, None]
        hidden = self.hidden(padded, None if len(rows) == 1 else mask, use_cache=False).last_hidden_state
        out = []
        for row, (length, target) in enumerate(zip(lengths.tolist(), targets, strict=True)):
            logits = self.logits(hidden[row, length - len(target) - 1 : length - 1])  # (n, V)
            wanted = torch.as_tensor(target, device=self.device)
            log_probs = logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0]
            out.append(Forced(log_probs.cpu(), (logits.argmax(-1) == wanted).cpu()))
        return out

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[int]], prefixes: Sequence[Tensor | None], samplings: Sequence[Sampling]
    ) -> list[Generation]:
        """Generate for a left-padded batch. A batch of one carries no padding and no mask: the plain model's path."""
        started = time.perf_counter()
        inputs = self._inputs(prompts, prefixes)
        longest = max(len(r) for r in inputs)
        embeddings = torch.stack([torch.nn.functional.pad(r, (0, 0, longest - len(r), 0)) for r in inputs])
        mask = torch.stack([torch.arange(longest, device=self.device) >= longest - len(r) for r in inputs])
        rows = [_Row(s, None if s.seed is None else torch.Generator().manual_seed(s.seed)) for s in samplings]
        masked = len(rows) > 1
        cache = None
        for _ in range(max(s.max_new_tokens for s in samplings)):
            out = self.hidden(embeddings, mask if masked else None, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            logits = self.logits(out.last_hidden_state[:, -1])  # (B, V)
            chosen = self._choose(rows, logits)
            for row, token in zip(rows, chosen, strict=True):
                row.first_token_s = row.first_token_s or time.perf_counter() - started
                self._extend(row, token)
            if all(row.finish for row in rows):
                break
            embeddings = self.embed(torch.tensor(chosen))[:, None]
            mask = torch.nn.functional.pad(mask, (0, 1), value=True)
        total_s = time.perf_counter() - started
        return [
            Generation(row.text, tuple(row.ids), len(prompt), row.finish or "length", row.first_token_s, total_s)
            for row, prompt in zip(rows, prompts, strict=True)
        ]

    def _choose(self, rows: Sequence[_Row], logits: Tensor) -> list[int]:
        greedy: list[int] = logits.argmax(-1).tolist()
        return [
            sample(logits[i].cpu(), row.sampling, row.generator) if row.sampling.temperature > 0 else greedy[i]
            for i, row in enumerate(rows)
        ]

    def _extend(self, row: _Row, token: int) -> None:
        if row.finish:
            return
        if token in self.end_ids:
            row.finish = "stop"
            return
        row.ids.append(token)
        row.text = self.text(row.ids)
        cuts = [at for s in row.sampling.stop if (at := row.text.find(s)) >= 0]
        if cuts:
            row.text, row.finish = row.text[: min(cuts)], "stop"
        elif len(row.ids) >= row.sampling.max_new_tokens:
            row.finish = "length"


def sample(logits: Tensor, sampling: Sampling, generator: torch.Generator | None) -> int:
    """Draw one token from (V,) logits by temperature and nucleus (Holtzman et al. 2020)."""
    probabilities = (logits / sampling.temperature).softmax(-1)
    ordered, ids = probabilities.sort(descending=True)
    kept = ordered.cumsum(0) - ordered < sampling.top_p  # the first token is always kept
    return int(ids[torch.multinomial(ordered * kept, 1, generator=generator)])
