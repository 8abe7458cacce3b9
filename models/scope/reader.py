"""The reader: one model reads what is asked beside one fact and says whether the fact answers it.

A cross-encoder (Nogueira and Cho 2019, arXiv 1901.04085) on a public sentence encoder. It reads

    <s> turns before </s> question </s></s> fact </s>

and from the outputs h of the last layer gives, for each pair,

    answers   log-odds that the fact answers the question, fully and without doubt
    same      log-odds that the two texts ask the same (a question beside a fact's prompt)
    span      for each piece of the fact, scores that the words which answer begin and end there

The head sees (h₀, u, v, u·v, |u − v|), u and v the means over the question's and the fact's pieces (Reimers and Gurevych
2019, arXiv 1908.10084). The update of the public weights has low rank and is shipped; the public weights are not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from models import archive
from models.errors import AdapterCorrupt, AdapterMismatch
from models.scope.transformer import Transformer

MAX_BEFORE, MAX_QUESTION, MAX_FACT = 64, 96, 128  # pieces; of turns before and of questions the last ones are read, of facts the first
HIDDEN = 128
APART = -6.0  # log-odds, at most, of texts with unknown words of their own
LONGEST_SPAN = 32  # pieces
WHOLE = 4  # words of a target that may be a whole sentence
FORMAT = "larimar-reader/1"
BATCH = 16  # pairs of one pass


class Pair(NamedTuple):
    """A question and a fact as a statement, and the turns before the question."""

    question: str
    fact: str
    before: str = ""


class Judgement(NamedTuple):
    """Of a pair.

    Attributes:
        answers, same: log-odds, not calibrated; `same` is None from a reader that does not say.
        span: characters of the fact that answer; None as above.
    """

    answers: float
    same: float | None = None
    span: tuple[int, int] | None = None


class PairReader(Protocol):
    """What scope asks. `fingerprint` changes with anything that changes its log-odds."""

    fingerprint: str

    def __call__(self, pairs: Sequence[Pair]) -> list[Judgement]: ...


@dataclass(frozen=True)
class Row:
    """A pair as token ids.

    Attributes:
        question, fact: where each one's pieces stand.
        offsets: of each piece of the fact, the characters that it covers.
    """

    ids: list[int]
    question: slice
    fact: slice
    offsets: list[tuple[int, int]]


class PairTokenizer:
    """Pairs to token ids, with the tokenizer.json of a folder. Raises ValueError where it lacks the tokens that begin and end a text."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.encode_special_tokens = True  # "</s>" in a user's text is text
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        named = self._tokenizer.token_to_id
        begin, end = (named("<s>"), named("</s>")) if named("<s>") is not None else (named("[CLS]"), named("[SEP]"))
        if begin is None or end is None:
            raise ValueError(f"the tokenizer of {folder} has neither <s> and </s> nor [CLS] and [SEP]")
        self.begin, self.end = begin, end
        of = json.loads(self._tokenizer.to_str())["model"]
        self._unknown = named(of["unk_token"]) if of.get("unk_token") else of.get("unk_id")
        self._pieces = lru_cache(4096)(self._encode)

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        return encoded.ids, encoded.offsets

    def unknown(self, text: str) -> frozenset[str]:
        """The words and signs of a text, case folded, that the tokenizer has no pieces for: to the reader they are all one."""
        ids, offsets = self._pieces(text)
        found = (text[slice(*offset)] for piece, offset in zip(ids, offsets, strict=True) if piece == self._unknown)
        return frozenset(word.casefold() for word in found)

    def text(self, text: str, most: int = MAX_FACT) -> list[int]:
        """Token ids of one text alone."""
        return [self.begin, *self._pieces(text)[0][:most], self.end]

    def __call__(self, pair: Pair) -> Row:
        before = self._pieces(pair.before)[0][-MAX_BEFORE:] if pair.before else []
        question = self._pieces(pair.question)[0][-MAX_QUESTION:]
        fact, offsets = self._pieces(pair.fact)
        fact, offsets = fact[:MAX_FACT], offsets[:MAX_FACT]
        ids = [self.begin, *before, *([self.end] if before else [])]
        start = len(ids)
        ids += [*question, self.end, self.end]
        second = len(ids)
        return Row([*ids, *fact, self.end], slice(start, start + len(question)), slice(second, second + len(fact)), offsets)


