"""The decision: of the facts that lie near a question, which one answers it, if any does.

The reader's log-odds of each candidate, the cosines that brought it here and a bias make a calibrated logit z. Candidates and
"none of them" share one softmax, none at 0, so a candidate must be likely by itself and stand clear of its rivals:

    p(i) = exp(z_i) / (1 + Σ_j exp(z_j))

In scope iff the greatest p reaches the threshold. A query that repeats a fact's own words is that fact's without being read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

FORMAT = "larimar-calibration/1"
Kind = Literal["in", "maybe", "out"]


@dataclass(frozen=True)
class Features:
    """Of a question beside one fact.

    Attributes:
        answers: log-odds of the reader.
        address, statement: cosines of the question with the fact's prompt and with the whole fact.
    """

    answers: float
    address: float
    statement: float


@dataclass(frozen=True)
class Weights:
    """z = scale · answers + address · cos + statement · cos + bias."""

    scale: float = 1.0
    address: float = 0.0
    statement: float = 0.0
    bias: float = 0.0

    def logit(self, seen: Features) -> float:
        return self.scale * seen.answers + self.address * seen.address + self.statement * seen.statement + self.bias


@dataclass(frozen=True)
class Calibration:
    """What turns a reader's log-odds into probabilities, fitted by `larimar calibrate`.

    Attributes:
        question: weights where either text is a question, or a whole sentence.
        unfinished: weights where both are beginnings of a statement ("The capital of France is" beside "France's capital is").
        threshold: probability from which a fact is in scope; maybe: from which it may be.
        nearness: a candidate whose cosines are both below it is not read.
        about: fingerprints of reader and encoder, data and its hashes, the error at each threshold. Empty: not calibrated.
    """

    question: Weights = field(default_factory=Weights)
    unfinished: Weights = field(default_factory=Weights)
    threshold: float = 0.5
    maybe: float = 0.2
    nearness: float = 0.0
    about: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Raises ValueError for another format."""
        raw = json.loads(path.read_text())
        if raw.pop("format", None) != FORMAT:
            raise ValueError(f"{path} is no calibration of format {FORMAT}")
        question, unfinished = (Weights(**raw.pop(name)) for name in ("question", "unfinished"))
        return cls(question, unfinished, **raw)

    def fits(self, reader_fingerprint: str) -> bool:
        """Whether it was fitted for this reader."""
        return self.about.get("reader") == reader_fingerprint

    def logit(self, question: str, prompt: str, seen: Features) -> float:
        weights = self.unfinished if is_unfinished(question) and is_unfinished(prompt) else self.question
        return weights.logit(seen)

    def decision(self, probability: float, threshold: float | None = None) -> Kind:
        return kind_of(probability, self.threshold if threshold is None else threshold, self.maybe)


def kind_of(probability: float, threshold: float, maybe: float) -> Kind:
    """Whether a fact is meant, may be, or is not. `maybe`: the probability from which it may be."""
    return "in" if probability >= threshold else "maybe" if probability >= min(maybe, threshold) else "out"


def is_unfinished(text: str) -> bool:
    """Whether a text has no mark that ends a sentence: a beginning of one, or keywords."""
    return not text.rstrip(" \t\n\"'»”’)]").endswith((".", "?", "!", "…", "。", "？", "！", "؟", "।", "։", ";"))


def probabilities(logits: Sequence[float]) -> list[float]:
    """p(i) of the candidates beside "none of them"."""
    highest = max(0.0, *logits) if logits else 0.0
    weights = [math.exp(z - highest) for z in logits]
    total = math.exp(-highest) + sum(weights)
    return [weight / total for weight in weights]


FIRST = 4  # candidates that are read at once; the others only where none of these is in scope
BY_ADDRESS, BY_STATEMENT = 3, 6  # how many of the nearest by either key are candidates


@dataclass(frozen=True)
class Chosen:
    """Of a question: the best candidate's index, its probability, and the probabilities of all that were read, in their order."""

    index: int | None
    probability: float
    probabilities: tuple[float, ...]


def choose(logits: Sequence[float], threshold: float, first: int = FIRST) -> Chosen:
    """The best of candidates that are read in two rounds. `logits`: of those that were read, the likeliest to be read first.

    The second round is asked for by `needs_more`.
    """
    if not logits:
        return Chosen(None, 0.0, ())
    found = probabilities(logits[:first]) if not needs_more(logits[:first], threshold) else probabilities(logits)
    best = max(range(len(found)), key=found.__getitem__)
    return Chosen(best, found[best], tuple(found))


def needs_more(logits: Sequence[float], threshold: float) -> bool:
    """Whether none of the candidates read so far is in scope."""
    return max(probabilities(logits), default=0.0) < threshold
