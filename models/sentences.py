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

_ASKING = r"who|whom|whose|what|what's|when|where|which|why|how|is|are|was|were|does|do|did|can|will"
_AND = re.compile(r"\s*,?\s+(?:and|or)\s+(?:so\s+)?", re.IGNORECASE)
# A clause asks by its first word ("is it open", "in which year …"), or by a word that asks anywhere in it ("the painting is by whom").
_BEGINS = re.compile(rf"^(?:(?:in|at|on|by|from|of|to|with|for|under|during)\s+)?(?:{_ASKING})\b", re.IGNORECASE)
_ASKS = re.compile(r"\b(?:who|whom|whose|what|when|where|which|why|how)(?:'s)?\b", re.IGNORECASE)
_LISTED = re.compile(
    r"^(what (?:is|are|was|were)|what's|tell me|give me|i need|show me)\s+(?:the|its|their)\s+((?:[\w-]+,\s*)*[\w-]+(?: [\w-]+)?)"
    r",?\s+and\s+(?:the\s+)?([\w-]+(?: [\w-]+)?)\s+((?:of|for|in|at)\s.+)$",
    re.IGNORECASE,
)
# What a first clause says besides its subject.
_SUBJECT = re.compile(rf"^(?:(?:and|so|please|tell me|do you know)\s+)*(?:(?:{_ASKING}|the|of)\s+)+", re.IGNORECASE)
_NAMED_LAST = re.compile(r"\s(?<!\bthe\s)([A-Z0-9][\w'’.&-]*(?:\s+(?:(?:of|the|de|von|van|&)\s+)*[A-Z0-9][\w'’.&-]*)*)[?.]?$")
_NAMED_FIRST = re.compile(r"(?:The\s+)?[A-Z0-9][\w'’.&-]*(?:\s+(?:(?:of|the|de|von|van|&)\s+)*[A-Z0-9][\w'’.&-]*)*")
_HEADING = re.compile(r"^\s*#+\s")
_THEY = re.compile(r"^(?:It|They|He|She)\b")
_THEIRS = re.compile(r"^(?:Its|Their|His|Her)\b")
_PRONOUN = re.compile(r"\b(?:it|its|they|them|their|he|him|his|she|her|(?<!\bis )(?<!\bare )(?<!\bwas )(?<!\bwere )there)\b", re.IGNORECASE)


def clean(text: str) -> str:
    """A text without markup and labels, in one line."""
    line = " ".join(_MARKUP.sub(" ", text).split())  # first: runs of spaces would cost the patterns the square of their length
    return _TRAILING_LABEL.sub("", _LABEL.sub("", line)).strip()


def split(prompt: str) -> list[str]:
    """The sentences of a prompt, last first limited to `MAX_SENTENCES`; and, when it is short, the whole of it.

    The whole comes first. A prompt without any visible text besides markup gives itself.
    """
    sentences = _all(prompt)
    whole = clean(prompt)
    queries = sentences[-MAX_SENTENCES:]
    if sentences != [whole] and len(whole) <= 300:
        queries = [whole, *queries]
    return list(dict.fromkeys(q for q in queries if q)) or [prompt.strip()]


def questions(prompt: str) -> list[str]:
    """The questions of a prompt that ends in several, each made to stand alone; empty where it ends in one.

    "Who runs Acme and where is it?" asks "Who runs Acme?" and "where is Acme?"; "What are the price and colour of X?" asks
    for each; and so do the last sentences, if they are questions one after the other.
    """
    parts = _all(prompt)
    asked: list[str] = []
    while parts and (parts[-1].endswith("?") or not asked):
        asked[:0] = _clauses(parts.pop())
    return asked if len(asked) > 1 else []


def standing_alone(text: str) -> list[tuple[str, str]]:
    """The sentences of a text, each with what it says of whom: a pronoun that begins it is replaced by what the text is about, the
    name at the beginning of its first sentence. Headings are left out."""
    sentences = [s for part in _MARKUP.split(text) if not _HEADING.match(part) for s in _sentences(clean(part))]
    about = _NAMED_FIRST.match(sentences[0]) if sentences else None
    if about is None:
        return [(sentence, sentence) for sentence in sentences]
    own = f"{about[0]}'" if about[0].endswith("s") else f"{about[0]}'s"
    named = [_THEIRS.sub(own, _THEY.sub(about[0], sentence, count=1), count=1) for sentence in sentences[1:]]
    return [(sentences[0], sentences[0]), *zip(named, sentences[1:], strict=True)]


def _clauses(sentence: str) -> list[str]:
    if listed := _LISTED.match(sentence):
        lead, first, second, rest = listed.groups()
        return [f"{lead} the {what} {rest}" for what in (*re.split(r",\s*", first), second)]
    clauses = _asking(sentence)
    named = _NAMED_LAST.search(clauses[0])
    subject = named[1] if named else _SUBJECT.sub("", clauses[0]).strip(" ?,.")
    return [clauses[0], *(_PRONOUN.sub(subject, clause, count=1) if subject else clause for clause in clauses[1:])]


def _asking(sentence: str) -> list[str]:
    """A sentence cut at the "and"s that lead to a question of their own: not at that of "Tom and Jerry"."""
    cuts = [*_AND.finditer(sentence)]
    begins, ends = [0, *(cut.end() for cut in cuts)], [*(cut.start() for cut in cuts), len(sentence)]
    clauses: list[str] = []
    start, asked = 0, False  # where the clause began, and whether it asks
    for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        piece = sentence[begin:end]
        opens, asks = _BEGINS.match(piece) is not None, _ASKS.search(piece) is not None
        if number and (opens or (asked and asks)):
            clauses.append(sentence[start : ends[number - 1]])
            start, asked = begin, False
        asked = asked or asks or (opens and begin == start)
    return [clause.strip(" ,") for clause in (*clauses, sentence[start:])]


def _all(prompt: str) -> list[str]:
    sentences = [s for part in _MARKUP.split(prompt) for s in _sentences(clean(part))]
    if len(sentences) > 1 and sentences[-2].endswith("?") and _LEAD.match(sentences[-1]):
        sentences.pop()
    return sentences


def _sentences(text: str) -> list[str]:
    out, start = [], 0
    for end in _END.finditer(text):
        if text[end.start()] == "." and _ABBREVIATION.search(text[max(start, end.start() - 40) : end.start() + 1]):
            continue
        if text[end.start()] == "!" and text[:1].isupper() and text[end.end() + 1 : end.end() + 2].islower():
            continue  # a title's: "What country did Sell Out! come from?"
        out.append(text[start : end.end()].strip())
        start = end.end()
    return [s for s in (*out, text[start:].strip()) if s]
