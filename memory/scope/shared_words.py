"""Whether one sentence is another with a part exchanged: "the coach of the Hawks is" in the frame of "the captain of the Hawks is"."""

from __future__ import annotations

from difflib import SequenceMatcher
from itertools import takewhile

from memory.scope.proper_names import sequence


def shared_frame(query: str, prompt: str) -> float:
    """How much of two sentences is common frame, in [0, 1].

    The mean of two rates: of words in runs that match in order (Ratcliff and Obershelp), and of words with which both
    begin or end.
    """
    asked, stored = sequence(query), sequence(prompt)
    if not asked or not stored:
        return 0.0
    matching = SequenceMatcher(None, asked, stored, autojunk=False).ratio()
    begin = _common(asked, stored)
    end = _common(asked[begin:][::-1], stored[begin:][::-1])
    return (matching + (begin + end) / max(len(asked), len(stored))) / 2


def _common(some: list[str], others: list[str]) -> int:
    """How many words both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(some, others, strict=False)))
