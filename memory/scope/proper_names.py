"""Names and numbers in a sentence: if both sides hold one that the other lacks, they speak of different things."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from itertools import islice

WORDS = 64  # of a sentence are looked at: comparing words takes time with the product of their numbers
LETTERS = 40  # of a word that may hold a typo
# Letters and digits, with what joins them, a minus before a number, and signs that end a name ("C++", "F#", "A-"); currencies and
# pictures stand for words.
_WORD = re.compile(
    r"(?:(?<![\w)\]])[-−](?=\d))?[^\W_]+(?:['’.\-&/][^\W_]+)*(?:[+#−-]+(?!\w))?|[$£¥\u20a0-\u20cf\u2190-\u2bff\U0001f000-\U0001faff]"
)
_POSSESSIVE = re.compile(r"['’]s$")
# Words that are capitalised for standing first, or in titles: they name nothing.
_COMMON = frozenset(
    "a an and any are as at be but by can could did do does for from had has have he her his how i if in is it its list may me my "
    "name no not of on or our please she should so some such tell than that the their them then there these they this those "
    "to under was we were what whats when where which who whom whose why will with would yes you your during after before "
    "since until while although because each every all both one give show find does let us am shall also upon over into "
    "according regarding concerning about originally currently formerly usually typically most many much more been being got get "
    "need know would'd here cannot don't".split()
)
_CONSONANTS = frozenset("bcdfghjklmnpqrtvwxz")  # "s" is what is left of "Inc.'s" and "name(s)"


def names(sentence: str) -> frozenset[str]:
    """Capitalised words, words with digits and single consonants, case folded, without a possessive. Common words are none where they
    may be capitals for standing first, in titles or because all is; "US" is one, and "A" behind another word ("Plan A")."""
    found = set()
    shouted = sentence.isupper()
    for at, word in enumerate(_words(sentence)):
        folded = word.casefold()
        named = word.isupper() and not shouted and (len(word) > 1 or (at > 0 and folded == "a"))
        common = folded in _COMMON and not named
        if any(c.isdigit() for c in word) or folded in _CONSONANTS or (any(c.isupper() for c in word) and not common):
            found.add(folded)
    return frozenset(found)


def sequence(sentence: str) -> list[str]:
    """The first `WORDS` words of a sentence in their order, case folded, without a possessive."""
    return [word.casefold() for word in _words(sentence)]


def places(sentence: str) -> list[tuple[str, int, int]]:
    """The words of `sequence`, each with where in the sentence it begins and ends."""
    return [(word.casefold(), at, at + len(word)) for word, at in _found(sentence, WORDS)]


def wording(sentence: str) -> list[str]:
    """All words, as in `sequence`: sentences with the same ones differ in punctuation alone. Without any the sentence as it is."""
    return [word.casefold() for word, _ in _found(sentence, None)] or [sentence]


def _words(sentence: str) -> Iterator[str]:
    return (word for word, _ in _found(sentence, WORDS))


def _found(sentence: str, most: int | None) -> Iterator[tuple[str, int]]:
    """The first words, each with where it begins."""
    for match in islice(_WORD.finditer(sentence), most):
        yield _POSSESSIVE.sub("", match.group()).replace("−", "-"), match.start()


def words(sentence: str) -> frozenset[str]:
    """The words of `sequence`."""
    return frozenset(sequence(sentence))


def content(sentence: str) -> frozenset[str]:
    """The words that say what a sentence is about: all but function words and question words."""
    return words(sentence) - _COMMON


def lacking(some: Iterable[str], others: Iterable[str]) -> list[str]:
    """Those of `some` that none of `others` spells nearly alike."""
    pool = list(others)
    return [name for name in some if not any(alike(name, other) for other in pool)]


def alike(a: str, b: str) -> bool:
    """Equal, one the beginning of the other, or a typo apart. Numbers must be equal."""
    if a == b:
        return True
    if any(c.isdigit() for c in a + b):
        return False
    if min(len(a), len(b)) >= 4 and (a.startswith(b) or b.startswith(a)):
        return True
    near = min(len(a), len(b)) >= 5 and max(len(a), len(b)) <= LETTERS and (a[0] == b[0] or a[-1] == b[-1])
    return near and _typo(a, b)


def _typo(a: str, b: str) -> bool:
    """Whether most letters match in runs (Ratcliff and Obershelp). What is common in order is counted first: no runs hold more,
    and it takes a fiftieth of the time."""
    wanted = 0.84 * (len(a) + len(b)) / 2
    return min(len(a), len(b)) >= wanted and _in_order(a, b) >= wanted and SequenceMatcher(None, a, b).ratio() >= 0.84


def _in_order(a: str, b: str) -> int:
    """Length of the longest common subsequence, with a row of the table in the bits of a number (Hyyrö)."""
    places: dict[str, int] = {}
    for at, letter in enumerate(a):
        places[letter] = places.get(letter, 0) | 1 << at
    every = row = (1 << len(a)) - 1
    for letter in b:
        here = row & places.get(letter, 0)
        row = (row + here | row - here) & every
    return len(a) - row.bit_count()
