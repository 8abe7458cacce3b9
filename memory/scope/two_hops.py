"""Bridges: a question whose subject is itself what another fact answers.

"The capital of the country where Acme Towers is" asks for no stored fact. But one says where Acme Towers is (France), and with
its answer in the place of the words that ask for it, "The capital of France is", the question asks for a second one.
Which words those are is not known: spans around the first fact's subject are tried, and scope chooses. There are too many to try
all, so `BRIDGES` are: of each of the nearest pairs of a query and a fact in turns the span that shares most words with the fact.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain, islice, zip_longest

import torch

from memory.fact import Fact
from memory.query import Query, Reading
from memory.readable import Readable
from memory.scope.proper_names import alike, content, lacking, names, places, words

CANDIDATES = 4  # facts that are tried as the first of two
REACH = 8  # words that a span may take on either side of the subject
BRIDGES = 64  # questions that are tried, and pairs of a query and a fact that give them
LENGTH = 600  # characters of a query and an answer; what is longer is no question to put an answer in


def bridges(memory: Readable, queries: Sequence[Query], exclude: Collection[str] = ()) -> list[str]:
    """The questions that the queries become with the answers of the nearest facts in them, the most promising `BRIDGES`.

    Raises:
        FactNotFound: an excluded id is unknown.
    """
    for fact_id in exclude:
        memory.get(fact_id)
    keys = torch.stack([query.key for query in queries])
    pairs: list[tuple[float, str, Fact]] = []
    for query, found in zip(queries, memory.nearest(keys, CANDIDATES + len(set(exclude))), strict=True):
        near = [(similarity, memory.get(fact_id)) for fact_id, similarity in found if fact_id not in exclude][:CANDIDATES]
        pairs += [(similarity, query.text, fact) for similarity, fact in near]
    pairs.sort(key=lambda pair: -pair[0])
    tried = [bridged(text, fact.prompt, fact.target) for _, text, fact in pairs[:BRIDGES]]
    in_turns = dict.fromkeys(text for text in chain.from_iterable(zip_longest(*tried)) if text is not None)
    return list(islice(in_turns, BRIDGES))


def best(reading: Reading, further: Reading) -> Reading:
    """The reading of a prompt, or that of its bridges where it alone asks for nothing, or for what is less alike. (Not by the
    scores: who asks in many words gets the full one for the first fact, too.)"""
    if not further.in_scope or (reading.in_scope and reading.similarity >= further.similarity):
        return reading
    return further


def bridged(query: str, prompt: str, target: str) -> list[str]:
    """The query with the target in the place of each span of words that holds the prompt's subject, and of less than all that
    it is about, those first that share most words with the prompt; none if the subject is not in it. The subject are the prompt's
    names, or else the words that both have."""
    if len(query) + len(target) > LENGTH:
        return []
    asked, stored = places(query), words(prompt)
    subject = names(prompt) or content(prompt) & words(query)
    if not subject or lacking(subject, (word for word, _, _ in asked)):
        return []
    held = [at for at, (word, _, _) in enumerate(asked) if any(alike(word, name) for name in subject)]
    first, last = held[0], held[-1]
    found: list[tuple[float, str]] = []
    for start in range(max(0, first - REACH), first + 1):
        for end in range(last, min(len(asked), last + REACH + 1)):
            head, tail = query[: asked[start][1]], query[asked[end][2] :]
            if content(f"{head} {tail}"):
                span = {word for word, _, _ in asked[start : end + 1]}
                found.append((len(span & stored) / len(span | stored), f"{head}{target}{tail}"))
    return [text for _, text in sorted(found, key=lambda pair: -pair[0])]
