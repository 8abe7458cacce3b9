"""Texts that want the same answer, and beside them texts that nearly do: what the encoder learns relations from.

Written for this project (wordings.jsonl): kinds of things, and for each several relations in five or more wordings. Relations
of a kind are near neighbours ("opens at", "closes at"), so in one batch each text stands beside others of its relation with
another subject, and of its subject with another relation.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from models.training.corpus import Corpus
from models.training.random_answers import slip

T = TypeVar("T")

WORDINGS = Path(__file__).with_name("wordings.jsonl")
HELD_OUT = 8  # the last kinds are never trained on


@dataclass(frozen=True)
class Kind:
    """A kind of thing. Attributes: relations: wordings with {s} for the subject, of each relation."""

    name: str
    subjects: tuple[str, ...]
    relations: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Pair:
    """Two texts that want the same; `want` says what, so that equal wants are told from different ones."""

    one: str
    other: str
    want: tuple[str, ...]


def kinds(path: Path = WORDINGS) -> list[Kind]:
    """All kinds of the file, in its order."""
    rows = map(json.loads, path.read_text("utf-8").splitlines())
    return [Kind(row["kind"], tuple(row["subjects"]), tuple(map(tuple, row["relations"]))) for row in rows]


def digest(path: Path = WORDINGS) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Wants:
    """Draws batches of pairs; the same generator state gives the same batch."""

    corpus: Corpus
    kinds: Sequence[Kind]

    def draw(self, rng: random.Random, count: int) -> list[Pair]:
        """At most `count` pairs, a few less where a source has no more."""
        source = rng.choices(("kinds", "templates", "relations", "statements"), (60, 15, 10, 15))[0]
        if source == "kinds":
            drawn = self._of_kind(rng, count // 2) + self._of_kind(rng, count - count // 2)
        elif source == "statements":
            drawn = [_pair(rng, texts, (texts[0],)) for texts in _some(rng, self.corpus.stated, count)]
        else:
            drawn = self._of_relations(rng, count, source)
        drawn = drawn or self._of_kind(rng, count)
        return [Pair(self._noise(rng, pair.one), self._noise(rng, pair.other), pair.want) for pair in drawn]

    def texts(self, rng: random.Random, count: int) -> list[str]:
        """Texts of all sorts, whose vectors are to stay what they are."""
        return [rng.choice(rng.choice((self.corpus.sentences, self.corpus.questions, self.corpus.claims))) for _ in range(count)]

    def _of_kind(self, rng: random.Random, count: int) -> list[Pair]:
        kind = rng.choice(self.kinds)
        relations = rng.sample(range(len(kind.relations)), min(len(kind.relations), rng.choice((3, 4, 6, 8))))
        subjects = subjects_of(rng, kind, self.corpus)
        chosen = rng.sample(subjects, max(1, min(len(subjects), count // len(relations))))
        pairs = []
        for relation in relations:
            for subject in chosen:
                worded = [fill(wording, subject) for wording in kind.relations[relation]]
                pairs.append(_pair(rng, worded, (kind.name, str(relation), subject)))
        rng.shuffle(pairs)
        return pairs[:count]

    def _of_relations(self, rng: random.Random, count: int, source: str) -> list[Pair]:
        worded, known = self.corpus.worded(source)
        pairs = []
        for name in _some(rng, [name for name, own in worded.items() if len(own) > 1], 4):
            for subject in _some(rng, list(dict.fromkeys(subject for subject, _ in known[name])), count // 4):
                texts = [fill(text.replace("[X]", "{s}").replace("{}", "{s}"), subject) for text in worded[name]]
                pairs.append(_pair(rng, texts, (name, subject)))
        return pairs

    def _noise(self, rng: random.Random, text: str) -> str:
        """As people and evaluation sets write it: behind another sentence, in lower case, with a slip of the keys."""
        return as_asked(rng, text, self.corpus.sentences, behind=0.14, stopped=0.10, slipped=0.28)


def _pair(rng: random.Random, texts: Sequence[str], want: tuple[str, ...]) -> Pair:
    one, other = rng.sample(texts, 2)
    return Pair(one, other, want)


def _some(rng: random.Random, items: Sequence[T], count: int) -> list[T]:
    return rng.sample(items, min(len(items), count))


def fill(wording: str, subject: str) -> str:
    """A wording about a subject, which begins with a capital where it begins the text."""
    text = wording.replace("{s}", subject)
    return text[:1].upper() + text[1:] if wording.startswith("{s}") else text


def subjects_of(rng: random.Random, kind: Kind, corpus: Corpus) -> Sequence[str]:
    """A kind's own subjects; now and then other names, which its wordings fit as well."""
    if rng.random() < 0.3:
        return [rng.choice(corpus.facts[rng.choice(list(corpus.facts))])[0] for _ in range(24)]
    return kind.subjects


def mistaken(rng: random.Random, subject: str, names: Sequence[str]) -> str | None:
    """A name that is like a subject's and another's: one number of it changed, or one of its words, of a thing without a name the
    last, taken from another."""
    parts = subject.split()
    places = [at for at, word in enumerate(parts) if word[:1].isupper() or any(letter.isdigit() for letter in word)]
    if len(parts) == 1 and not any(letter.isdigit() for letter in subject):
        return None
    at = rng.choice(places) if places else len(parts) - 1
    if digits := [n for n, letter in enumerate(parts[at]) if letter in "0123456789"]:
        n = rng.choice(digits)
        parts[at] = parts[at][:n] + rng.choice([d for d in "123456789" if d != parts[at][n]]) + parts[at][n + 1 :]
        return " ".join(parts)
    found = [word for name in names for word in name.split()] if places else [name.split()[-1] for name in names if " " in name]
    words = {word for word in found if word[:1].isupper() == bool(places) and not set(word) & set("'’\".,0123456789")}
    if not (others := sorted(words - set(parts))):
        return None
    parts[at] = rng.choice(others) + ("'s" if parts[at].endswith("'s") else "")
    return " ".join(parts)


def as_asked(rng: random.Random, text: str, sentences: Sequence[str], *, behind: float, stopped: float, slipped: float) -> str:
    """A text as people and evaluation sets write it.

    Args:
        behind: rate of texts behind another sentence; `stopped` of them all keep that one's full stop.
        slipped: up to here, from 0.24 on, with a slip of the keys; what is between is in lower case.
    """
    odds = rng.random()
    if odds < behind:
        before = rng.choice(sentences)
        return f"{before if odds < stopped else before.rstrip('.')} {text}"
    if odds < 0.24:
        return text.lower()
    return slip(rng, text, 3) if odds < slipped and len(text) > 12 else text
