"""A prompt as the sentences that may ask for a fact: chat markup, labels and distractors taken apart."""

from __future__ import annotations

import re

MAX_SENTENCES = 16  # of a long prompt, the last ones: what is asked stands at the end

_MARKUP = re.compile(r"<\|[^|<>]{1,40}\|>(?:(?:system|user|assistant)\n)?|<(?:start|end)_of_turn>(?:(?:user|model)\n)?|\n+")
_LABEL = re.compile(r"^\s*(?:q|a|question|answer|user|human|assistant|instruction|response)\s*:\s*", re.IGNORECASE)
_TRAILING_LABEL = re.compile(r"\s+(?:a|answer|response|assistant)\s*:\s*$", re.IGNORECASE)
_END = re.compile(r"[.?!。？！][\"'”’)\]]*(?=\s)")
# A full stop after one of these, or after a single letter ("Wile E. Coyote"), ends no sentence.
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'])(?:[A-Z]|St|Dr|Mr|Mrs|Ms|Prof|Rev|Gen|Col|Capt|Lt|Sgt|Jr|Sr|Inc|Ltd|Co|Corp|Bros|Mt|Ft|No|Nr|vs|etc|"
    r"e\.g|i\.e|a\.m|p\.m|approx|dept|Fig|Vol|ext|tel|(?:[A-Z]\.)+[A-Z])\.$"
)


# What leads from a question to its answer ("It is", "They play") asks for nothing by itself.
_LEAD = re.compile(r"^(?:it|they|he|she|that|this|those|these|the answer|answer)\b(?:\s+\S+){0,4}$", re.IGNORECASE)


def clean(text: str) -> str:
    """A text without markup and labels, in one line."""
    stripped = _TRAILING_LABEL.sub("", _LABEL.sub("", _MARKUP.sub(" ", text)))
    return " ".join(stripped.split())


def split(prompt: str) -> list[str]:
    """The sentences of a prompt, last first limited to `MAX_SENTENCES`; and, when it is short, the whole of it.

    The whole comes first. A prompt without any visible text besides markup gives itself.
    """
    sentences = [s for part in _MARKUP.split(prompt) for s in _sentences(clean(part))]
    if len(sentences) > 1 and sentences[-2].endswith("?") and _LEAD.match(sentences[-1]):
        sentences.pop()
    whole = clean(prompt)
    queries = sentences[-MAX_SENTENCES:]
    if sentences != [whole] and len(whole) <= 300:
        queries = [whole, *queries]
    return list(dict.fromkeys(q for q in queries if q)) or [prompt.strip()]


def _sentences(text: str) -> list[str]:
    out, start = [], 0
    for end in _END.finditer(text):
        if text[end.start()] == "." and _ABBREVIATION.search(text[start : end.start() + 1]):
            continue
        out.append(text[start : end.end()].strip())
        start = end.end()
    return [s for s in (*out, text[start:].strip()) if s]
