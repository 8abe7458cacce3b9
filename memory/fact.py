"""A fact: what a user taught, and how the memory holds it."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

Scalar = str | int | float | bool | None


@dataclass(frozen=True, eq=False)
class Fact:
    """One prompt and its target.

    Attributes:
        key: (D,) float32 unit address key of the prompt, on the CPU.
        code: (W,) float32 value code of the target, on the CPU.
        created_at: seconds since the epoch.
        version: log position that wrote it; 0 before it is written.
        expires_at: seconds since the epoch; None for never.
        until: log position from which on a newer fact stands in its place and this one is kept as history; 0 while it
            is current.
        answer: digest of the Idempotency-Key it was taught with; empty without one.
    """

    id: str
    prompt: str
    target: str
    key: Tensor
    code: Tensor
    created_at: float
    metadata: Mapping[str, Scalar]
    version: int = 0
    expires_at: float | None = None
    until: int = 0
    answer: str = ""


def is_current(fact: Fact) -> bool:
    """Whether no newer fact stands in its place."""
    return not fact.until


def was_there(fact: Fact, version: int) -> bool:
    """Whether it was current at a version."""
    return fact.version <= version and (not fact.until or fact.until > version)


class _Seen(dict[int, str]):
    """What an uncased encoder (BERT's) makes of each character: nothing, a word of its own, or its lower case."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        kind = unicodedata.category(letter)
        if letter.isspace():
            seen = " "
        elif kind in _UNSEEN or letter == "\ufffd":
            seen = ""
        elif kind.startswith("P") or letter in string.punctuation or _IDEOGRAPH.match(letter):
            seen = f" {letter} "
        else:
            seen = letter.lower()
        if len(self) < _KEPT:
            self[code] = seen
        return seen


_UNSEEN = frozenset({"Mn", "Cc", "Cf", "Co"})  # accents, control and formatting characters (of no width), private use
_IDEOGRAPH = re.compile(
    "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b81f\U0002b920-\U0002ceaf\U0002f800-\U0002fa1f]"
)
_KEPT = 8192  # characters
_SEEN = _Seen()


def normalise(prompt: str) -> str:
    """The form under which two prompts are the same: words and punctuation marks in lower case, without accents and what has no width.

    It is what an uncased encoder sees, no more and no less. Prompts that it cannot tell apart have equal keys, and least squares
    would average the answers of two facts with one key; of those that it can, none may take the other's place.
    """
    return " ".join(unicodedata.normalize("NFD", prompt).translate(_SEEN).split())


def held_bytes(fact: Fact) -> int:
    """About how many bytes a fact and its entry in the directory take in memory, without its row of a page."""
    return 8 * len(fact.key) + 4 * len(fact.code) + len(fact.prompt) + len(fact.target) + 1500
