"""Scope: does a query ask for a fact? It sees the query and the facts' prompts, never an answer.

    score = cosine(query key, fact key) − penalty · [both sides hold a name or number that the other lacks]
                                        + reward · [both hold names, and all of one side are on the other]

In scope iff the score reaches a threshold that rises with the logarithm of the number of facts, since the nearest of
many is nearer by chance. How the constants were chosen is in docs/experiments.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from memory.fact import Fact
from memory.names import lacking, names, words


@dataclass(frozen=True)
class ScopeDecision:
    """The best candidate's; `fact` is None only where there is no candidate."""

    in_scope: bool
    score: float
    threshold: float
    similarity: float
    fact: Fact | None


@dataclass(frozen=True)
class Scope:
    """The calibrated detector.

    Attributes:
        threshold: for one fact.
        rise: added for every tenfold number of facts.
        penalty, reward: for names that conflict or agree.
        candidates: how many of the nearest facts are looked at.
    """

    threshold: float = 0.52
    rise: float = 0.045
    penalty: float = 0.30
    reward: float = 0.10
    candidates: int = 4

    def threshold_for(self, facts: int) -> float:
        return self.threshold + self.rise * math.log10(max(1, facts))

    def score(self, query: str, prompt: str, similarity: float) -> float:
        """The score of one query sentence with one fact's prompt."""
        asked, stored = names(query), names(prompt)
        asked_words, stored_words = words(query), words(prompt)
        # A name is lacking only if the other side does not have it in lower case either.
        asked_only = lacking(asked, stored_words)
        stored_only = lacking(stored, asked_words)
        if asked_only and stored_only:
            return similarity - self.penalty
        if stored and not stored_only and not asked_only:
            return similarity + self.reward
        return similarity

    def decide(self, query: str, candidates: Sequence[tuple[Fact, float]], facts: int) -> ScopeDecision:
        """The best of the candidates (fact, cosine similarity) for one query sentence, among `facts` facts."""
        threshold = self.threshold_for(facts)
        best = ScopeDecision(False, -1.0, threshold, 0.0, None)
        for fact, similarity in candidates:
            score = self.score(query, fact.prompt, similarity)
            if best.fact is None or score > best.score:
                best = ScopeDecision(score >= threshold, score, threshold, similarity, fact)
        return best
