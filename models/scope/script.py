"""Script: can the encoder read a text, and are two texts nearly the same words?

Where a tokenizer has single letters for a script and no words, the encoder finds any two texts in it alike. There the meaning of a
text counts for nothing, and only its wording does.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Literal

from tokenizers import Tokenizer

ReadBy = Literal["meaning", "wording"]
READ = 4000  # characters of a text are looked at: the encoder reads no more
TYPO = 5  # letters of a word that may hold a typo
# Of scripts in which a character is a syllable or a word, or that put no blanks between words, no character is a typo of another.
_UNSPACED = frozenset("CJK HIRAGANA KATAKANA KATAKANA-HIRAGANA HANGUL BOPOMOFO YI THAI LAO KHMER MYANMAR TIBETAN ETHIOPIC".split())
_NUMBER = re.compile(r"\d+")


class Script:
    """What an encoder reads of a text, decided by the pieces that its tokenizer makes of it. Any thread may ask it.

    Args:
        tokenizer: the encoder's; a copy is kept that cuts nothing.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._unknown = tokenizer.unk_token

    def reads(self, text: str) -> bool:
        """Whether at least half of a text's letters are in pieces of several letters, or are Latin ones."""
        if text.isascii():
            return True
        letters = [unread for letter, unread in zip(text, self._unread(text), strict=False) if letter.isalpha()]
        return 2 * sum(letters) <= len(letters)

    def read_by(self, text: str) -> ReadBy:
        """By what a query finds this text, or this query a text."""
        return "meaning" if self.reads(text) else "wording"

    def literal(self, prompt: str, query: str) -> float | None:
        """How much of a fact's prompt and a query is the same wording, where one of them is not read by meaning: 1 for the same
        words, less with a typo, 0 for other words. None where both are read.

        What is not read within a text that is read stands for itself: a query whose unread words a prompt lacks does not mean it.
        """
        if not (self.reads(prompt) and self.reads(query)):
            return sameness(prompt, query)
        return None if self._unread_words(query) <= self._unread_words(prompt) else 0.0

    def _unread(self, text: str) -> list[bool]:
        """Of each of the first `READ` characters, whether it is a letter that stands alone in a piece or in none."""
        text = text[:READ]
        found = self._tokenizer.encode(text, add_special_tokens=False)
        unread = [False] * len(text)
        for piece, (begin, end) in zip(found.tokens, found.offsets, strict=True):
            if piece == self._unknown or len(piece.removeprefix("##")) == 1:
                for at in range(begin, end):
                    unread[at] = text[at].isalpha() and not _is_latin(text[at])
        return unread

    def _unread_words(self, text: str) -> frozenset[str]:
        """Runs of letters that are not read, with the marks on them, case folded."""
        if text.isascii():
            return frozenset()
        runs = "".join(
            letter if unread or unicodedata.category(letter)[0] == "M" else " "
            for letter, unread in zip(text, self._unread(text), strict=False)
        )
        return frozenset(word for word in _folded(runs).split() if any(map(str.isalpha, word)))


def sameness(one: str, other: str) -> float:
    """How much of the wording of two texts is the same: 1 where they differ in case, compatibility forms, blanks and punctuation at
    most; the share of letters outside of a typo where there is one; else 0.

    A typo is one letter changed, dropped or added, or two exchanged, in one word of at least `TYPO` letters, not its first and no digit.
    """
    ours, theirs = (_folded(text).split() for text in (one, other))
    if "".join(ours) == "".join(theirs):
        return float(_NUMBER.findall(" ".join(ours)) == _NUMBER.findall(" ".join(theirs)))  # blanks part numbers
    if len(ours) != len(theirs):
        return 0.0
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    if len(pairs) > 1 or not _typo(*pairs[0]):
        return 0.0
    return 1.0 - 1.0 / max(sum(map(len, ours)), sum(map(len, theirs)))


def _folded(text: str) -> str:
    """Words in one case and form, and without punctuation. Numbers stay as they are: "-5" is not 5, nor "1.5" 15, nor "10²" 102."""
    forms = (letter if unicodedata.category(letter) == "No" else unicodedata.normalize("NFKC", letter) for letter in text[: READ + 1])
    letters = unicodedata.normalize("NFC", unicodedata.normalize("NFC", "".join(forms)).casefold())
    kept = []
    for at, letter in enumerate(letters):
        kind = unicodedata.category(letter)
        if kind[0] in "LMNS" or (kind[0] == "P" and letters[at + 1 : at + 2].isdigit()):
            kept.append(letter)
        elif kind != "Cf":
            kept.append(" ")
    return "".join(kept)


def _typo(one: str, other: str) -> bool:
    if one[0] != other[0] or any(letter.isdigit() for letter in one + other):
        return False
    if min(sum(map(str.isalpha, word)) for word in (one, other)) < TYPO or any(map(_stands_alone, one + other)):
        return False
    short, long = sorted((one, other), key=len)
    at = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(short) < len(long):
        return short[at:] == long[at + 1 :]
    return short[at + 1 :] == long[at + 1 :] or (short[at : at + 2] == long[at : at + 2][::-1] and short[at + 2 :] == long[at + 2 :])


def _is_latin(letter: str) -> bool:
    return letter < "\u0250" or unicodedata.name(letter, "").startswith("LATIN ")  # "º" has another name


def _stands_alone(letter: str) -> bool:
    return unicodedata.name(letter, "").split(" ")[0] in _UNSPACED