class Head(nn.Module):
    """Outputs of the last layer to what a reader says of each pair."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pair = nn.Sequential(nn.Linear(5 * width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 2))
        self.span = nn.Linear(width, 2)

    def forward(self, outputs: Sequence[Tensor], rows: Sequence[Row]) -> tuple[Tensor, list[Tensor]]:
        """
        Args:
            outputs: (T, d) float32 of each row.

        Returns:
            (n, 2) log-odds, `answers` and `same`; and for each row (F, 2) scores of begin and end of the span.
        """
        seen = []
        for h, row in zip(outputs, rows, strict=True):
            u, v = (h[part if part.start < part.stop else slice(1)].mean(0) for part in (row.question, row.fact))  # h₀ where there is none
            seen.append(torch.cat([h[0], u, v, u * v, (u - v).abs()]))
        return self.pair(torch.stack(seen)), [self.span(h[row.fact]) for h, row in zip(outputs, rows, strict=True)]


def statement(prompt: str, target: str) -> str:
    """A fact as the reader reads it: prompt and target. A sentence of a text, whose prompt says all of its target but a pronoun, is not
    read twice."""
    said, words = set(prompt.casefold().split()), target.casefold().split()
    whole = len(words) >= WHOLE and sum(word in said for word in words) >= 0.75 * len(words)
    return prompt if whole else f"{prompt} {target}"


@dataclass(frozen=True)
class ReaderUpdate:
    """What was trained for a reader.

    Attributes:
        factors: beside the products of the public weights, bfloat16.
        head: the head's state.
        about: fingerprint of the public weights, training data hashes, schedule, figures.
    """

    factors: Mapping[str, Tensor]
    head: Mapping[str, Tensor]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return archive.digest(self._tensors(), json.dumps(self.about, sort_keys=True))

    def _tensors(self) -> dict[str, Tensor]:
        factors, head = ({f"{part}.{n}": t for n, t in found.items()} for part, found in (("low", self.factors), ("head", self.head)))
        return factors | head

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        about = json.dumps(self.about, sort_keys=True)
        archive.write(path, self._tensors(), {"format": FORMAT, "about": about, "sha256": self.fingerprint})

    @classmethod
    def load(cls, path: Path) -> ReaderUpdate:
        """Read a file. Raises AdapterCorrupt."""
        tensors, header = archive.read(path, FORMAT)
        parts: dict[str, dict[str, Tensor]] = {"low": {}, "head": {}}
        try:
            for name, tensor in tensors.items():
                part, _, rest = name.partition(".")
                parts[part][rest] = tensor
            update = cls(parts["low"], parts["head"], json.loads(header["about"]))
        except (KeyError, ValueError) as error:
            raise AdapterCorrupt(f"{path} lacks a part of a reader: {error}") from error
        if header.get("sha256") != update.fingerprint:
            raise AdapterCorrupt(f"{path} is damaged: its checksum differs")
        return update

    def check(self, weights_fingerprint: str) -> None:
        """Raises AdapterMismatch if it was trained for other public weights."""
        if (got := str(self.about.get("weights_fingerprint", ""))) != weights_fingerprint:
            raise AdapterMismatch("reader", got[:12], weights_fingerprint[:12], "larimar train-reader --data DIR")


class Reader:
    """Pairs to judgements.

    Args:
        folder: of the public weights and tokenizer.
        update: what was trained; it is merged into the weights.
    """

    def __init__(self, folder: Path, update: ReaderUpdate) -> None:
        self.tokenizer, self._transformer = PairTokenizer(folder), Transformer(folder)
        self._transformer.merge(update.factors)
        self._transformer.freeze()
        self._head = Head(self._transformer.width)
        self._head.load_state_dict(dict(update.head))
        self._head.requires_grad_(False)
        self.fingerprint = update.fingerprint

    @torch.inference_mode()
    def __call__(self, pairs: Sequence[Pair]) -> list[Judgement]:
        """What the reader says of each pair, in order."""
        rows = [self.tokenizer(pair) for pair in pairs]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
        found: dict[int, Judgement] = {}
        for at in range(0, len(order), BATCH):
            part = [rows[i] for i in order[at : at + BATCH]]
            outputs = self._transformer([row.ids for row in part])
            for i, row, output in zip(order[at : at + BATCH], part, outputs, strict=True):
                odds, (span,) = self._head([output], [row])  # one after the other: a row's bits must not depend on its company
                answers = min(float(odds[0, 0]), APART) if self._are_apart(pairs[i]) else float(odds[0, 0])
                found[i] = Judgement(answers, float(odds[0, 1]), best_span(span, row.offsets))
        return [found[i] for i in range(len(rows))]

    def _are_apart(self, pair: Pair) -> bool:
        """Whether each text has a word, of those that the tokenizer has no pieces for, that the other has not."""
        asked, stored = self.tokenizer.unknown(pair.question), self.tokenizer.unknown(pair.fact)
        return bool(asked - stored and stored - asked)


def best_span(scores: Tensor, offsets: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The characters from the piece where a span best begins to that where it best ends, by (F, 2) scores; None for no pieces."""
    if not len(scores):
        return None
    sums = scores[:, 0][:, None] + scores[:, 1][None, :]  # (F, F): begin, end
    wrong = torch.ones_like(sums, dtype=torch.bool).triu().tril(LONGEST_SPAN - 1).logical_not()
    begin, end = divmod(int(sums.masked_fill(wrong, -torch.inf).argmax()), len(offsets))
    return offsets[begin][0], offsets[end][1]
