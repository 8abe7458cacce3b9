"""The bytes of a token, and where in a text it begins."""

from __future__ import annotations

from functools import cache

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from app.http.log_probs import TextOffsets, chat_log_probs, text_log_probs
from models.engine.decoder import Decoder
from models.engine.sampling import TokenLogProb
from tests.models import toys

TEXTS = [
    "plain ASCII",
    "Köln",
    "Привет",
    "北京",
    "日本語テキスト",
    "🚀 to 👩‍🚀",
    "नमस्ते",
    "สวัสดี",
    "مرحبا",
    "한국어",
    "e\u0301 and é",
    "a\ufffdb",
    " leads with a blank",
    "tab\tline\nend",
    "\u2028\u00a0\u200b",
    "𝔘𝔫𝔦 ∑∞",
]


@cache
def _fallback_decoder() -> Decoder:
    """Tokens as SentencePiece has them: ▁ for a blank, <0x41> for a byte; decoding takes the first blank away."""
    known = ["▁", "▁leads", "é", "北", "K", "ln", "a", "b", "<unk>"]
    vocabulary = {token: number for number, token in enumerate(known + [f"<0x{byte:02X}>" for byte in range(256)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    blanks = decoders.Replace("▁", " ")
    tokenizer.decoder = decoders.Sequence([blanks, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    model = toys.llama()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<unk>")
    return Decoder(model, fast, fingerprint="x", name="x")


def _decoder(kind: str) -> Decoder:
    return toys.decoder() if kind == "byte-level" else _fallback_decoder()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["byte-level", "byte fallback"])
def test_tokens_have_their_own_bytes_and_places(kind: str, text: str) -> None:
    decoder = _decoder(kind)
    ids = decoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = [decoder.token_bytes(token) for token in ids]
    said = decoder.text(ids)
    assert b"".join(pieces).removeprefix(b"" if kind == "byte-level" else b" ").decode() == said == text
    found = [TokenLogProb(token, -1.0, ((token, -1.0), (ids[0], -2.0))) for token in ids]

    for piece, token in zip(pieces, chat_log_probs(decoder, found)["content"], strict=True):
        assert bytes(token["bytes"]) == piece == bytes(token["top_logprobs"][0]["bytes"])
        assert token["token"] == piece.decode(errors="replace")
    told = text_log_probs(decoder, found, [0] * len(found))
    for piece, token, top in zip(pieces, told["tokens"], told["top_logprobs"], strict=True):
        assert token in top
        if token.startswith("bytes:"):
            assert bytes.fromhex(token.removeprefix("bytes:").replace("\\x", "")) == piece
            with pytest.raises(UnicodeDecodeError):
                piece.decode()
        else:
            assert token.encode() == piece

    offsets = TextOffsets(decoder)
    offsets.extend(ids)
    places = offsets.within(said)
    assert places == sorted(places) and places[0] == 0 and max(places) <= len(said)
    for piece, place, token in zip(pieces, places, told["tokens"], strict=True):
        if not token.startswith("bytes:") and piece.strip() and token.strip():
            assert said[place:].lstrip(" ").startswith(token.lstrip(" "))
    assert max(offsets.within(said[:3])) <= 3  # a stop text cut it


def test_a_token_whose_place_is_not_settled_waits() -> None:
    decoder = toys.decoder()
    offsets = TextOffsets(decoder)
    offsets.extend(decoder.tokens("a北bc"))
    assert [offsets.settled("a" * length) for length in range(4)] == [1, 4, 5, 6]
    assert offsets.within("a北bc") == [0, 1, 1, 1, 2, 3]
