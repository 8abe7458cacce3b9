"""Log-probabilities as OpenAI's interface tells them: tokens, their bytes, and where in the text they begin."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

from models.engine.decoder import Decoder
from models.engine.sampling import TokenLogProb


class TextOffsets:
    """Where in a text its tokens begin, in characters; a token within a character begins where the character does."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._reader = decoder, codecs.getincrementaldecoder("utf-8")("replace")
        self._at, self._starts = 0, list[int]()

    def __len__(self) -> int:
        return len(self._starts)

    def extend(self, token_ids: Iterable[int]) -> None:
        """Further tokens."""
        for token in token_ids:
            raw = self._decoder.token_bytes(token)
            if not self._starts and raw.startswith(b" ") and not self._decoder.text([token]).startswith(" "):
                self._at = -1  # of these tokenizers' texts the first blank is taken away
            self._starts.append(max(self._at, 0))
            self._at += len(self._reader.decode(raw))

    def settled(self, text: str) -> int:
        """How many tokens begin within the text there is so far, or at its end."""
        return sum(start <= len(text) for start in self._starts)

    def within(self, text: str) -> list[int]:
        """The tokens' places, none beyond the text's end: a stop text is cut off, and its tokens stay."""
        return [min(start, len(text)) for start in self._starts]


def chat_log_probs(decoder: Decoder, found: Sequence[TokenLogProb]) -> dict[str, Any]:
    """Of a chat. Where a token's bytes are part of a character its text has U+FFFD in their place; `bytes` has them."""

    def token(token_id: int, log_prob: float) -> dict[str, Any]:
        raw = decoder.token_bytes(token_id)
        return {"token": raw.decode(errors="replace"), "logprob": log_prob, "bytes": list(raw)}

    return {"content": [token(p.token_id, p.log_prob) | {"top_logprobs": [token(*other) for other in p.top]} for p in found]}


def text_log_probs(decoder: Decoder, found: Sequence[TokenLogProb], offsets: Sequence[int]) -> dict[str, Any]:
    """Of a completion, which has no `bytes`: a token that is part of a character is written `bytes:\\xe5\\x8c`."""

    def token(token_id: int) -> str:
        raw = decoder.token_bytes(token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    tops = [{token(i): value for i, value in p.top} for p in found]
    return {
        "tokens": [token(p.token_id) for p in found],
        "token_logprobs": [p.log_prob for p in found],
        "top_logprobs": tops,
        "text_offset": list(offsets),
    }
