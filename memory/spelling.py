"""Spelling: decides which prompts are one fact's, and keeps facts apart that the encoder cannot tell apart.

An uncased encoder sees neither case nor accents, so "José" and "Jose", `userName` and `username` have one key. They are two facts
nonetheless: a fact's address on its page is its key plus a small part derived from its spelling.
"""

from __future__ import annotations

import hashlib
import re
import string
import unicodedata
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# Length of an address's own part, in units of the key. Two facts of one key are then at a cosine of 1 / (1 + OWN²), and at β = 30 and
# λ = 1e-6 the weight of either in the other's readout is 7e-7: below readable.LEAST_WEIGHT.
OWN = 0.15
_CLOSING = frozenset(".?!:;,…‥‽⁇。．！？：；，、؟؛،۔।॥։።")
_JOINERS = "\u200c\u200d"  # zero-width, but they make another word
_WITHOUT_WIDTH = frozenset({"Cc", "Cf"})
_UNSEEN = frozenset({"Mn", "Cc", "Cf", "Co"})  # accents, control and formatting characters, private use
_IDEOGRAPH = re.compile(
    "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b81f\U0002b920-\U0002ceaf\U0002f800-\U0002fa1f]"
)
_MARKS = "".join(mark for mark in map(chr, range(0x300, 0x1E00)) if unicodedata.category(mark) == "Mn")
_WORD = re.compile(rf"\w[\w{_MARKS}]*")
_LETTERS = str.maketrans("øØłŁđĐħıŧ", "oOlLdDhit")  # Unicode does not decompose these
_NO_ACCENTS = "йЙїЇўЎأإآؤئ"  # letters of their own: their marks are typed always
_KEPT = 8192  # characters
_SIGNS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32) * 2 - 1  # (256, 8), of a byte's bits


class _Table(dict[int, str]):
    """A translation table: blanks become a space, signs get spaces around them, `of` translates other characters.

    Args:
        of: from a character to its translation.
    """

    def __init__(self, of: Callable[[str], str]) -> None:
        self._of = of

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        if letter.isspace():
            made = " "
        elif unicodedata.category(letter).startswith("P") or letter in string.punctuation or _IDEOGRAPH.match(letter):
            made = f" {letter} "
        else:
            made = self._of(letter)
        if len(self) < _KEPT:
            self[code] = made
        return made


def _seen(letter: str) -> str:
    return "" if unicodedata.category(letter) in _UNSEEN or letter == "\ufffd" else letter.lower()


def _spelt(letter: str) -> str:
    return "" if unicodedata.category(letter) in _WITHOUT_WIDTH and letter not in _JOINERS else letter


_SEEN, _SPELT = _Table(_seen), _Table(_spelt)


def seen(text: str) -> str:
    """A text as an uncased encoder (BERT) sees it: words and punctuation marks in lower case, without accents."""
    return " ".join(unicodedata.normalize("NFD", text).translate(_SEEN).split())


def normalise(prompt: str) -> str:
    """The identity of a prompt: equal for prompts that differ only in blanks, the case of the first letter, closing punctuation or
    zero-width characters. Prompts with different identities are different facts, and neither replaces the other."""
    tokens = _tokens(prompt)
    while len(tokens) > 1 and tokens[-1] in _CLOSING:
        tokens.pop()
    first = next((at for at, token in enumerate(tokens) if token[0].isalnum()), None)
    if first is not None:
        tokens[first] = tokens[first][0].lower() + tokens[first][1:]
    return " ".join(tokens)


def _tokens(text: str) -> list[str]:
    """Words in their spelling, and signs."""
    return unicodedata.normalize("NFC", text).translate(_SPELT).split()


def address(key: Tensor, identity: str) -> Tensor:
    """The address (D,) float32 of a fact on its page, from its key (D,) and identity (`normalise`); different for each identity."""
    signs = np.frombuffer(hashlib.shake_256(identity.encode("utf-8", "surrogatepass")).digest(-(-len(key) // 8)), np.uint8)
    raw = key.numpy() + _SIGNS[signs].reshape(-1)[: len(key)] * np.float32(OWN / len(key) ** 0.5)
    return torch.from_numpy(raw / np.sqrt(raw @ raw))


def closeness(query: str, prompt: str) -> tuple[bool, int, int]:
    """How near a query's spelling is to a prompt's, for comparing prompts that an encoder cannot tell apart: whether the identities are
    equal, how many words are equal, and how many are equal without case."""
    asked, stored = _tokens(query), _tokens(prompt)
    folded = {word.casefold() for word in asked} & {word.casefold() for word in stored}
    return normalise(query) == normalise(prompt), len({*asked} & {*stored}), len(folded)


def as_asked(prompt: str, query: str) -> str:
    """A prompt (NFC) respelt for a query without accents: "José" becomes "Jose" if the query has "Jose". A query with accents changes
    nothing."""
    prompt, query = unicodedata.normalize("NFC", prompt), unicodedata.normalize("NFC", query)
    if prompt.isascii() or query != _bare(query):
        return prompt
    asked = {word.casefold() for word in _WORD.findall(query)}

    def respelt(found: re.Match[str]) -> str:
        word, bare = found[0], _bare(found[0])
        return bare if bare.casefold() in asked and word.casefold() not in asked else word

    return _WORD.sub(respelt, prompt)


def _bare(text: str) -> str:
    """A text (NFC) without accents."""
    if text.isascii():
        return text
    letters = "".join(letter if letter in _NO_ACCENTS else unicodedata.normalize("NFD", letter) for letter in text)
    return unicodedata.normalize("NFC", "".join(letter for letter in letters if not _is_accent(letter)).translate(_LETTERS))


def _is_accent(mark: str) -> bool:
    """Whether people may leave this mark out: a diacritic, a Hebrew or Arabic vowel; not an Indic or Thai vowel or a kana's voice."""
    return 10 <= (place := unicodedata.combining(mark)) <= 36 or place >= 200
