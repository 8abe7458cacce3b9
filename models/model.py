"""The loaded model: encoder, value code, prefix and decoder, used as one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from models.adapter import Adapter
from models.code import SlotCode
from models.device import pick
from models.encoder import Encoder
from models.engine.decoder import Decoder, Forced, Generation, Sampling
from models.engine.pointer import Pointer, listed
from models.engine.sequence import TextSequence
from models.errors import EmptyText, ModelError, PromptTooLong, TargetTooLong
from models.model_files import Parts, ScopeParts
from models.scope.reader import statement
from models.scope.script import ReadBy, Script
from models.scope.sentences import clean, questions, split

MAX_FACT_PROMPT_TOKENS = 256  # the encoder reads no more
LATIN_END = "\u0250"  # the first letter beyond the Latin ones, which are written with spaces between words
ANSWERS = 3  # of facts that one text says at most
PIECES = 4  # prefixes of a target at most, one behind the other, each of as many tokens as the adapter has positions


Readouts = Tensor | Sequence[Tensor] | None  # of one fact, of several, or of none


def silent(_: str) -> None:
    """Say nothing."""


def hush() -> None:
    """transformers shows progress bars and reports unused weights (the encoder's pooler) on the terminal; not here."""
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers'
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Prompt:
    """A prompt, room for its answer, and the sentences that may ask for a fact."""

    prompt: str
    max_new_tokens: int
    sentences: tuple[str, ...]
    before: str = ""


class EncodedFact(NamedTuple):
    """Address key (D,), value code (W,) and, of a model with a reader, statement key (S,); float32, on the CPU."""

    key: Tensor
    code: Tensor
    statement: Tensor | None = None


class EncodedQuery(NamedTuple):
    """A text that may ask for a fact, its address key (D,) and, of a model with a reader, its statement key (S,)."""

    text: str
    key: Tensor
    statement: Tensor | None = None


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """A prompt's token ids, and its sentences."""

    tokens: list[int]
    queries: tuple[EncodedQuery, ...]


def asked_by(prompt: str) -> dict[str, int | None]:
    """The texts of a prompt that may ask for a fact; with the number of its question, where the prompt asks several."""
    texts: dict[str, int | None] = dict.fromkeys(split(prompt))
    return texts | {text: number for number, text in enumerate(questions(prompt))}


class Model:
    """One frozen decoder with everything the memory needs around it. Used from one thread at a time.

    Args:
        encoder, decoder, adapter: loaded parts that belong together (Adapter.check).
        scope: what decides whether a fact is asked for; None: likeness and words alone.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, adapter: Adapter, scope: ScopeParts | None = None) -> None:
        self.encoder, self.decoder, self.adapter, self.scope = encoder, decoder, adapter, scope
        self.script = Script(encoder.tokenizer)
        self.prefix = adapter.prefix.to(decoder.device)
        decoder.read_ahead(self.prefix.opening)
        self.code = SlotCode(adapter.mean, adapter.projection, decoder.embedding.weight, PIECES * len(adapter.prefix.position))
        self.name, self.device = decoder.name, decoder.device
        self.key_dim = encoder.key_dim
        self.max_prompt_tokens, self.max_target_tokens = MAX_FACT_PROMPT_TOKENS, self.code.max_slots
        self.context_tokens = decoder.context_tokens
        self.longest_prefix = ANSWERS * PIECES * sum(map(len, (self.prefix.opening, self.prefix.position, self.prefix.closing)))
        digest = hashlib.sha256(f"{decoder.fingerprint}{encoder.fingerprint}".encode())
        for tensor in adapter.fingerprint_parts:
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        self.fingerprint = digest.hexdigest()

    @classmethod
    def load(
        cls,
        decoder: str,
        adapter: Path | None,
        device: str,
        cache: Path,
        say: Callable[[str], None] = silent,
        *,
        update: Path | None = None,
        reader: str = "",
        release: bool = True,
    ) -> Model:
        """Locate, check and load all parts.

        Args:
            decoder: registered name, folder or hub name.
            adapter: file; None is the shipped one.
            device: `auto`, `cpu`, `cuda`, `cuda:N`.
            cache: folder of converted weights.
            say: told about long steps.
            update: file of the encoder's low-rank update; None is the shipped one.
            reader: what decides whether a fact is asked for: a registered name, or a folder with a cross-encoder; empty for none.
            release: free what only transformers' own forward needs (Decoder.release).

        Raises:
            WeightsMissing, AdapterMissing, AdapterCorrupt, AdapterMismatch; ValueError for the device.
        """
        where = pick(device)
        hush()
        found = Parts.find(decoder, adapter, update, reader, cache, say)
        say(f"loading {decoder} on {where}")
        of, fitted = found.encoder, found.adapter
        encoder = Encoder.load(of.folder, where, idf=fitted.idf, fingerprint=of.fingerprint, update=found.update)
        loaded = Decoder.load(found.decoder.folder, where, fingerprint=found.decoder.fingerprint, name=decoder)
        if release:
            loaded.release()
        return cls(encoder, loaded, fitted, found.scope(where))

    def encode_fact(self, prompt: str, target: str) -> EncodedFact:
        """A fact's keys and value code.

        Raises:
            EmptyText, PromptTooLong, TargetTooLong
        """
        (outcome,) = self.encode_facts([(prompt, target)])
        if isinstance(outcome, ModelError):
            raise outcome
        return outcome

    def encode_facts(self, facts: Sequence[tuple[str, str]]) -> list[EncodedFact | ModelError]:
        """As `encode_fact`, for several (prompt, target) with one forward pass; what is wrong with a fact stands in its place."""
        codes = [self._encode_target(prompt, target) for prompt, target in facts]
        good = [fact for fact, code in zip(facts, codes, strict=True) if isinstance(code, Tensor)]
        keys = iter(self.encoder.keys([clean(prompt) for prompt, _ in good]) if good else ())
        statements = iter(self._statement_keys([statement(clean(prompt), target.strip()) for prompt, target in good]))
        return [EncodedFact(next(keys), code, next(statements)) if isinstance(code, Tensor) else code for code in codes]

    def _statement_keys(self, texts: Sequence[str]) -> Sequence[Tensor | None]:
        """(S,) of each text; None without a reader."""
        return list(self.scope.statements.meanings(texts)) if self.scope is not None and texts else [None] * len(texts)

    def _encode_target(self, prompt: str, target: str) -> Tensor | ModelError:
        if not any(map(str.isalnum, clean(prompt))):  # the encoder knows no other signs apart, and finds them alike with anything
            return EmptyText("prompt", "letter or digit")
        if not target.strip():
            return EmptyText("target")
        tokens = self.decoder.answer_tokens(target.strip())
        if len(tokens) > self.max_target_tokens:
            return TargetTooLong(len(tokens), self.max_target_tokens)
        pieces = len(self.encoder.tokenizer(prompt)["input_ids"])
        if pieces > self.max_prompt_tokens:
            return PromptTooLong("prompt", pieces, self.max_prompt_tokens)
        return self.code.encode(tokens)

    def encode_prompts(self, prompts: Sequence[Prompt]) -> list[EncodedPrompt | ModelError]:
        """Token ids of prompts, and the address keys of what they ask, with one forward pass for all."""
        tokens = [self._prompt_tokens(asked.prompt, asked.max_new_tokens) for asked in prompts]
        good = [asked for asked, ids in zip(prompts, tokens, strict=True) if not isinstance(ids, ModelError)]
        sentences = [(sentence, asked.before) for asked in good for sentence in asked.sentences]
        queries = iter(self.encode_texts([sentence for sentence, _ in sentences], [before for _, before in sentences]))
        return [
            ids if isinstance(ids, ModelError) else EncodedPrompt(ids, tuple(islice(queries, len(asked.sentences))))
            for asked, ids in zip(prompts, tokens, strict=True)
        ]

    def encode_texts(self, texts: Sequence[str], before: Sequence[str] = ()) -> list[EncodedQuery]:
        """Texts that may ask for a fact, with their keys. A statement key is that of the text behind the turns before it, of which the
        address key knows nothing: a question may lean on them, or begin anew."""
        if not texts:
            return []
        whole = [f"{said} {text}" if said else text for said, text in zip(before or [""] * len(texts), texts, strict=True)]
        return list(map(EncodedQuery, texts, self.encoder.keys(texts), self._statement_keys(whole)))

    def encode_query(self, prompt: str) -> list[tuple[str, Tensor, int | None, Tensor | None]]:
        """The prompt's sentences, each with its address key (D,) float32, where the prompt asks several questions the number of its
        question, and its statement key. Raises EmptyText."""
        if not prompt.strip():
            raise EmptyText("prompt")
        texts = asked_by(prompt)
        return [(query.text, query.key, texts[query.text], query.statement) for query in self.encode_texts(list(texts))]

    def read_by(self, prompt: str) -> ReadBy:
        """By what a query finds a fact with this prompt, or this query a fact. Any thread may ask."""
        return self.script.read_by(clean(prompt))

    def read_code(self, code: Tensor) -> str:
        """A readout as text: what the clean-up makes of it."""
        return self.decoder.text(self.code.clean(code)).strip()

    @torch.inference_mode()
    def conditioning(self, readouts: Readouts) -> tuple[Tensor | None, Pointer | None]:
        """What readouts (W,) do to a text: their prefixes (P, d), one after the other, and the pointer that holds the text to them;
        nothing if none holds a token. What is longer than a prefix takes several."""
        readouts = () if readouts is None else (readouts,) if isinstance(readouts, Tensor) else readouts
        answers = [tokens for readout in readouts if (tokens := self.code.clean(readout))]
        if not answers:
            return None, None
        size = len(self.adapter.prefix.position)
        pieces = [tokens[at : at + size] for tokens in answers for at in range(0, len(tokens), size)]
        return torch.cat([self.prefix(self.decoder.embed(tokens)) for tokens in pieces]), self._pointer(answers)

    def _pointer(self, answers: Sequence[Sequence[int]]) -> Pointer:
        said = listed([self.decoder.text(tokens).strip() for tokens in answers])
        joined = self.decoder.joined if said[-1:].isalnum() and said[-1] < LATIN_END else None
        # An answer follows a space, or after a line break or a chat template's turn nothing.
        return Pointer((self.decoder.answer_tokens(said, lead) for lead in (" ", "")), joined)

    def prompt_tokens(self, prompt: str, max_new_tokens: int) -> list[int]:
        """Token ids of a prompt that leaves room for the text and the prefixes of as many and as long answers as there may be.

        Raises:
            EmptyText, PromptTooLong
        """
        tokens = self._prompt_tokens(prompt, max_new_tokens)
        if isinstance(tokens, ModelError):
            raise tokens
        return tokens

    def _prompt_tokens(self, prompt: str, max_new_tokens: int) -> list[int] | ModelError:
        if not prompt.strip():
            return EmptyText("prompt")
        tokens = self.decoder.tokens(prompt)
        room = self.context_tokens - max_new_tokens - self.longest_prefix
        return tokens if len(tokens) <= room else PromptTooLong("prompt", len(tokens), room)

    def room(self, tokens: Sequence[int]) -> int:
        """How many tokens the context has room for after a prompt's, whatever the memory says to it."""
        return self.context_tokens - len(tokens) - self.longest_prefix

    def sequence(self, tokens: Sequence[int], code: Readouts, sampling: Sampling) -> TextSequence:
        """A prompt's tokens, with a readout's prefix or without one, ready to join a batch of the decoder."""
        prefix, pointer = self.conditioning(code)
        return self.decoder.sequence(tokens, prefix, sampling, pointer)

    def generate(self, prompt: str, *, code: Readouts = None, sampling: Sampling | None = None) -> Generation:
        """Generate after a prompt, with the prefix of a readout or of several or, without one, as the plain model.

        Raises:
            EmptyText, PromptTooLong
        """
        return self.generate_batch([prompt], [code], sampling)[0]

    def generate_batch(self, prompts: Sequence[str], codes: Sequence[Readouts], sampling: Sampling | None = None) -> list[Generation]:
        """As `generate`, for several prompts in one padded batch."""
        sampling = sampling or Sampling()
        tokens = [self.prompt_tokens(p, sampling.max_new_tokens) for p in prompts]
        prefixes, pointers = zip(*map(self.conditioning, codes), strict=True)
        return self.decoder.generate(tokens, prefixes, [sampling] * len(prompts), pointers)

    def force_batch(self, prompts: Sequence[str], targets: Sequence[str], codes: Sequence[Readouts]) -> list[Forced]:
        """Score targets after prompts, teacher-forced."""
        return self.decoder.force(
            [self.decoder.tokens(p) for p in prompts],
            [self.decoder.answer_tokens(t.strip()) for t in targets],
            *zip(*map(self.conditioning, codes), strict=True),
        )
