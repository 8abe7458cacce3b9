"""Close wordings: a word or two of a text exchanged for what says the same, or a statement turned into a question.

Wordings written by hand tend to change everything. Asked in nearly the fact's own words, a reader that learnt from those alone takes
each exchanged word for another question.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from pathlib import Path

SYNONYMS = Path(__file__).with_name("synonyms.txt")
STATED = re.compile(r"^(?P<the>the|our|my) (?P<noun>[a-z][a-z -]+?) (?P<of>of|for|at|in) \{s\} is( called)?$", re.IGNORECASE)
ASKED = re.compile(r"^(what|who)('s| is) (?P<the>the|our|my) (?P<noun>[a-z][a-z -]+?) (?P<of>of|for|at|in) \{s\}\??$", re.IGNORECASE)
TURNED = (
    "What is {the} {noun} {of} {s}?",
    "Tell me {the} {noun} {of} {s}.",
    "do you know {the} {noun} {of} {s}",
    "{the} {noun} {of} {s}",
    "{the} {noun} {of} {s} is called",
    "{s}'s {noun} is",
    "what's {s}'s {noun}",
    "What is {s}'s {noun}?",
    "As for {s}, {the} {noun} is",
    "{of} {s}, {the} {noun} is",
)


class Synonyms:
    """What may stand for what.

    Args:
        groups: of words and phrases that say the same.
    """

    def __init__(self, groups: Iterable[Iterable[str]]) -> None:
        self._others: dict[str, list[str]] = {}
        for group in map(list, groups):
            for phrase in group:
                self._others.setdefault(phrase.casefold(), []).extend(other for other in group if other != phrase)
        longest = sorted(self._others, key=len, reverse=True)
        phrases = "|".join(map(re.escape, longest)) or "(?!)"  # of no group nothing is known
        self._known = re.compile(rf"(?<![\w'])(?:{phrases})(?![\w'])", re.IGNORECASE)

    @classmethod
    def read(cls, path: Path = SYNONYMS) -> Synonyms:
        lines = (line.strip() for line in path.read_text("utf-8").splitlines())
        return cls([phrase.strip() for phrase in line.split("|")] for line in lines if line and not line.startswith("#"))

    def close(self, rng: random.Random, wording: str) -> str | None:
        """A wording, with {s} for the subject, in nearly the same words; None where none is known."""
        text, named = wording, STATED.match(wording) or ASKED.match(wording)
        if named and rng.random() < 0.4:
            text = rng.choice(TURNED).format(s="{s}", the=named["the"].lower(), noun=named["noun"], of=named["of"])
            text = text[:1].upper() + text[1:] if text[:1] != "{" and rng.random() < 0.7 else text
            if rng.random() < 0.5:
                return text
        found = list(self._known.finditer(text))
        for match in sorted(rng.sample(found, min(len(found), rng.choice((1, 1, 2)))), key=lambda match: -match.start()):
            other = rng.choice(self._others[match[0].casefold()])
            if match[0][:1].isupper():
                other = other[:1].upper() + other[1:]
            text = text[: match.start()] + other + text[match.end() :]
        return None if text.casefold() == wording.casefold() else text
