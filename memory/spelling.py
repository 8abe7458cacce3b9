"""Spelling: which texts are one fact's, and what keeps two facts apart that the encoder takes for the same.

An uncased encoder sees neither case nor accents, so "José" and "Jose", `userName` and `username` have one key. They are facts of
their own nonetheless: a fact's address on its page is its key with a small part that comes of its spelling.
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
# λ = 1e-6 the weight of either in the other's readout is 7e-7: below what a reading names (episodic.LEAST_WEIGHT).
OWN = 0.15
_CLOSING = frozenset(".?!:;,…‥‽⁇。．！？：；，、؟؛،۔।॥։።")
_JOINERS = "\u200c\u200d"  # have no width, and yet make another word of what they stand in
_WITHOUT_WIDTH = frozenset({"Cc", "Cf"})
_UNSEEN = frozenset({"Mn", "Cc", "Cf", "Co"})  # accents, control and formatting characters, private use
_IDEOGRAPH = re.compile(
    "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b81f\U0002b920-\U0002ceaf\U0002f800-\U0002fa1f]"
)
_MARKS = "".join(mark for mark in map(chr, range(0x300, 0x1E00)) if unicodedata.category(mark) == "Mn")
_WORD = re.compile(rf"\w[\w{_MARKS}]*")
_LETTERS = str.maketrans("øØłŁđĐħıŧ", "oOlLdDhit")  # accents that are a part of the letter
_NO_ACCENTS = "йЙїЇўЎأإآؤئ"  # letters to everybody who types them
_KEPT = 8192  # characters
_SIGNS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32) * 2 - 1  # (256, 8), of a byte's bits


class _Table(dict[int, str]):
    """What becomes of each character. Blanks and signs stand between words.

    Args:
        of: of a character that is neither.
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
    """What an uncased encoder (BERT's) sees of a text: words and punctuation marks in lower case, without accents."""
    return " ".join(unicodedata.normalize("NFD", text).translate(_SEEN).split())


def normalise(prompt: str) -> str:
    """The form under which two prompts are one fact's: what differs in blanks, in the case of its first letter, in closing
    punctuation or in what has no width is the same. Everything else is another fact's, and none may take the other's place."""
    tokens = _tokens(prompt)
    while len(tokens) > 1 and tokens[-1] in _CLOSING:
        tokens.pop()
    first = next((at for at, token in enumerate(tokens) if token[0].isalnum()), None)
    if first is not None:
        tokens[first] = tokens[first][0].lower() + tokens[first][1:]
    return " ".join(tokens)


def _tokens(text: str) -> list[str]:
    """Words as they are spelt, and signs."""
    return unicodedata.normalize("NFC", text).translate(_SPELT).split()


def address(key: Tensor, identity: str) -> Tensor:
    """The address (D,) float32 on its page of a fact with a key (D,): no two identities (`normalise`) have the same."""
    signs = np.frombuffer(hashlib.shake_256(identity.encode("utf-8", "surrogatepass")).digest(-(-len(key) // 8)), np.uint8)
    raw = key.numpy() + _SIGNS[signs].reshape(-1)[: len(key)] * np.float32(OWN / len(key) ** 0.5)
    return torch.from_numpy(raw / np.sqrt(raw @ raw))


def closeness(query: str, prompt: str) -> tuple[bool, int, int]:
    """How nearly a query spells a prompt, to be compared with that of others which an encoder sees alike: whether it is the same text,
    how many words are spelt the same, and how many but for case."""
    asked, stored = _tokens(query), _tokens(prompt)
    folded = {word.casefold() for word in asked} & {word.casefold() for word in stored}
    return normalise(query) == normalise(prompt), len({*asked} & {*stored}), len(folded)


def as_asked(prompt: str, query: str) -> str:
    """A prompt (NFC) as a query without accents spells its words: "José" is "Jose" to who types none. To who does, it is not."""
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
    """Whether it is one that people leave out: a diacritic, or a Hebrew or Arabic vowel; not an Indic or Thai vowel or a kana's voice."""
    return 10 <= (place := unicodedata.combining(mark)) <= 36 or place >= 200
