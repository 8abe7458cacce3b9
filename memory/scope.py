"""Scope: does a query ask for a fact? It sees the query, and of the facts their prompts and targets; never an answer.

    score = likeness                                  cosine of the two sentence vectors
          − 0.15 · conflict                           both hold a name or number that the other lacks, or words that
                                                      exclude each other ("left" and "right")
          + 0.20 · agreement                          both hold names, and all of the fact's are in the query
          − (0.20 + 0.50 · frame²) · frame            how much of the two is one frame (memory.frame), if they conflict or
                                                      each has content words of its own: the same sentence with a part
                                                      exchanged asks for something else
          + 0.14 · news · likeness²                   content words that only the query has, at most 4, names left out: who
                                                      asks in really different words is far from the fact's words, too,
                                                      and yet near in meaning; at most what the likeness lacks
          − 0.25 · misfit                             the query wants another kind of answer ("who" does not fit a date)

In scope iff the score reaches a threshold that rises with the number of facts, since the nearest of many is nearer by
chance. How the constants were chosen is in docs/experiments.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from memory.contrast import contrasts
from memory.expectation import misfits
from memory.fact import Fact
from memory.frame import shared_frame
from memory.names import content, lacking, names, sequence, words


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
        rise: how much higher it is for many.
        conflict, agreement, frame, whole_frame, news, misfit: weights of the score's terms.
        candidates: how many of the nearest facts are looked at.
        meaning: width of the keys' first part, the sentence vector. 0: the likeness is the keys' cosine.
    """

    threshold: float = 0.61
    rise: float = 0.07
    conflict: float = 0.15
    agreement: float = 0.20
    frame: float = 0.20
    whole_frame: float = 0.50
    news: float = 0.14
    misfit: float = 0.25
    candidates: int = 4
    meaning: int = 0

    def threshold_for(self, facts: int) -> float:
        return self.threshold + self.rise * (1.0 - 1.0 / math.sqrt(max(1, facts)))

    def score(self, query: str, prompt: str, target: str, likeness: float) -> float:
        """The score of one query sentence with one fact."""
        asked, stored = words(query), words(prompt)
        # A name is lacking only if the other side does not have it in lower case either.
        named = names(prompt)
        asked_names = names(query)
        ours, theirs = lacking(asked_names, stored), lacking(named, asked)
        score = likeness
        conflict = bool(ours and theirs) or contrasts(asked, stored)
        if conflict:
            score -= self.conflict
        elif named and not ours and not theirs:
            score += self.agreement
        about, stored_about = content(query), content(prompt)
        new, missing = lacking(about, stored_about), lacking(stored_about, about)
        if conflict or (new and missing):
            shared = shared_frame(query, prompt)
            score -= (self.frame + self.whole_frame * shared**2) * shared
        score += min(self.news * min(4, len(set(new) - asked_names)) * max(0.0, likeness) ** 2, max(0.0, 1.0 - likeness))
        return score - self.misfit * misfits(query, prompt, target)

    def likeness(self, query: Tensor, fact: Fact, similarity: float) -> float:
        """Cosine of the meaning of two keys (D,)."""
        if not self.meaning:
            return similarity
        ours, theirs = query[: self.meaning], fact.key[: self.meaning]
        return float(ours @ theirs / (ours.norm() * theirs.norm()).clamp_min(1e-12))

    def decide(
        self,
        query: str,
        candidates: Sequence[tuple[Fact, float]],
        facts: int,
        key: Tensor | None = None,
        threshold: float | None = None,
    ) -> ScopeDecision:
        """The best of the candidates (fact, cosine similarity) for one query sentence, among `facts` facts.

        Args:
            key: (D,) of the query; without it the similarities are taken as they are.
            threshold: instead of the calibrated one.
        """
        threshold = self.threshold_for(facts) if threshold is None else threshold
        best, highest, asked = ScopeDecision(False, -1.0, threshold, 0.0, None), (False, -math.inf), sequence(query)
        for fact, similarity in candidates:
            likeness = similarity if key is None else self.likeness(key, fact, similarity)
            score = self.score(query, fact.prompt, fact.target, likeness)
            rank = (sequence(fact.prompt) == asked, score)  # no other fact comes before the one whose own words these are
            if best.fact is None or rank > highest:
                best, highest = ScopeDecision(score >= threshold, score, threshold, similarity, fact), rank
        return best
