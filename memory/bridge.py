"""Bridges: a question whose subject is itself what another fact answers.

"The capital of the country where Acme Towers is" asks for no stored fact. But one says where Acme Towers is (France), and with
its answer in the place of the words that ask for it, "The capital of France is", the question asks for a second one.
Which words those are is not known: every span around the first fact's subject is tried, and scope chooses.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from memory.episodic import EpisodicMemory
from memory.names import alike, content, lacking, names, places, words
from memory.query import Query, Reading

CANDIDATES = 4  # facts that are tried as the first of two
REACH = 8  # words that a span may take on either side of the subject


def bridges(memory: EpisodicMemory, queries: Sequence[Query], exclude: Collection[str] = ()) -> list[str]:
    """The questions that the queries become with the answers of the nearest facts in them.

    Raises:
        FactNotFound: an excluded id is unknown.
    """
    for fact_id in exclude:
        memory.get(fact_id)
    keys = torch.stack([query.key for query in queries])
    texts: dict[str, None] = {}
    for query, found in zip(queries, memory.nearest(keys, CANDIDATES + len(set(exclude))), strict=True):
        facts = [memory.get(fact_id) for fact_id, _ in found if fact_id not in exclude][:CANDIDATES]
        for fact in facts:
            texts |= dict.fromkeys(bridged(query.text, fact.prompt, fact.target))
    return list(texts)


def best(reading: Reading, further: Reading) -> Reading:
    """The reading of a prompt, or that of its bridges where it alone asks for nothing, or for what is less alike. (Not by the
    scores: who asks in many words gets the full one for the first fact, too.)"""
    if not further.in_scope or (reading.in_scope and reading.similarity >= further.similarity):
        return reading
    return further


def bridged(query: str, prompt: str, target: str) -> list[str]:
    """The query with the target in the place of each span of words that holds the prompt's subject, and of less than all that
    it is about; none if the subject is not in it. The subject are the prompt's names, or else the words that both have."""
    asked = places(query)
    subject = names(prompt) or content(prompt) & words(query)
    if not subject or lacking(subject, (word for word, _, _ in asked)):
        return []
    held = [at for at, (word, _, _) in enumerate(asked) if any(alike(word, name) for name in subject)]
    first, last = held[0], held[-1]
    found = []
    for start in range(max(0, first - REACH), first + 1):
        for end in range(last, min(len(asked), last + REACH + 1)):
            head, tail = query[: asked[start][1]], query[asked[end][2] :]
            if content(f"{head} {tail}"):
                found.append(f"{head}{target}{tail}")
    return found
